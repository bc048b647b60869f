"""Which frames of a video a judge sees, how large, and in which file format."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

FORMATS = ("png", "jpeg")


def sample_indices(length: int, count: int) -> npt.NDArray[np.int64]:
    """Which of ``length`` frames are shown: all, or ``count`` of them as evenly as whole numbers allow.

    The first and the last frame are always among them: the robot's start, and what the video ends with.

    Args:
        length: frames of the video, at least 2.
        count: frames shown at most, at least 2.

    Returns:
        (min(length, count),) increasing, without repetition.
    """
    shown = min(length, count)
    indices: npt.NDArray[np.int64] = np.round(np.linspace(0, length - 1, shown)).astype(np.int64)
    return indices


def shown_frames(frames: npt.NDArray[np.uint8], count: int, side: int) -> npt.NDArray[np.uint8]:
    """The frames of :func:`sample_indices`, (N, H', W', 3) uint8.

    Args:
        frames: (T, H, W, 3) uint8.
        count: frames shown at most.
        side: the shorter side of what is shown, in pixels; every frame is enlarged or reduced to it (bicubic). 0: as
            it is.
    """
    chosen = frames[sample_indices(len(frames), count)]
    height, width = chosen.shape[1:3]
    shorter = min(height, width)
    if side in (0, shorter):
        return np.ascontiguousarray(chosen)
    size = (round(width * side / shorter), round(height * side / shorter))
    resized = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in chosen]
    return np.stack(resized)


def data_url(frame: npt.NDArray[np.uint8], image_format: str) -> str:
    """A frame (H, W, 3) as a ``data:`` URL: PNG without loss, or JPEG of quality 90."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, image_format.upper(), **({"quality": 90} if image_format == "jpeg" else {}))
    return f"data:image/{image_format};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
