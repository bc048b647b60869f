"""Intervals: bootstrap for means and differences, Wilson's for success rates. Everything is seeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from roboalign_core.errors import RoboAlignError

CONFIDENCE = 0.95
RESAMPLES = 10_000
_BLOCK = 4_000_000  # indices drawn at a time, 32 MB
_UNDEFINED = 0.05  # of the resamples; an interval of what is left would promise too much

Values = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its confidence limits, all in the unit of the values."""

    value: float
    low: float
    high: float

    def as_results(self, name: str) -> dict[str, float]:
        """The three keys under which a figure stands in ``results.json``."""
        return {name: self.value, f"{name}_ci_low": self.low, f"{name}_ci_high": self.high}

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def bootstrap_mean(
    values: Values, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean with a percentile bootstrap interval (Efron 1979).

    Args:
        values: ``(N,)``, one number per independent unit: per episode, not per frame of an episode.
        confidence: coverage, in 0..1.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        RoboAlignError: no values, or some that are not finite.
    """
    data = _finite("bootstrap_mean", values)
    draws = _resample(len(data), lambda rows: data[rows].mean(axis=1), resamples, seed)
    return _interval(float(data.mean()), draws, confidence)


def bootstrap_median(
    values: Values, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Median with a percentile bootstrap interval; arguments and errors as in :func:`bootstrap_mean`."""
    data = _finite("bootstrap_median", values)
    draws = _resample(len(data), lambda rows: np.median(data[rows], axis=1), resamples, seed)
    return _interval(float(np.median(data)), draws, confidence)


def bootstrap(
    count: int,
    statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Any statistic of N independent units, with a percentile bootstrap interval.

    Some statistics (a correlation where all values are alike) are undefined for some data; they give NaN there.

    Args:
        count: N, at least 1.
        statistic: from rows ``(R, N)``, each row the numbers of the units of one sample, to ``(R,)``.
        confidence: coverage, in 0..1.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        NaN as value where it is undefined, and as limits where it is undefined for more than 5 % of the resamples.

    Raises:
        RoboAlignError: no units.
    """
    if count < 1:
        raise RoboAlignError(f"bootstrap: expected at least one unit, found {count}")
    value = float(statistic(np.arange(count)[None])[0])
    draws = _resample(count, statistic, resamples, seed)
    defined = draws[~np.isnan(draws)]
    if np.isnan(value) or len(defined) < (1 - _UNDEFINED) * len(draws):
        return Interval(value, float("nan"), float("nan"))
    return _interval(value, defined, confidence)


def paired_difference(
    ours: Values, theirs: Values, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of ``ours - theirs`` with a bootstrap interval over the pairs ``(N,)``, each measured on the same unit.

    Raises:
        RoboAlignError: as :func:`bootstrap_mean`, or lengths that differ.
    """
    first, second = _pairs("paired_difference", ours, theirs)
    return bootstrap_mean(first - second, confidence=confidence, resamples=resamples, seed=seed)


def paired_gain_pct(
    ours: Values,
    theirs: Values,
    *,
    lower_is_better: bool = False,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Relative gain of the means, in per cent, positive when ours is better; pairs ``(N,)`` are resampled together.

    ``100 (mean(ours) - mean(theirs)) / mean(theirs)``, with the sign turned for errors and distances.

    Raises:
        RoboAlignError: as :func:`paired_difference`, or a mean of ``theirs`` (also resampled) that is not positive.
    """
    first, second = _pairs("paired_gain_pct", ours, theirs)
    sign = -100.0 if lower_is_better else 100.0

    def gain(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        base = second[rows].mean(axis=1)
        if base.min() <= 0:
            raise RoboAlignError(f"paired_gain_pct: expected a baseline of positive mean, found {base.min():g}")
        return np.asarray(sign * (first[rows].mean(axis=1) - base) / base)

    everything = np.arange(len(first))[None]
    return _interval(float(gain(everything)[0]), _resample(len(first), gain, resamples, seed), confidence)


def bootstrap_groups(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: Sequence[str],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """A statistic with a percentile bootstrap interval over groups of rows that are not independent of each other.

    Args:
        statistic: from row numbers (M,), in which rows may come again, to a number; NaN where it has none.
        groups: for each of the N rows the name of its group, e.g. of the episode that it was made from.
        confidence: coverage, in 0..1.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        RoboAlignError: no rows, no value on all of them, or on less than half of the resamples.
    """
    rows, starts, lengths = group_rows(groups)
    value = statistic(rows)
    generator = np.random.default_rng(seed)
    draws = np.array([statistic(rows[_drawn(starts, lengths, generator)]) for _ in range(resamples)])
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or 2 * len(draws) < resamples:
        raise RoboAlignError(
            f"bootstrap_groups: expected a value on {len(rows)} rows and most resamples of their {len(starts)} groups, "
            f"found {value} and {len(draws)} of {resamples}"
        )
    return percentile_interval(value, draws, confidence)


def group_rows(groups: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Row numbers (N,) sorted by group; where in them each group starts, and its length, (G,) each.

    Raises:
        RoboAlignError: no rows.
    """
    if not len(groups):
        raise RoboAlignError("bootstrap over groups: expected at least one row, found none")
    _, inverse, lengths = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.argsort(inverse, kind="stable"), starts, lengths


def percentile_interval(value: float, draws: NDArray[np.float64], confidence: float = CONFIDENCE) -> Interval:
    """An estimate with the percentiles of its resamples as limits."""
    return _interval(value, draws, confidence)


def wilson(successes: int, trials: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Success rate with Wilson's score interval (Wilson 1927), which holds near 0 and 1 and for few trials.

    Raises:
        RoboAlignError: no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise RoboAlignError(f"wilson: expected 0 <= successes <= trials with a trial, found {successes} of {trials}")
    z = NormalDist().inv_cdf(0.5 + _checked(confidence) / 2)
    rate = successes / trials
    scale = 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / scale
    half = z / scale * float(np.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)))
    low = 0.0 if successes == 0 else centre - half  # exact at the ends, where rounding would leave 1e-17
    high = 1.0 if successes == trials else centre + half
    return Interval(rate, low, high)


def _resample(
    count: int, statistic: Callable[[NDArray[np.int64]], NDArray[np.float64]], resamples: int, seed: int
) -> NDArray[np.float64]:
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // count)
    sizes = [min(block, resamples - start) for start in range(0, resamples, block)]
    return np.concatenate([statistic(generator.integers(0, count, size=(size, count))) for size in sizes])


def _drawn(starts: NDArray[np.int64], lengths: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Places of all rows of as many groups as there are, drawn with replacement."""
    chosen = generator.integers(0, len(starts), len(starts))
    counts = lengths[chosen]
    offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(np.repeat(starts[chosen], counts) + offsets)


def _interval(value: float, draws: NDArray[np.float64], confidence: float) -> Interval:
    tail = (1 - _checked(confidence)) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _pairs(who: str, ours: Values, theirs: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _finite(who, ours), _finite(who, theirs)
    if first.shape != second.shape:
        raise RoboAlignError(f"{who}: expected as many values on both sides, found {len(first)} and {len(second)}")
    return first, second


def _finite(who: str, values: Values) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) == 0:
        raise RoboAlignError(f"{who}: expected shape (N,) with N >= 1, found {data.shape}")
    bad = int((~np.isfinite(data)).sum())
    if bad:
        raise RoboAlignError(f"{who}: expected finite values, found {bad} of {len(data)} that are not")
    return data


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise RoboAlignError(f"confidence: expected a value between 0 and 1, found {confidence}")
    return confidence
