"""Damage to the words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from roboalign_core.benchmark.degradations.degradation import Degradation, Pool, is_instructed
from roboalign_core.episodes import Episode
from roboalign_core.errors import RoboAlignError

_DRAWN = 8  # instructions to choose from: enough that the nearest and the farthest differ


def instruction_swap(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """Another instruction; the stronger, the fewer words it shares with the right one. No frame changes."""
    drawn = [pool.instruction(episode, rng) for _ in range(_DRAWN)]
    if not all(drawn) or episode.instruction in drawn:
        raise RoboAlignError(f"degradation instruction_swap: expected other instructions from the pool, found {drawn}")
    drawn.sort(key=lambda text: shared_words(text, episode.instruction), reverse=True)
    return replace(episode, instruction=drawn[round(strength * (_DRAWN - 1))])


def shared_words(one: str, other: str) -> float:
    """Words that both have, as a share of those that either has."""
    mine, theirs = set(one.lower().split()), set(other.lower().split())
    return len(mine & theirs) / max(len(mine | theirs), 1)


ALL = (
    Degradation(
        "instruction_swap",
        "meaning",
        "The right video with the words of another; the stronger, the fewer words they share.",
        instruction_swap,
        {"instruction_following": (2, 2.25, 2.5, 2.75, 3), "manipulation_success": (2, 2, 2, 2, 2)},
        (is_instructed,),
    ),
)
