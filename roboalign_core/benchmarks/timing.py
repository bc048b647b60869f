"""Timing: warm-up, repeats, medians, and what the machine could do at best."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from roboalign_core.errors import RoboAlignError

_MATMUL_SIDE = 1024


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, and the 25th and 75th percentile."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """From repeated measurements."""
        low, median, high = np.percentile(seconds, [25, 50, 75])
        return cls(float(median), float(low), float(high))


def timed(call: Callable[[], object], repeats: int, device: torch.device) -> Timing:
    """Time a call after one that warms up."""
    return timed_in_turns({"": call}, repeats, device)[""]


def timed_in_turns(calls: Mapping[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, Timing]:
    """Time several calls, one of each in turn, after a round that warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - began)
    return {name: Timing.of(each[1:]) for name, each in seconds.items()}


def peak_memory(call: Callable[[], object], device: torch.device) -> int | None:
    """Bytes that a call takes at most, beyond what is held before; of the process, or of torch on a GPU.

    None where the system does not tell (only Linux does).

    A call that comes after others may find memory that they gave back to the allocator, and so take less.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins at what is held now
    except OSError:
        return None
    before = _resident("VmRSS")
    call()
    return max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RoboAlignError(f"/proc/self/status: expected {name}, found none")


def matmul_limit(dtype: torch.dtype, device: torch.device, repeats: int = 20) -> float:
    """Floating-point operations a second of a large matrix product: what this machine reaches at best."""
    side = _MATMUL_SIDE
    first, second = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
    return 2 * side**3 / timed(lambda: first @ second, repeats, device).low
