"""Damage to the words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from roboalign_core.benchmark.degradations import DEGRADATIONS
from roboalign_core.benchmark.degradations.meaning import shared_words
from roboalign_core.episodes import Episode
from roboalign_core.errors import RoboAlignError

SWAP = DEGRADATIONS["instruction_swap"]
Push = Callable[..., Episode]


def test_only_the_words_change(push: Push, pool: Any) -> None:
    episode = push(0)
    for strength in (0.01, 0.5, 1.0):
        swapped = SWAP.apply(episode, strength, np.random.default_rng(0), pool)
        assert swapped.instruction in pool.words
        assert swapped.frames is episode.frames
        assert swapped.actions is episode.actions


def test_strong_swaps_share_fewer_words(curve: Callable[..., np.ndarray]) -> None:
    foreign = curve("instruction_swap", lambda one, recorded: 1 - shared_words(one.instruction, recorded.instruction))
    assert (np.diff(foreign) >= 0).all(), foreign
    assert foreign[0] == 0 < foreign[1] < foreign[-1]


def test_any_other_instruction_is_a_failure() -> None:
    np.testing.assert_allclose(SWAP.losses(0.001), [2.001, 2, 0, 0, 0, 0])
    np.testing.assert_allclose(SWAP.losses(1.0), [3, 2, 0, 0, 0, 0])


def test_a_pool_that_returns_the_same_words_is_refused(push: Push) -> None:
    class Parrot:
        def donor(self, episode: Episode, rng: np.random.Generator) -> Episode:
            return episode

        def instruction(self, episode: Episode, rng: np.random.Generator) -> str:
            return episode.instruction

    with pytest.raises(RoboAlignError, match="expected other instructions from the pool"):
        SWAP.apply(push(0), 1.0, np.random.default_rng(0), Parrot())
