"""Figures of the study ``reward``: each with its interval, or with the reason why it is missing."""

from __future__ import annotations

from typing import Any

import numpy as np

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.reward_pairs import Array
from roboalign_core.evaluation.statistics import Interval, bootstrap_groups

_LEAST = 2  # recorded episodes that an interval needs


class Figures:
    """Figures with their intervals, and why some are missing.

    Args:
        resamples: of the bootstrap over recorded episodes.
        seed: of the bootstrap.
    """

    def __init__(self, resamples: int, seed: int) -> None:
        self.resamples, self.seed = resamples, seed
        self.values: dict[str, float] = {}
        self.missing: dict[str, str] = {}

    def add(self, name: str, groups: list[str], statistic: Any, why: str) -> Interval | None:
        """A statistic of row numbers; ``why`` says what it means if it has no value."""
        if len(set(groups)) < _LEAST:
            self.missing[name] = f"fewer than {_LEAST} recorded episodes: {why}"
            return None
        try:
            interval = bootstrap_groups(statistic, groups, resamples=self.resamples, seed=self.seed)
        except RoboAlignError:
            self.missing[name] = why
            return None
        self.values |= interval.as_results(name)
        return interval

    def put(self, name: str, interval: Interval | None, why: str) -> None:
        """An interval that was found elsewhere."""
        if interval is None:
            self.missing[name] = why
        else:
            self.values |= interval.as_results(name)


def wins(drop: Array) -> Array:
    """1 where something fell, a half where it stayed."""
    return np.asarray((drop > 0) + 0.5 * (drop == 0))


def mean_of(values: Array) -> Any:
    """The mean over row numbers, as `Figures.add` takes it."""
    return lambda rows: float(values[rows].mean())
