"""Frames to another size."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from roboalign_core.errors import RoboAlignError


def resize(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (N, H, W, 3) uint8 frames to (N, *size, 3), bilinear with antialiasing."""
    if frames.shape[1:3] == tuple(size):
        return frames
    planes = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    resized = interpolate(planes, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).contiguous().numpy()


def frame_size(setting: Any) -> tuple[int, int] | None:
    """A setting ``size`` as (height, width); None where it is "native".

    Raises:
        RoboAlignError: it is neither.
    """
    if setting == "native":
        return None
    if isinstance(setting, (list, tuple)) and len(setting) == 2:
        height, width = setting
        if isinstance(height, int) and isinstance(width, int) and 0 < height < 65536 and 0 < width < 65536:
            return height, width
    raise RoboAlignError(f"size: expected native or [height, width], found {setting!r}")
