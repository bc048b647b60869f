"""How well predictions put things in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from roboalign_core.evaluation.statistics import CONFIDENCE, Interval, group_rows, percentile_interval

Array = NDArray[np.float64]


def ranks(values: NDArray[np.floating]) -> Array:
    """(N,) ranks from 1, ties sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    means = np.cumsum(counts) - (counts - 1) / 2
    return np.asarray(means[inverse], np.float64)


def spearman(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Rank correlation (Spearman 1904) of (N,) each; NaN where one of them is constant."""
    one, other = ranks(first), ranks(second)
    one, other = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum() / scale) if scale > 0 else float("nan")


def auc(positive: NDArray[np.bool_], scores: NDArray[np.floating]) -> float:
    """Probability that a positive scores above a negative, ties half (Mann and Whitney 1947); NaN without either."""
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return float("nan")
    above = ranks(scores)[positive].sum() - count * (count + 1) / 2
    return float(above / (count * others))


def pairwise_accuracy(
    labels: NDArray[np.floating],
    predictions: NDArray[np.floating],
    groups: Sequence[str],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Share of all pairs of things with different labels (N,) whose predictions (N,) lie the same way, ties half.

    The interval comes from a bootstrap over ``groups``, the names of what belongs together. None where all labels are
    the same.
    """
    rows, starts, _ = group_rows(groups)
    labels, predictions = labels[rows], predictions[rows]
    right, all_pairs = (np.empty((len(starts), len(starts))) for _ in range(2))
    for index, (first, last) in enumerate(zip(starts, [*starts[1:], len(rows)], strict=True)):
        better = labels[first:last, None] > labels
        above = predictions[first:last, None] - predictions
        agree = better * ((above > 0) + 0.5 * (above == 0))
        right[index], all_pairs[index] = (
            np.add.reduceat(each.sum(0), starts) for each in (agree, better.astype(float))
        )
    if not all_pairs.sum():
        return None
    draws = np.random.default_rng(seed).multinomial(len(starts), np.full(len(starts), 1 / len(starts)), resamples)
    counts = ((draws @ all_pairs) * draws).sum(1)
    shares = ((draws @ right) * draws).sum(1)[counts > 0] / counts[counts > 0]
    return percentile_interval(float(right.sum() / all_pairs.sum()), shares, confidence)
