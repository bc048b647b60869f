"""What can be wrong with any sequence of states: jumps, flights, motion without a touch, commands without effect."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roboalign_core.rubric import HIGHEST, KEYS
from roboalign_sim.state_oracle.thresholds import HORIZON, SAME_WAY, TWICE

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

ACTION, TEMPORAL, CONTACT, PHYSICS = KEYS[2:]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that costs marks.

    Attributes:
        key: of the dimension.
        frame: the first frame that shows it.
        loss: marks.
        what: in words.
    """

    key: str
    frame: int
    loss: int
    what: str


def marks(findings: Iterable[Finding]) -> npt.NDArray[np.float32]:
    """The scores (6,) float32 that findings leave: the highest less the worst finding of each dimension."""
    scores = HIGHEST.copy()
    for finding in findings:
        column = KEYS.index(finding.key)
        scores[column] = min(scores[column], HIGHEST[column] - finding.loss)
    return scores


@dataclass(frozen=True, slots=True)
class Motion:
    """How one thing moves.

    Attributes:
        name: in words.
        steps: (T - 1, D) m, from each frame to the next.
        limit: (T - 1,) m, or one number: the longest step that physics allows.
    """

    name: str
    steps: Array
    limit: Array | float

    @property
    def excess(self) -> Array:
        """(T - 1,) the steps' lengths in units of the limit."""
        return np.asarray(np.linalg.norm(self.steps, axis=1) / self.limit)

    @property
    def too_far(self) -> Flags:
        """(T - 1,) where a step is longer than physics allows."""
        return np.asarray(self.excess > 1.0)

    def findings(self) -> list[Finding]:
        """Jumps cost temporal consistency; fast motion that goes on costs physics adherence."""
        flights = self.too_far & (self._goes_on(1) | self._goes_on(-1))
        jumps = self.too_far & ~flights
        found = []
        if jumps.any():
            found.append(Finding(TEMPORAL, first(jumps), 1, f"the {self.name} jumps"))
        if flights.any():
            loss = 1 + bool(self.excess[flights].max() > TWICE)
            found.append(Finding(PHYSICS, first(flights), loss, f"the {self.name} is too fast"))
        return found

    def within(self, whole: Flags) -> Motion:
        """Without the steps (T - 1,) to and from frames in which something is not there."""
        return Motion(self.name, np.where(whole[:, None], self.steps, 0.0), self.limit)

    def _goes_on(self, where: int) -> Flags:
        """Where the step after (1) or before (-1) is too long in the same direction, too."""
        other = np.roll(self.steps, -where, axis=0)
        other[-1 if where > 0 else 0] = 0.0
        along = (self.steps * other).sum(axis=1)
        lengths = np.linalg.norm(self.steps, axis=1) * np.linalg.norm(other, axis=1)
        neighbour = np.roll(self.too_far, -where)
        neighbour[-1 if where > 0 else 0] = False
        return np.asarray(neighbour & (along > SAME_WAY * lengths))


def drifted(places: Array, where: Flags, limit: float) -> int | None:
    """The first frame at which something has moved although it should not have.

    Args:
        places: (T, D) m.
        where: (T - 1,) the steps in which it should not move.
        limit: m that it may be from where such steps began.
    """
    begin = 0
    for step, still in enumerate(where):
        if not still:
            begin = step + 1
        elif np.linalg.norm(places[step + 1] - places[begin]) > limit:
            return step + 1
    return None


def disobeyed(
    finger: Array, free: Flags, lead: Callable[[Array, npt.NDArray[np.int64]], Array], limit: float
) -> int | None:
    """The first frame at which the finger is not where the commands lead.

    Commands are followed from every frame for up to ``HORIZON`` frames, as long as nothing is in the finger's way.

    Args:
        finger: (T, 3) m.
        free: (T - 1,) the steps in which nothing is in its way.
        lead: from places (N, 3) and the rows (N,) of the actions taken there to the places that they lead to.
        limit: m that it may be off.
    """
    starts = np.arange(len(free))
    expected, wrong = finger[:-1].copy(), list[int]()
    for ahead in range(HORIZON):
        rows = starts + ahead
        going = rows < len(free)
        going[going] = free[rows[going]]
        starts, expected, rows = starts[going], expected[going], rows[going]
        expected = lead(expected, rows)
        off = np.linalg.norm(expected - finger[rows + 1], axis=1) > limit
        wrong += [int(row) + 1 for row in rows[off]]
    return min(wrong, default=None)


def running_median(values: Array, frames: int) -> Array:
    """The median over ``frames`` (odd) around each row, over fewer at the ends; the values themselves for 1."""
    if frames == 1:
        return values
    half = frames // 2
    rows = [np.median(values[max(row - half, 0) : row + half + 1], axis=0) for row in range(len(values))]
    return np.asarray(rows)


def graded(amount: Array, minor: float, severe: float, what: str) -> list[Finding]:
    """A finding where an amount (T,) exceeds what is minor, by a mark more where it exceeds what is severe."""
    if amount.max() <= minor:
        return []
    return [Finding(PHYSICS, int(np.argmax(amount > minor)), 1 + bool(amount.max() > severe), what)]


def first(where: Flags) -> int:
    """The frame after the first step that is flagged."""
    return int(np.argmax(where)) + 1
