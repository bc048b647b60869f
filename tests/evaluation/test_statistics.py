from __future__ import annotations

import numpy as np
import pytest

from roboalign_core import RoboAlignError
from roboalign_core.evaluation.statistics import (
    Interval,
    bootstrap_mean,
    bootstrap_median,
    paired_difference,
    paired_gain_pct,
    wilson,
)


def test_wilson_against_published_values() -> None:
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3 (score without continuity correction)
    for successes, trials, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        interval = wilson(successes, trials)
        assert interval.value == successes / trials
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1, 29).low == pytest.approx(0.0061, abs=5e-5)
    assert wilson(5, 5).high == 1.0


def test_bootstrap_interval_agrees_with_the_normal_one_for_many_values() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 2000)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.value == pytest.approx(values.mean())
    assert (interval.low, interval.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_bootstrap_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    intervals = [bootstrap_mean(generator.exponential(1.0, 80), resamples=500) for _ in range(300)]
    covered = np.mean([interval.low <= 1.0 <= interval.high for interval in intervals])
    assert 0.88 <= covered <= 0.98


def test_bootstrap_is_seeded_and_blocks_do_not_change_the_mean() -> None:
    values = np.random.default_rng(2).normal(size=50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)
    many = np.random.default_rng(2).normal(size=5000)  # more than one block of resamples
    assert bootstrap_mean(many, resamples=1000).low < many.mean() < bootstrap_mean(many, resamples=1000).high


def test_median_ignores_outliers() -> None:
    values = np.r_[np.random.default_rng(6).normal(2.0, 0.1, 99), 1e6]
    interval = bootstrap_median(values)
    assert interval.value == np.median(values)
    assert 1.9 < interval.low < interval.value < interval.high < 2.1


def test_pairs_are_tighter_than_groups() -> None:
    generator = np.random.default_rng(5)
    theirs = generator.normal(20, 5, 60)
    ours = theirs + generator.normal(0.5, 0.1, 60)
    interval = paired_difference(ours, theirs)
    assert interval.low > 0.4
    assert interval.high < 0.6


def test_gain_is_positive_when_ours_is_better() -> None:
    theirs = np.linspace(1.0, 2.0, 30)
    higher = paired_gain_pct(theirs * 1.1, theirs)
    lower = paired_gain_pct(theirs * 0.9, theirs, lower_is_better=True)
    for interval in (higher, lower):
        assert (interval.value, interval.low, interval.high) == pytest.approx((10, 10, 10))


def test_interval_as_results() -> None:
    assert Interval(0.5, 0.4, 0.6).as_results("rate") == {"rate": 0.5, "rate_ci_low": 0.4, "rate_ci_high": 0.6}
    assert str(Interval(0.5, 0.4, 0.6)) == "0.5 [0.4, 0.6]"


def test_bad_values_are_refused() -> None:
    with pytest.raises(RoboAlignError, match="1 of 2"):
        bootstrap_mean([1.0, float("nan")])
    with pytest.raises(RoboAlignError, match="N >= 1"):
        bootstrap_mean([])
    with pytest.raises(RoboAlignError, match="found 2 and 1"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(RoboAlignError, match="positive mean"):
        paired_gain_pct([1.0], [0.0])
    with pytest.raises(RoboAlignError, match="3 of 2"):
        wilson(3, 2)
    with pytest.raises(RoboAlignError, match="0 of 0"):
        wilson(0, 0)
    with pytest.raises(RoboAlignError, match="between 0 and 1"):
        bootstrap_mean([1.0, 2.0], confidence=95)
