"""A video of any length and size as the few small frames that the student looks at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes.resize import resize
from roboalign_core.errors import RoboAlignError

_BLOCK = 128  # frames that are resized together


def check_video(frames: NDArray[np.uint8], name: str) -> None:
    """Raise RoboAlignError unless ``frames`` is (T, H, W, 3) uint8 with nothing of size 0."""
    if not isinstance(frames, np.ndarray):
        raise RoboAlignError(f"{name}: expected a uint8 array (T, H, W, 3), found {type(frames).__name__}")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise RoboAlignError(f"{name}: expected a uint8 array (T, H, W, 3), found {frames.dtype} {frames.shape}")


def small(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames (T, H, W, 3) at the size (H, W): bilinear with antialiasing, in blocks of bounded memory."""
    if frames.shape[1:3] == tuple(size):
        return frames
    blocks = range(0, len(frames), _BLOCK)
    return np.concatenate([resize(frames[start : start + _BLOCK], size) for start in blocks])


def chosen(length: int, count: int) -> NDArray[np.int64]:
    """Indices of ``count`` frames out of ``length``, evenly from the first to the last; all where there are fewer."""
    if length <= count:
        return np.arange(length)
    steps = count - 1
    return np.asarray((2 * np.arange(count) * (length - 1) + steps) // (2 * steps))  # rounded, without floats


def summarise(frames: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """A video (T, H, W, 3) as F = min(T, ``count``) frames, (2, F, H, W, 3) uint8: colours, and how much they changed.

    The colours are those of evenly chosen frames. The changes are how much each colour changed at most from one frame
    of the video to the next, since the frame that was chosen before: a flicker in a frame that was not chosen is seen.
    """
    picked = chosen(len(frames), count)
    result = np.empty((2, len(picked), *frames.shape[1:]), np.uint8)
    result[0] = frames[picked]
    result[1, 0] = 0
    if len(picked) > 1:
        changes = np.maximum(frames[1:], frames[:-1]) - np.minimum(frames[1:], frames[:-1])
        every = len(picked) == len(frames)
        result[1, 1:] = changes if every else np.maximum.reduceat(changes, picked[:-1], axis=0)
    return result
