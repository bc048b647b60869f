"""Whether a long stream stays as quick and as small as it began."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.statistics import bootstrap_median
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Order
from roboalign_core.world_model.session import Session

_WARM_WINDOWS, _COMPARED_WINDOWS = 2, 20


def stream(name: str, frames: int, order: str, seed: int, device: str) -> Mapping[str, Any]:
    """Imagine ``frames`` frames on from one, re-encoding inside, every one drawn; then against a stream that begins.

    A machine that others use is quicker now and slower then, by more than is to be measured. So the old stream and a
    new one go on in turns, window by window, and the growth is the median of what the old one takes over the new one.
    Memory is what the process (on a GPU torch) holds after each window of the old one, the last against the first.

    Raises:
        RoboAlignError: too few frames to compare.
    """
    world_model = WorldModel.from_pretrained(name, device)
    config, random = world_model.config, np.random.default_rng(seed)
    least = 2 * (_WARM_WINDOWS + _COMPARED_WINDOWS) * config.window
    if frames < least:
        raise RoboAlignError(
            f"session_frames: expected at least {least} with windows of {config.window}, found {frames}"
        )
    frame = random.integers(0, 256, (*config.image_size, 3), dtype=np.uint8)
    shape = (frames // config.window, config.window, config.action_dim)
    windows = random.uniform(config.action_low, config.action_high, shape).astype(np.float32)

    old = _begun(world_model, order, frame)
    held = []
    for window in windows:
        _imagine(old, window)
        held.append(_held(world_model.device) / 2**20)
    new = _begun(world_model, order, frame)
    for window in windows[:_WARM_WINDOWS]:
        _imagine(new, window)
    turns = [_in_turn(old, new, window, number) for number, window in enumerate(windows[-_COMPARED_WINDOWS:])]
    last_ms, first_ms = np.array(turns, np.float64).T * 1000 / config.window
    growth = bootstrap_median(np.asarray((last_ms / first_ms - 1) * 100, np.float64), seed=seed)
    first, last = held[_WARM_WINDOWS : _WARM_WINDOWS + _COMPARED_WINDOWS], held[-_COMPARED_WINDOWS:]
    return {
        "frames": len(windows) * config.window,
        "window": config.window,
        "frame_ms_first": float(np.median(first_ms)),
        "frame_ms_last": float(np.median(last_ms)),
        **growth.as_results("frame_ms_growth_pct"),
        "memory_mb_first": float(np.median(first)),
        "memory_mb_last": float(np.median(last)),
        "memory_growth_pct": float((np.median(last) / np.median(first) - 1) * 100),
    }


def _begun(world_model: WorldModel, order: str, frame: NDArray[np.uint8]) -> Session:
    session = world_model.session(cast(Order, order))
    session.reset(frame)
    return session


def _imagine(session: Session, actions: NDArray[np.float32]) -> float:
    """A window (W, A), every frame drawn; seconds."""
    began = time.perf_counter()
    for action in actions:
        session.step(action)
    return time.perf_counter() - began


def _in_turn(old: Session, new: Session, actions: NDArray[np.float32], number: int) -> tuple[float, float]:
    """Seconds of a window of each; which of them goes first changes from one to the next."""
    if number % 2:
        return _imagine(old, actions), _imagine(new, actions)
    second, first = _imagine(new, actions), _imagine(old, actions)
    return first, second


def _held(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
