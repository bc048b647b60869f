"""Timing: warm-up, repeats, medians, and what the machine could do at best."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

_MATMUL_SIDE = 1024


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, and the 25th and 75th percentile."""

    median: float
    low: float
    high: float


def timed(call: Callable[[], object], repeats: int, device: torch.device) -> Timing:
    """Time a call after one that warms up."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    low, median, high = np.percentile(seconds[1:], [25, 50, 75])
    return Timing(float(median), float(low), float(high))


def matmul_limit(dtype: torch.dtype, device: torch.device, repeats: int = 20) -> float:
    """Floating-point operations a second of a large matrix product: what this machine reaches at best."""
    side = _MATMUL_SIDE
    first, second = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    return 2 * side**3 / timed(lambda: first @ second, repeats, device).low
