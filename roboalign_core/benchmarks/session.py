"""Whether a long stream stays as quick and as small as it began."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Order

_WARM_WINDOWS, _COMPARED_WINDOWS = 2, 10


def stream(name: str, frames: int, order: str, seed: int, device: str) -> Mapping[str, Any]:
    """Imagine ``frames`` frames on from one, re-encoding inside, every one drawn; the last against the first.

    Times are of whole windows, since a frame's depends on its place in the window; memory is what the process holds
    after each, on a GPU what torch holds there.

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
    seconds, megabytes = [], []
    for window in np.array_split(actions[: frames - frames % config.window], frames // config.window):
        began = time.perf_counter()
        for action in window:
            session.step(action)
        seconds.append((time.perf_counter() - began) / config.window)
        megabytes.append(_held(world_model.device) / 2**20)
    early, late = slice(_WARM_WINDOWS, _WARM_WINDOWS + _COMPARED_WINDOWS), slice(-_COMPARED_WINDOWS, None)
    time_first, time_last = np.median(seconds[early]), np.median(seconds[late])
    held_first, held_last = np.median(megabytes[early]), np.median(megabytes[late])
    return {
        "frames": len(seconds) * config.window,
        "window": config.window,
        "frame_ms_first": float(time_first * 1000),
        "frame_ms_last": float(time_last * 1000),
        "frame_ms_growth_pct": float((time_last / time_first - 1) * 100),
        "memory_mb_first": float(held_first),
        "memory_mb_last": float(held_last),
        "memory_growth_pct": float((held_last / held_first - 1) * 100),
    }


def _held(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
