"""What people say about the pairs of a benchmark, all of them together, and how that agrees with other opinions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roboalign_core.benchmark.benchmark import Benchmark
from roboalign_core.benchmark.reliability import RESAMPLES, Level, alpha, matches, spearman
from roboalign_core.benchmark.review.log import REVIEWS, read_reviews
from roboalign_core.benchmark.review.queue import ALL, chosen
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.statistics import Interval, bootstrap_mean
from roboalign_core.rubric import DIMENSIONS, KEYS

TOTAL = "total"
SCALES = (*KEYS, TOTAL)
_VALUES = (*(one.highest + 1 for one in DIMENSIONS), sum(one.highest for one in DIMENSIONS) + 1)

Figures = dict[str, dict[str, Interval]]  # scale → figure → interval


@dataclass(frozen=True, slots=True, eq=False)
class Opinions:
    """What R people say about N pairs.

    Attributes:
        raters: their names.
        numbers: (N,) of the pairs about which at least one says something.
        scores: (R, N, 7): the six and their sum; NaN where a rater has not judged, or could not.
        skipped: (R,) how many pairs a rater could not judge.
    """

    raters: list[str]
    numbers: NDArray[np.int64]
    scores: NDArray[np.float64]
    skipped: list[int]

    @property
    def judged(self) -> NDArray[np.bool_]:
        """(R, N) who scored what."""
        return np.isfinite(self.scores[..., 0])

    @property
    def shared(self) -> int:
        """How many pairs have the scores of two people or more."""
        return int((self.judged.sum(axis=0) >= 2).sum())


def read_opinions(benchmark: Benchmark, raters: Sequence[str] = (), split: str = ALL) -> Opinions:
    """The judgements that count, of these raters (none named: of all) on the pairs of a split.

    Raises:
        RoboAlignError: a rater who has no file, a damaged file, or no judgements.
    """
    reviews = read_reviews(benchmark)
    absent = sorted(set(raters) - set(reviews))
    if absent:
        raise RoboAlignError(f"raters: expected some of {', '.join(reviews) or 'nobody'}, found {absent[0]!r}")
    names = list(dict.fromkeys(raters)) or list(reviews)
    wanted = set(chosen(benchmark, split))
    scores = np.full((len(names), len(benchmark.pairs), len(SCALES)), np.nan)
    skipped = [0] * len(names)
    for row, name in enumerate(names):
        for number, opinion in reviews[name].latest.items():
            if number in wanted and opinion is None:
                skipped[row] += 1
            elif number in wanted and opinion is not None:
                scores[row, number] = [*opinion, sum(opinion)]
    numbers = np.flatnonzero(np.isfinite(scores[..., 0]).any(axis=0))
    if not len(numbers):
        raise RoboAlignError(
            f"{benchmark.path / REVIEWS}: expected judgements, found none; make some: roboalign benchmark review"
        )
    return Opinions(names, numbers, scores[:, numbers], skipped)


def among_people(opinions: Opinions, resamples: int = RESAMPLES, seed: int = 0) -> Figures:
    """Krippendorff's alpha of every scale: ordinal of the six, interval of the sum.

    Nothing where no two people judged the same pair.
    """
    if not opinions.shared:
        return {}
    figures: Figures = {}
    for column, (scale, size) in enumerate(zip(SCALES, _VALUES, strict=True)):
        values = opinions.scores[:, :, column]
        counts = np.stack([(values == value).sum(axis=0) for value in range(size)], axis=1)
        level: Level = "interval" if scale == TOTAL else "ordinal"
        figures[scale] = {"alpha": alpha(counts, level, resamples=resamples, seed=seed)}
    return figures


def with_labels(
    opinions: Opinions, labels: NDArray[np.float64], rows: NDArray[np.int64], resamples: int = RESAMPLES, seed: int = 0
) -> Figures:
    """Mean opinions beside labels: mean absolute error, rank correlation, share of exact matches.

    Args:
        opinions: of the people.
        labels: (N, 7) of the same pairs.
        rows: which of the N pairs to compare.
        resamples: bootstrap samples.
        seed: of the resampling.
    """
    people = np.nanmean(opinions.scores[:, rows], axis=0)
    figures: Figures = {}
    for column, scale in enumerate(SCALES):
        ours, theirs = people[:, column], labels[rows, column]
        figures[scale] = {
            "mae": bootstrap_mean(np.abs(ours - theirs), resamples=resamples, seed=seed),
            "spearman": spearman(ours, theirs, resamples=resamples, seed=seed),
            "exact": bootstrap_mean(matches(ours, theirs).astype(float), resamples=resamples, seed=seed),
        }
    return figures
