"""Intervals where every one of several models (training seeds) was measured on the same episodes.

Two levels are resampled, each with replacement: the models, and the episodes that all of them imagined. What differs
from seed to seed and what differs from episode to episode both widen an interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.positions import Array
from roboalign_core.evaluation.statistics import Interval, percentile_interval


@dataclass(frozen=True)
class Crossed:
    """The resampling; one object gives the same resamples of the same numbers of seeds and episodes every time.

    Attributes:
        resamples: bootstrap samples.
        seed: of the resampling.
    """

    resamples: int = 2000
    seed: int = 0

    def mean(self, values: Array) -> Interval:
        """Mean of values (S, E) of S seeds on E episodes.

        Raises:
            RoboAlignError: no values, or some that are not finite.
        """
        checked = _checked(values)
        return percentile_interval(float(_everything(checked)), self._means(checked, "ours"))

    def difference(self, ours: Array, theirs: Array) -> Interval:
        """Mean of ours (S, E) less that of theirs (S', E), see :meth:`compare`."""
        return self.compare(ours, theirs, np.subtract)

    def change_pct(self, ours: Array, theirs: Array) -> Interval:
        """By how many per cent the mean of ours (S, E) is above that of theirs (S', E), see :meth:`compare`.

        Raises:
            RoboAlignError: as :meth:`compare`, or a mean of theirs (also resampled) that is not positive.
        """

        def change(mine: Array, base: Array) -> Array:
            if np.min(base) <= 0:
                raise RoboAlignError(f"change in per cent: expected a positive mean, found {np.min(base):g}")
            return np.asarray(100.0 * (mine - base) / base)

        return self.compare(ours, theirs, change)

    def compare(self, ours: Array, theirs: Array, compared: Callable[[Array, Array], Array]) -> Interval:
        """A comparison of two means over the same E episodes, which are resampled together.

        With as many seeds on both sides the n-th of one belongs to the n-th of the other, and they are resampled
        together; with other numbers each side is resampled by itself. A single seed cannot be resampled.

        Args:
            ours: (S, E).
            theirs: (S', E).
            compared: from means (R,), twice, to (R,).

        Raises:
            RoboAlignError: no values, some that are not finite, or other episodes.
        """
        first, second = _checked(ours), _checked(theirs)
        if first.shape[1] != second.shape[1]:
            raise RoboAlignError(
                f"paired comparison: expected the same episodes, found {first.shape[1]} and {second.shape[1]}"
            )
        side = "ours" if len(first) == len(second) else "theirs"
        value = float(compared(np.array(_everything(first)), np.array(_everything(second))))
        return percentile_interval(value, compared(self._means(first, "ours"), self._means(second, side)))

    def _means(self, values: Array, side: str) -> Array:
        """(R,) means of values (S, E) over drawn seeds and drawn episodes."""
        seeds, episodes = values.shape
        drawn = _counts(seeds, self.resamples, (self.seed, 1 if side == "ours" else 2))
        rows = _counts(episodes, self.resamples, (self.seed, 0))
        each = [rows @ row / episodes for row in values]  # one product a seed, so that equal rows give equal means
        return np.asarray(sum(drawn[:, index] * mean for index, mean in enumerate(each)) / seeds)


@lru_cache(maxsize=8)
def _counts(units: int, resamples: int, seed: tuple[int, int]) -> Array:
    """(R, N): how often each of N units was drawn, N draws with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(units, np.full(units, 1 / units), size=resamples).astype(np.float64)


def _everything(values: Array) -> np.float64:
    return np.float64(sum(row.mean() for row in values) / len(values))


def _checked(values: Array) -> Array:
    data = np.asarray(values, np.float64)
    if data.ndim != 2 or 0 in data.shape:
        raise RoboAlignError(f"seeds and episodes: expected values (S, E), one of each at least, found {data.shape}")
    bad = int((~np.isfinite(data)).sum())
    if bad:
        raise RoboAlignError(f"seeds and episodes: expected finite values, found {bad} of {data.size} that are not")
    return data
