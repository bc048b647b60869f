"""Orders, and intervals over groups of rows that belong together."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.ranking import auc, pairwise_accuracy, ranks, spearman
from roboalign_core.evaluation.statistics import bootstrap_groups, bootstrap_mean


def test_ties_share_their_rank() -> None:
    np.testing.assert_array_equal(ranks(np.array([3.0, 1.0, 3.0, 2.0])), [3.5, 1.0, 3.5, 2.0])


def test_spearman_against_a_worked_example() -> None:
    iq = np.array([106, 100, 86, 101, 99, 103, 97, 113, 112, 110.0])
    hours = np.array([7, 27, 2, 50, 28, 29, 20, 12, 6, 17.0])
    assert spearman(iq, hours) == pytest.approx(-29 / 165)
    assert spearman(iq, iq**3) == pytest.approx(1)
    assert spearman(iq, -iq) == pytest.approx(-1)
    assert np.isnan(spearman(iq, np.ones(10)))


def test_auc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    positive, scores = random.random(60) < 0.3, random.integers(0, 8, 60).astype(float)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert auc(positive, scores) == pytest.approx(np.mean(pairs))
    assert np.isnan(auc(np.ones(3, bool), scores[:3]))


def test_pairwise_accuracy_counts_every_pair() -> None:
    random = np.random.default_rng(0)
    labels, found = random.integers(0, 4, 40).astype(float), random.integers(0, 9, 40).astype(float)
    groups = [str(index % 7) for index in range(40)]
    pairs = [
        (found[i] > found[j]) + 0.5 * (found[i] == found[j])
        for i in range(40)
        for j in range(40)
        if labels[i] > labels[j]
    ]
    interval = pairwise_accuracy(labels, found, groups)
    assert interval is not None
    assert interval.value == pytest.approx(np.mean(pairs))
    assert interval.low < interval.value < interval.high
    assert pairwise_accuracy(np.ones(3), found[:3], ["a", "b", "c"]) is None
    perfect = pairwise_accuracy(labels, labels, groups)
    assert perfect is not None
    assert (perfect.low, perfect.high) == (1, 1)


def test_groups_of_one_row_give_the_ordinary_bootstrap() -> None:
    values = np.random.default_rng(0).normal(size=300)
    grouped = bootstrap_groups(lambda rows: float(values[rows].mean()), [str(row) for row in range(300)])
    plain = bootstrap_mean(values)
    assert grouped.value == pytest.approx(plain.value)
    assert (grouped.low, grouped.high) == pytest.approx((plain.low, plain.high), abs=0.02)


def test_copies_of_a_row_in_its_group_add_nothing() -> None:
    values = np.random.default_rng(0).normal(size=50)
    names = [str(row) for row in range(50)]
    once = bootstrap_groups(lambda rows: float(values[rows].mean()), names)
    often = np.tile(values, 8)
    copied = bootstrap_groups(lambda rows: float(often[rows].mean()), names * 8)
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_a_statistic_without_values_is_refused() -> None:
    with pytest.raises(RoboAlignError, match="expected a value on 4 rows and most resamples of their 2 groups"):
        bootstrap_groups(lambda rows: float("nan"), ["a", "b", "a", "b"])
    with pytest.raises(RoboAlignError, match="expected at least one row"):
        bootstrap_groups(lambda rows: 0.0, [])
