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
    """Times each frame of a rollout, and notes how many tokens and bytes the transformer held at most."""

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
        self.bytes = max(self.bytes, cache.keys.nbytes + cache.values.nbytes)
        self._began = now


@dataclass(frozen=True)
class Outcome:
    """One variant.

    Attributes:
        curves: metrics (E, T) by name.
        seconds: (batches, T) a frame.
        window: frames from one restart to the next.
        tokens, bytes: longest sequence and largest key–value cache.
        videos: the first imagined ones.
    """

    curves: dict[str, Array]
    seconds: Array
    window: int
    tokens: int
    bytes: int
    videos: NDArray[np.uint8]


def costs(outcome: Outcome) -> dict[str, float]:
    """Milliseconds a frame, how much slower the last frames are than the first, and what is held at most."""
    frames = outcome.seconds.shape[1]
    edge = min(outcome.window * -(-_EDGE // outcome.window), frames // 2)
    whole = frames - frames % outcome.window
    first, last = outcome.seconds[:, :edge], outcome.seconds[:, whole - edge : whole]
    return {
        "frame_ms": float(outcome.seconds.mean() * 1000),
        "last_to_first_frames_pct": float((last.mean() / first.mean() - 1) * 100),
        "peak_tokens": float(outcome.tokens),
        "peak_cache_mb": outcome.bytes / 2**20,
    }


def means(curve: Array) -> list[float | None]:
    """A metric (E, T) at each step, None where no episode has a value."""
    return [float(np.nanmean(step)) if np.isfinite(step).any() else None for step in curve.T]
