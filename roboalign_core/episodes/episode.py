"""One recorded episode of a robot: what the camera saw, what the robot did, and whether it worked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from roboalign_core.errors import RoboAlignError


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """An episode in memory, checked when it is made.

    Attributes:
        frames: (T, H, W, 3) uint8 RGB, T >= 2.
        actions: (T, A) float32; ``actions[t]`` leads from frame t to frame t+1; the last row leads nowhere (zeros if
            unknown).
        instruction: the task in words; empty where the source has none.
        success: whether the task was solved; None where the source does not say.
        fps: frames per second.
        source: the environment or data set, e.g. ``"tabletop"``, ``"bridge"``.
        camera: the name of the camera, e.g. ``"front"``.
        extras: per-frame float32 arrays (T, K), e.g. ``"observation.state"`` or ``"progress"``.

    Raises:
        RoboAlignError: a field has the wrong type, dtype or shape, or holds values that are not finite.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    instruction: str
    success: bool | None
    fps: float
    source: str
    camera: str
    extras: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_frames(self.frames)
        length = len(self.frames)
        _check_rows("actions", self.actions, length)
        _check_text("instruction", self.instruction, may_be_empty=True)
        _check_text("source", self.source)
        _check_text("camera", self.camera)
        if self.success is not None and not isinstance(self.success, (bool, np.bool_)):
            raise RoboAlignError(f"episode: success: expected true, false or None, found {self.success!r}")
        if not isinstance(self.fps, (int, float)) or not math.isfinite(self.fps) or self.fps <= 0:
            raise RoboAlignError(f"episode: fps: expected a positive number, found {self.fps!r}")
        for name, rows in self.extras.items():
            _check_rows(f"extras[{name!r}]", rows, length)
        object.__setattr__(self, "extras", dict(self.extras))

    def __len__(self) -> int:
        """T, the number of frames."""
        return len(self.frames)


def _check_frames(frames: NDArray[np.uint8]) -> None:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
        raise RoboAlignError(f"episode: frames: expected a uint8 array, found {_kind(frames)}")
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise RoboAlignError(f"episode: frames: expected shape (T, H, W, 3), found {frames.shape}")
    if len(frames) < 2:
        raise RoboAlignError(f"episode: frames: expected at least 2 frames, found {len(frames)}")


def _check_rows(name: str, rows: NDArray[np.float32], length: int) -> None:
    if not isinstance(rows, np.ndarray) or rows.dtype != np.float32:
        raise RoboAlignError(f"episode: {name}: expected a float32 array, found {_kind(rows)}")
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise RoboAlignError(f"episode: {name}: expected shape (T, K) with K >= 1, found {rows.shape}")
    if len(rows) != length:
        raise RoboAlignError(f"episode: {name}: expected {length} rows, one per frame, found {len(rows)}")
    finite = np.isfinite(rows)
    if not finite.all():
        t, k = np.argwhere(~finite)[0]
        raise RoboAlignError(f"episode: {name}: expected finite numbers, found {rows[t, k]} at row {t}, column {k}")


def _check_text(name: str, text: str, may_be_empty: bool = False) -> None:
    if not isinstance(text, str) or not (text or may_be_empty):
        raise RoboAlignError(f"episode: {name}: expected text, found {text!r}")


def _kind(value: object) -> str:
    return f"{value.dtype} array" if isinstance(value, np.ndarray) else type(value).__name__
