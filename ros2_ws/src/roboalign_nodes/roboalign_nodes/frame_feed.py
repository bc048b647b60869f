"""Which camera frame belongs to which control step, and which frames were lost on the way."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_UNMATCHED = 64  # frames or announcements that may wait for their counterpart


@dataclass(frozen=True, slots=True)
class StepKey:
    """A control step of an episode; later steps are greater."""

    episode: int
    step: int

    def after(self, other: StepKey) -> bool:
        """Whether this step comes later."""
        return (self.episode, self.step) > (other.episode, other.step)

    def __str__(self) -> str:
        return f"episode {self.episode} step {self.step}"


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """A frame (H, W, 3) uint8 with the step that it shows."""

    key: StepKey
    frame: npt.NDArray[np.uint8]


class FrameFeed:
    """Pairs frames, which may get lost, with announcements of steps, which do not; in either order of arrival.

    A robot announces every step (episode, step, stamp) reliably and sends the frame of the same stamp as sensor data.
    Matched frames of the newest episode wait in order until :meth:`take` hands them out. Not safe for threads: the
    owner holds a lock.

    Args:
        capacity: matched frames that may wait, 2 or more; beyond it the oldest but the first is let go.

    Attributes:
        received: frames that arrived and were matched.
        dropped: frames that were announced and did not arrive.
        restarts: how often the robot began to count anew.
    """

    def __init__(self, capacity: int = 64) -> None:
        self._announced: OrderedDict[int, StepKey] = OrderedDict()
        self._unmatched: OrderedDict[int, npt.NDArray[np.uint8]] = OrderedDict()
        self._waiting: deque[SeenFrame] = deque()
        self._capacity = capacity
        self._newest: StepKey | None = None  # of the frames
        self._newest_stamp_ns = 0
        self._missed: set[StepKey] = set()
        self.received = 0
        self.dropped = 0
        self.restarts = 0

    @property
    def newest(self) -> StepKey | None:
        """The latest step whose frame arrived."""
        return self._newest

    def announce(self, key: StepKey, stamp_ns: int) -> None:
        """A step was executed; its frame carries this stamp. Repeated announcements change nothing."""
        if self._newest is not None and not key.after(self._newest):
            if stamp_ns <= self._newest_stamp_ns:
                return
            self._restart()
        self._announced[stamp_ns] = key
        frame = self._unmatched.pop(stamp_ns, None)
        if frame is not None:
            self._match(stamp_ns, frame)
        while len(self._announced) > _UNMATCHED:
            self._count_missed(self._announced.popitem(last=False)[1])

    def add(self, frame: npt.NDArray[np.uint8], stamp_ns: int) -> None:
        """A frame arrived. A repeated frame changes nothing."""
        if stamp_ns in self._announced:
            self._match(stamp_ns, frame)
            return
        self._unmatched[stamp_ns] = frame
        while len(self._unmatched) > _UNMATCHED:
            self._unmatched.popitem(last=False)

    def expired(self, key: StepKey) -> None:
        """Somebody waited for this step's frame for too long: count it as lost, once."""
        if self._newest is None or key.after(self._newest):
            self._count_missed(key)

    def take(self, until: StepKey | None = None) -> list[SeenFrame]:
        """Hand out the frames up to and including ``until`` (None: all), oldest first."""
        taken: list[SeenFrame] = []
        while self._waiting and (until is None or not self._waiting[0].key.after(until)):
            taken.append(self._waiting.popleft())
        return taken

    def put_back(self, frames: Sequence[SeenFrame], restarts: int) -> None:
        """Frames that were taken and not used wait again, before all others, unless their episode was overtaken.

        Args:
            frames: the newest of what :meth:`take` handed out, oldest first, one or more.
            restarts: as it was then.
        """
        if restarts == self.restarts and self._newest is not None and frames[0].key.episode == self._newest.episode:
            self._waiting.extendleft(reversed(frames))
            self._let_go()

    def _match(self, stamp_ns: int, frame: npt.NDArray[np.uint8]) -> None:
        key = self._announced.pop(stamp_ns)
        for stamp, earlier in list(self._announced.items()):
            if key.after(earlier):  # a frame of a later step is here, so this one will not come
                self._count_missed(self._announced.pop(stamp))
        if self._newest is not None and key.episode != self._newest.episode:
            self._waiting.clear()
        self._newest, self._newest_stamp_ns = key, stamp_ns
        self.received += 1
        self._waiting.append(SeenFrame(key, frame))
        self._let_go()

    def _let_go(self) -> None:
        while len(self._waiting) > self._capacity:
            del self._waiting[1]  # the first is what the episode is measured from

    def _restart(self) -> None:
        """Steps are counted anew although time went on: another robot process has taken over."""
        self._announced.clear()
        self._waiting.clear()
        self._missed.clear()
        self._newest = None
        self.restarts += 1

    def _count_missed(self, key: StepKey) -> None:
        if key not in self._missed:
            self._missed.add(key)
            self.dropped += 1
