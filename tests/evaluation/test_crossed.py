"""Intervals over seeds and episodes: exact where nothing differs, wider where seeds do."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.crossed import Crossed
from roboalign_core.evaluation.statistics import bootstrap_mean

CROSSED = Crossed(resamples=2000, seed=0)


def values(seeds: int, between: float, within: float = 1.0, episodes: int = 40, seed: int = 0) -> np.ndarray:
    """(S, E) around 5: seeds differ by ``between``, episodes by ``within``."""
    random = np.random.default_rng(seed)
    return 5 + between * random.normal(size=(seeds, 1)) + within * random.normal(size=(seeds, episodes))


def test_what_is_the_same_differs_by_exactly_nothing() -> None:
    same = values(3, 1.0)
    for compare in (CROSSED.difference, CROSSED.change_pct):
        found = compare(same, same.copy())
        assert (found.value, found.low, found.high) == (0, 0, 0)


def test_one_seed_is_the_bootstrap_over_episodes() -> None:
    data = values(1, 0.0)
    found, known = CROSSED.mean(data), bootstrap_mean(data[0])
    assert found.value == known.value
    assert found.low == pytest.approx(known.low, abs=0.03)
    assert found.high == pytest.approx(known.high, abs=0.03)


def test_seeds_that_differ_widen_the_interval() -> None:
    """Episodes that are all alike: over one seed nothing is left to doubt, over several the seeds are."""
    seeds = np.array([[1.0], [2.0], [3.0], [6.0]]).repeat(30, axis=1)
    alone = CROSSED.mean(seeds[:1])
    assert (alone.low, alone.high) == (1, 1)
    found = CROSSED.mean(seeds)
    assert found.value == 3
    error = seeds[:, 0].std() / 2
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_both_levels_count() -> None:
    both, episodes = values(6, 1.0), values(6, 0.0)
    wide, narrow = CROSSED.mean(both), CROSSED.mean(episodes)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_seeds_of_one_number_are_compared_seed_by_seed() -> None:
    theirs = values(4, 3.0, 0.1)
    paired = CROSSED.difference(theirs + 0.5, theirs)
    assert paired.value == pytest.approx(0.5)
    assert paired.high - paired.low < 1e-6, "each seed gained the same"
    apart = CROSSED.difference(theirs + 0.5, theirs[:3])
    assert apart.high - apart.low > 1, "which seeds there are matters where they are not the same on both sides"


def test_a_change_is_in_per_cent_of_the_reference() -> None:
    found = CROSSED.change_pct(np.full((2, 5), 8.8), np.full((1, 5), 8.0))
    assert (found.value, found.low, found.high) == pytest.approx((10, 10, 10))


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        (np.ones((1, 3)), np.ones((1, 4)), "the same episodes, found 3 and 4"),
        (np.ones(3), np.ones((1, 3)), r"values \(S, E\)"),
        (np.ones((0, 3)), np.ones((1, 3)), r"values \(S, E\)"),
        (np.array([[1.0, np.nan]]), np.ones((1, 2)), "found 1 of 2 that are not"),
    ],
)
def test_what_cannot_be_compared_is_refused(ours: np.ndarray, theirs: np.ndarray, said: str) -> None:
    with pytest.raises(RoboAlignError, match=said):
        CROSSED.difference(ours, theirs)


def test_per_cent_of_nothing_is_refused() -> None:
    with pytest.raises(RoboAlignError, match="expected a positive mean, found 0"):
        CROSSED.change_pct(np.ones((1, 3)), np.zeros((1, 3)))
