"""What a degradation is: a change of an episode whose size is one number, and what that takes from the six scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes import Episode
from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import DIMENSIONS, HIGHEST, KEYS

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_SUCCESS = KEYS.index("manipulation_success")


class Pool(Protocol):
    """What a degradation may draw from besides its episode."""

    def donor(self, episode: Episode, rng: np.random.Generator) -> Episode:
        """Another episode than ``episode``, of the same geometry and columns (of one store)."""

    def instruction(self, episode: Episode, rng: np.random.Generator) -> str:
        """An instruction that ``episode`` does not fulfil."""


Change = Callable[[Episode, float, np.random.Generator, Pool], Episode]
Check = Callable[[Episode], str | None]


@dataclass(frozen=True, slots=True)
class Degradation:
    """One way to damage an episode.

    Attributes:
        name: in tables and files.
        family: what it damages: temporal, appearance, objects, contacts or meaning.
        summary: what it does, and what its strength means.
        change: makes the damage; called with a strength above 0.
        takes: for each dimension that suffers, what is lost at each of ``STRENGTHS``; linear in between. The first is
            what any strength above 0 takes, however small; strength 0 takes nothing.
        checks: each says why it cannot be applied to an episode, or None.

    Raises:
        RoboAlignError: ``takes`` names an unknown dimension, shrinks with strength, or leaves a dimension's range.
    """

    name: str
    family: str
    summary: str
    change: Change
    takes: Mapping[str, Sequence[float]]
    checks: tuple[Check, ...] = ()

    def __post_init__(self) -> None:
        for key, knots in self.takes.items():
            known = key in KEYS and len(knots) == len(STRENGTHS)
            if not known or knots[0] < 0 or (np.diff(knots) < 0).any() or knots[-1] > HIGHEST[KEYS.index(key)]:
                raise RoboAlignError(
                    f"degradation {self.name}: expected {len(STRENGTHS)} rising losses within the range of one of "
                    f"{', '.join(KEYS)}, found {key}: {tuple(knots)}"
                )

    def reason_not(self, episode: Episode) -> str | None:
        """Why it cannot be applied to an episode; None if it can."""
        return next((reason for check in self.checks if (reason := check(episode))), None)

    def apply(self, episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
        """Damage an episode.

        Per-frame rows go where their frames go, and boxes follow what is drawn; everything else in the extras is as
        recorded. A success that is lost for certain becomes false, one that is in doubt becomes unknown.

        Args:
            episode: is left as it is.
            strength: 0 (the episode itself comes back) to 1.
            rng: of all draws; the same state gives the same damage.
            pool: where other episodes and instructions come from.

        Raises:
            RoboAlignError: the strength is out of range, or `reason_not` has a reason.
        """
        losses = self.losses(strength)
        if reason := self.reason_not(episode):
            raise RoboAlignError(f"degradation {self.name}: expected an episode that it can be applied to: {reason}")
        if strength == 0:
            return episode
        damaged = self.change(episode, strength, rng, pool)
        return replace(damaged, success=_success(episode.success, float(losses[_SUCCESS])))

    def losses(self, strength: float) -> NDArray[np.float32]:
        """What it takes from a perfect score: (6,) float32 >= 0 in the order of ``DIMENSIONS``.

        Raises:
            RoboAlignError: the strength is not in [0, 1].
        """
        if not 0 <= strength <= 1:
            raise RoboAlignError(f"degradation {self.name}: strength: expected 0 to 1, found {strength!r}")
        if strength == 0:
            return np.zeros(len(DIMENSIONS), np.float32)
        nothing = (0.0,) * len(STRENGTHS)
        return np.array([np.interp(strength, STRENGTHS, self.takes.get(key, nothing)) for key in KEYS], np.float32)


def at_least(length: int) -> Check:
    """A check that an episode has at least so many frames."""

    def too_short(episode: Episode) -> str | None:
        return f"expected at least {length} frames, found {len(episode)}" if len(episode) < length else None

    return too_short


def something_happens(episode: Episode) -> str | None:
    """A check that not all frames are the same."""
    return None if (episode.frames != episode.frames[:1]).any() else "all its frames are the same"


def is_instructed(episode: Episode) -> str | None:
    """A check that an episode has an instruction."""
    return None if episode.instruction else "it has no instruction"


def at_times(episode: Episode, index: NDArray[np.intp]) -> Episode:
    """The frames ``index`` of an episode with their rows."""
    return replace(
        episode,
        frames=episode.frames[index],
        actions=episode.actions[index],
        extras={name: rows[index] for name, rows in episode.extras.items()},
    )


def _success(before: bool | None, lost: float) -> bool | None:
    """What is known of the success once ``lost`` of its score's 2 are gone."""
    if not lost or before is False:
        return before
    return False if lost >= (1 if before else 2) else None
