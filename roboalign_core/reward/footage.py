"""The video of an episode so far, or of its newest frames, ready to be continued in many ways."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from roboalign_core.reward.summary import check_video, chosen, small

Frames = NDArray[np.uint8]


class Footage:
    """Frames seen so far; of each possible continuation it makes what the student looks at.

    That is the :func:`~roboalign_core.reward.summary.summarise` of both as one video, but what lies in the past is
    resized and compared once, however many continuations there are. It holds two small frames for each frame kept.

    Args:
        size: (H, W) that frames are resized to.
        count: frames that a summary has at most.
        keep: newest frames that the video begins with; 0: all that were seen.
    """

    def __init__(self, size: tuple[int, int], count: int, keep: int = 0) -> None:
        self._size, self._count = size, count
        self._frames: deque[Frames] = deque(maxlen=keep or None)
        self._changes: deque[Frames] = deque(maxlen=keep - 1 if keep else None)  # from one kept frame to the next

    def __len__(self) -> int:
        """Frames kept."""
        return len(self._frames)

    def add(self, frame: Frames) -> None:
        """The next frame, (H, W, 3) uint8 of any size; it is copied.

        Raises:
            RoboAlignError: it is no image.
        """
        check_video(frame[None] if isinstance(frame, np.ndarray) else frame, "frame")
        new = small(frame[None], self._size)[0].copy()
        if self._frames:
            self._changes.append(_difference(new, self._frames[-1]))
        self._frames.append(new)

    def continued(self, futures: Frames) -> Frames:
        """Continuations (N, T, H, W, 3) uint8 of what was seen → summaries (N, 2, F, h, w, 3) uint8.

        Raises:
            RoboAlignError: no images.
        """
        check_video(futures.reshape(-1, *futures.shape[2:]), "futures")
        later = small(futures.reshape(-1, *futures.shape[2:]), self._size).reshape(*futures.shape[:2], *self._size, 3)
        past = len(self._frames)
        picked = chosen(past + later.shape[1], self._count)
        result = np.zeros((len(later), 2, len(picked), *self._size, 3), np.uint8)
        for place, index in enumerate(picked):
            result[:, 0, place] = self._frames[index] if index < past else later[:, index - past]
        changes = self._later_changes(later)
        for place in range(1, len(picked)):
            self._largest(changes, picked[place - 1], picked[place], result[:, 1, place])
        return result

    def _later_changes(self, later: Frames) -> Frames:
        """Changes (N, T, h, w, 3) of the frames that are not seen yet, each from the frame before."""
        before = np.empty_like(later)
        before[:, 1:] = later[:, :-1]
        before[:, 0] = self._frames[-1] if self._frames else later[:, 0]
        return _difference(later, before)

    def _largest(self, later: Frames, first: int, last: int, result: Frames) -> None:
        """Into ``result`` (N, h, w, 3): the largest changes after frame ``first`` and up to frame ``last``."""
        past = len(self._frames)
        for index in range(first, min(last, past - 1)):  # the change into frame index + 1
            np.maximum(result, self._changes[index], out=result)
        for index in range(max(first + 1, past), last + 1):
            np.maximum(result, later[:, index - past], out=result)


def _difference(new: Frames, old: Frames) -> Frames:
    """Absolute difference of uint8, channel by channel."""
    return np.asarray(np.maximum(new, old) - np.minimum(new, old))
