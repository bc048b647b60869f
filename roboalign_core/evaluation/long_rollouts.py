"""What is measured of one way of making long rollouts: quality by frame, time, memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from roboalign_core.evaluation.positions import Array
from roboalign_core.world_model.rollout import Imagination

_EDGE = 10  # frames at either end of a rollout whose times are compared, or more, so that they are whole windows


@dataclass
class Meter:
    """Times each frame of a rollout in seconds, and notes how many tokens and bytes the transformer held at most."""

    times: list[float] = field(default_factory=list)
    tokens: int = 0
    bytes: int = 0
    _began: float = field(default_factory=time.perf_counter)

    def __call__(self, imagination: Imagination) -> None:
        """After a frame."""
        now = time.perf_counter()
        self.times.append(now - self._began)
        cache = imagination.cache
        self.tokens = max(self.tokens, cache.length)
        self.bytes = max(self.bytes, cache.nbytes)
        self._began = now


@dataclass(frozen=True)
class Outcome:
    """One variant.

    Attributes:
        curves: metrics (E, S) by name, at the measured steps.
        seconds: (batches, T), s a frame.
        first: frames before the first restart.
        window: frames from one restart to the next.
        tokens, bytes: longest sequence and largest key–value cache.
        videos: the first imagined ones, (V, T, H, W, 3) uint8.
        steps: the S measured steps, counted from 1.
    """

    curves: dict[str, Array]
    seconds: Array
    first: int
    window: int
    tokens: int
    bytes: int
    videos: NDArray[np.uint8]
    steps: list[int]

    def at(self, key: str, step: int) -> Array:
        """A metric (E,) at one of the measured steps."""
        return self.curves[key][:, self.steps.index(step)]


def costs(outcome: Outcome) -> dict[str, float]:
    """``frame_ms`` of a whole batch, ``peak_tokens``, ``peak_cache_mb`` (MiB), and ``last_to_first_frames_pct``.

    The last says how much slower the last frames are than the first, in per cent. It compares whole windows, after the
    first restart (the first segment begins without one), and is left out where a rollout has fewer than two of them.
    A frame is compared with that at the same place in its window, and the median taken: what else the machine does now
    and then does not count.
    """
    figures = {
        "frame_ms": float(outcome.seconds.mean() * 1000),
        "peak_tokens": float(outcome.tokens),
        "peak_cache_mb": outcome.bytes / 2**20,
    }
    later = outcome.seconds[:, outcome.first :]
    windows = later.shape[1] // outcome.window
    edge = outcome.window * min(-(-_EDGE // outcome.window), windows // 2)
    if edge:
        last = later[:, windows * outcome.window - edge : windows * outcome.window]
        figures["last_to_first_frames_pct"] = float((np.median(last / later[:, :edge]) - 1) * 100)
    return figures


def means(curve: Array) -> list[float | None]:
    """A metric (E, S) at each measured step, None where no episode has a value."""
    return [float(np.nanmean(step)) if np.isfinite(step).any() else None for step in curve.T]
