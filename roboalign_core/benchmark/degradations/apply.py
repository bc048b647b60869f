"""All degradations by name, and several of them on one video."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from roboalign_core.benchmark.degradations import appearance, contacts, meaning, objects, temporal
from roboalign_core.benchmark.degradations.degradation import Degradation, Pool
from roboalign_core.benchmark.pairs import Applied
from roboalign_core.episodes import Episode
from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import HIGHEST, Scores

DEGRADATIONS: Mapping[str, Degradation] = MappingProxyType(
    {one.name: one for one in (*temporal.ALL, *appearance.ALL, *objects.ALL, *contacts.ALL, *meaning.ALL)}
)
MEANING = frozenset(one.name for one in meaning.ALL)  # those that change the words alone


def degrade(
    episode: Episode, scores: ArrayLike, applied: Sequence[Applied], pool: Pool
) -> tuple[Episode, NDArray[np.float32]]:
    """Damage an episode in one or several ways, one after another.

    Args:
        episode: is left as it is.
        scores: (6,) of the episode as it is, in the order of ``DIMENSIONS``.
        applied: what to do; each draws from its own seed.
        pool: where other episodes and instructions come from.

    Returns:
        The damaged episode, and its scores (6,) float32; see `kept`.

    Raises:
        RoboAlignError: an unknown degradation, a strength or score out of range, or an episode (as the degradations
            before left it) that a degradation cannot be applied to.
    """
    left = Scores(np.array([scores], np.float32)).raw[0].copy()
    for one in applied:
        episode = _apply(episode, one, pool)
        left = kept(left, DEGRADATIONS[one.name].losses(one.strength))
    return episode, left


def reason_not(episode: Episode, applied: Sequence[Applied], pool: Pool) -> str | None:
    """Why degradations cannot be applied to an episode one after another; None if they can.

    One may leave nothing for the next: no frames, or no object that moves. So all but the last are applied.

    Raises:
        RoboAlignError: an unknown degradation, or a strength out of range.
    """
    for number, one in enumerate(applied, 1):
        if reason := _known(one).reason_not(episode):
            return f"{one.name}: {reason}"
        if number < len(applied):
            episode = _apply(episode, one, pool)
    return None


def kept(scores: NDArray[np.float32], losses: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores after losses: each loss takes its share of what is there.

    ``score · (1 − loss / highest)``. From a perfect score this is plain subtraction; scores never fall below 0, the
    order does not matter, and a second defect of one dimension takes less than the first: a scale's steps name the
    worst that is seen, so two minor violations are not a severe one.

    Args:
        scores: (6,) or (B, 6).
        losses: (6,), as of `Degradation.losses`.
    """
    remaining: NDArray[np.float32] = (scores * (1 - losses / HIGHEST)).astype(np.float32)
    return remaining


def _apply(episode: Episode, one: Applied, pool: Pool) -> Episode:
    return _known(one).apply(episode, one.strength, np.random.default_rng(one.seed), pool)


def _known(one: Applied) -> Degradation:
    if one.name not in DEGRADATIONS:
        raise RoboAlignError(f"degradation: expected one of {', '.join(DEGRADATIONS)}, found {one.name!r}")
    return DEGRADATIONS[one.name]
