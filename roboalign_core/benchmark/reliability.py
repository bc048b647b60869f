"""How well opinions agree: Krippendorff's alpha, rank correlation, exact matches, each with a bootstrap interval.

Units (pairs of the benchmark) are resampled, not single opinions. What is undefined is NaN.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.statistics import Interval, Values, bootstrap

Level = Literal["ordinal", "interval"]
Floats = NDArray[np.float64]
RESAMPLES = 2000


def alpha(counts: NDArray[np.integer], level: Level, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Krippendorff's alpha (2011, "Computing Krippendorff's Alpha-Reliability"): 1 agreement, 0 chance.

    Args:
        counts: (N, V) how many raters gave unit n the value v, for the values 0 to V - 1. Units with fewer than two
            opinions say nothing about agreement and are left out.
        level: what a distance between two values is: ordinal (values in between weigh by how often they are given) or
            interval (the squared difference).
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        NaN where only one value is ever given: then chance cannot be told from agreement.

    Raises:
        RoboAlignError: another shape, negative counts, or no unit with two opinions.
    """
    table = np.asarray(counts, np.float64)
    if table.ndim != 2 or (table < 0).any():
        raise RoboAlignError(f"alpha: expected counts (N, V) from 0 on, found shape {table.shape} or negative counts")
    table = table[table.sum(axis=1) >= 2]
    if not len(table):
        raise RoboAlignError("alpha: expected at least one unit with two opinions, found none")
    pairs = _coincidences(table)

    def statistic(rows: NDArray[np.int64]) -> Floats:
        weights = _counts(rows, len(table))  # how often each unit is in each sample
        return _alpha((weights @ pairs.reshape(len(pairs), -1)).reshape(-1, *pairs.shape[1:]), level)

    return bootstrap(len(table), statistic, resamples=resamples, seed=seed)


def spearman(first: Values, second: Values, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Spearman's rank correlation of N pairs of values; equal values share the mean of their ranks.

    Returns:
        NaN where one side is constant.

    Raises:
        RoboAlignError: lengths that differ, no values, or values that are not finite.
    """
    (codes_a, size_a), (codes_b, size_b) = _codes(first), _codes(second)
    if len(codes_a) != len(codes_b):
        raise RoboAlignError(
            f"spearman: expected as many values on both sides, found {len(codes_a)} and {len(codes_b)}"
        )

    def statistic(rows: NDArray[np.int64]) -> Floats:
        return _correlation(_ranks(codes_a[rows], size_a), _ranks(codes_b[rows], size_b))

    return bootstrap(len(codes_a), statistic, resamples=resamples, seed=seed)


def matches(first: Values, second: Values) -> NDArray[np.bool_]:
    """(N,) whether both lie nearest to the same whole step; a value half-way between two steps matches none."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    step = np.rint(a)
    same: NDArray[np.bool_] = (np.abs(a - step) < 0.5) & (np.abs(b - step) < 0.5)
    return same


def _coincidences(table: Floats) -> Floats:
    """(N, V, V): of every unit, how often two of its opinions are v and w, weighted by 1 / (opinions - 1)."""
    products = table[:, :, None] * table[:, None, :]
    values = np.arange(table.shape[1])
    products[:, values, values] -= table
    shares: Floats = products / (table.sum(axis=1) - 1)[:, None, None]
    return shares


def _alpha(observed: Floats, level: Level) -> Floats:
    """(R,) of coincidences (R, V, V): 1 - observed / expected disagreement."""
    totals = observed.sum(axis=2)  # (R, V): how often a value is given
    count = totals.sum(axis=1)
    distance = _distances(totals, level)
    expected = np.einsum("rv,rw,rvw->r", totals, totals, distance)
    disagreement = np.einsum("rvw,rvw->r", observed, distance)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(expected > 0, 1 - (count - 1) * disagreement / expected, np.nan)
    return found


def _distances(totals: Floats, level: Level) -> Floats:
    """(R, V, V) squared distances between values."""
    values = np.arange(totals.shape[1], dtype=np.float64)
    if level == "interval":
        return np.broadcast_to((values[:, None] - values) ** 2, (len(totals), len(values), len(values)))
    middles = totals.cumsum(axis=1) - totals / 2  # opinions below a value, and half of those at it
    squares: Floats = (middles[:, :, None] - middles[:, None, :]) ** 2
    return squares


def _counts(rows: NDArray[np.int64], size: int) -> Floats:
    """(R, size) how often each of the numbers 0 to size - 1 is in each row of (R, N)."""
    offsets = np.arange(len(rows))[:, None] * size
    flat = np.bincount((rows + offsets).ravel(), minlength=len(rows) * size)
    return flat.reshape(len(rows), size).astype(np.float64)


def _codes(values: Values) -> tuple[NDArray[np.int64], int]:
    """(N,) the place of each value among the different ones, and how many of these there are."""
    data = np.asarray(values, np.float64)
    if data.ndim != 1 or not len(data) or not np.isfinite(data).all():
        raise RoboAlignError(f"spearman: expected finite values (N,), N >= 1, found {data.shape} or others")
    different, codes = np.unique(data, return_inverse=True)
    return codes.astype(np.int64), len(different)


def _ranks(codes: NDArray[np.int64], size: int) -> Floats:
    """(R, N) mean ranks within each row."""
    counts = _counts(codes, size)
    return np.take_along_axis(counts.cumsum(axis=1) - (counts - 1) / 2, codes, axis=1)


def _correlation(first: Floats, second: Floats) -> Floats:
    """(R,) Pearson's correlation of rows."""
    a = first - first.mean(axis=1, keepdims=True)
    b = second - second.mean(axis=1, keepdims=True)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(scale > 0, (a * b).sum(axis=1) / scale, np.nan)
    return found
