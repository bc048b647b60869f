"""Frames to another size."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate


def resize(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize (N, H, W, 3) uint8 frames to (N, *size, 3), bilinear with antialiasing."""
    if frames.shape[1:3] == tuple(size):
        return frames
    planes = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
    resized = interpolate(planes, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).contiguous().numpy()
