"""Statistics of episodes in LeRobot's form: min, max, mean, std and count for every column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Stats = dict[str, NDArray[Any]]

_IMAGE_SAMPLES = 24  # frames of an episode that enter the statistics of pixels


def of_rows(rows: NDArray[Any]) -> Stats:
    """Statistics over the first axis of (N, K); every entry is (K,), ``count`` is (1,)."""
    values = rows.astype(np.float64)
    return {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([len(values)]),
    }


def of_frames(frames: NDArray[np.uint8]) -> Stats:
    """Statistics of pixels in [0, 1] per colour, over evenly spaced frames of (T, H, W, 3); entries are (3, 1, 1)."""
    picks = np.unique(np.linspace(0, len(frames) - 1, _IMAGE_SAMPLES).astype(int))
    colours = [_of_bytes(frames[picks, :, :, colour]) for colour in range(3)]
    stats = {key: np.array([colour[key] for colour in colours]).reshape(3, 1, 1) / 255.0 for key in colours[0]}
    return {**stats, "count": np.array([len(picks)])}


def _of_bytes(values: NDArray[np.uint8]) -> dict[str, float]:
    """Exact statistics by counting: far quicker than sums over millions of pixels."""
    counts = np.bincount(values.ravel(), minlength=256)
    levels = np.arange(256)
    mean = float(counts @ levels) / values.size
    variance = float(counts @ (levels - mean) ** 2) / values.size
    present = np.flatnonzero(counts)
    return {"min": float(present[0]), "max": float(present[-1]), "mean": mean, "std": variance**0.5}


def merged(parts: Iterable[Stats]) -> Stats:
    """The statistics of the union, from those of the parts."""
    stacked = {key: np.stack(values) for key, values in _by_key(parts).items()}
    counts = stacked["count"].astype(np.float64)
    weights = (counts / counts.sum()).reshape(-1, *[1] * (stacked["mean"].ndim - 1))
    mean = (stacked["mean"] * weights).sum(axis=0)
    variance = ((stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2) * weights).sum(axis=0)
    return {
        "min": stacked["min"].min(axis=0),
        "max": stacked["max"].max(axis=0),
        "mean": mean,
        "std": np.sqrt(variance),
        "count": stacked["count"].sum(axis=0),
    }


def merged_features(parts: Iterable[Mapping[str, Stats]]) -> dict[str, Stats]:
    """`merged` for each feature."""
    by_feature: dict[str, list[Stats]] = {}
    for part in parts:
        for feature, stats in part.items():
            by_feature.setdefault(feature, []).append(stats)
    return {feature: merged(stats) for feature, stats in by_feature.items()}


def _by_key(parts: Iterable[Stats]) -> dict[str, list[NDArray[Any]]]:
    gathered: dict[str, list[NDArray[Any]]] = {}
    for part in parts:
        for key, value in part.items():
            gathered.setdefault(key, []).append(value)
    return gathered
