"""Whether a long stream stays as quick and as small as it began."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Order

_WARM_WINDOWS, _COMPARED_WINDOWS = 2, 10


def stream(name: str, frames: int, order: str, seed: int, device: str) -> Mapping[str, Any]:
    """Imagine ``frames`` frames on from one, re-encoding inside, every one drawn; the last against the first.

    Times are of whole windows, since a frame's depends on its place in the window; memory is the process' peak.

    Raises:
        RoboAlignError: too few frames to compare.
    """
    world_model = WorldModel.from_pretrained(name, device)
    config, random = world_model.config, np.random.default_rng(seed)
    least = (_WARM_WINDOWS + 2 * _COMPARED_WINDOWS) * config.window
    if frames < least:
        raise RoboAlignError(
            f"session_frames: expected at least {least} with windows of {config.window}, found {frames}"
        )
    session = world_model.session(cast(Order, order))
    session.reset(random.integers(0, 256, (*config.image_size, 3), dtype=np.uint8))
    actions = random.uniform(config.action_low, config.action_high, (frames, config.action_dim)).astype(np.float32)
    seconds, peaks = [], []
    for window in np.array_split(actions[: frames - frames % config.window], frames // config.window):
        began = time.perf_counter()
        for action in window:
            session.step(action)
        seconds.append((time.perf_counter() - began) / config.window)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    early = slice(_WARM_WINDOWS, _WARM_WINDOWS + _COMPARED_WINDOWS)
    first, last = np.median(seconds[early]), np.median(seconds[-_COMPARED_WINDOWS:])
    return {
        "frames": len(seconds) * config.window,
        "window": config.window,
        "frame_ms_first": float(first * 1000),
        "frame_ms_last": float(last * 1000),
        "frame_ms_growth_pct": float((last / first - 1) * 100),
        "peak_memory_mb": peaks[-1],
        "peak_memory_growth_pct": (peaks[-1] / peaks[early.stop - 1] - 1) * 100,
    }
