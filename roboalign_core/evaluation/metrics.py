"""Image metrics over batches of frames.

Every function takes two arrays of the same shape ``(..., H, W, 3)`` and dtype, uint8 in 0..255 or floating point in
0..1, and returns float64 of shape ``(...,)``: one number per image.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roboalign_core.errors import RoboAlignError

PSNR_OF_IDENTICAL_DB = 100.0
_SSIM_SIZE = 11
_SSIM_SIGMA = 1.5
_SSIM_K1, _SSIM_K2 = 0.01, 0.03
_SSIM_BATCH = 256  # images per pass; bounds memory to a few hundred MB at 256x256


def psnr(prediction: Any, target: Any, mask: Any | None = None) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio, ``10 log10(1 / MSE)`` with values scaled to 0..1, in dB.

    Args:
        prediction: ``(..., H, W, 3)``.
        target: the same shape and dtype.
        mask: bool, broadcastable to ``(..., H, W)``; only these pixels count (for example those of one object).

    Returns:
        ``(...,)`` dB. Identical images score 100 dB and no image scores more, so that means stay finite.
        NaN where the mask selects no pixel of an image.

    Raises:
        RoboAlignError: shapes or dtypes differ, or a value is not finite or outside its range.
    """
    first, second = _unit_pair(prediction, target)
    error = np.square(first - second).mean(axis=-1)
    if mask is None:
        mse = error.mean(axis=(-2, -1))
    else:
        weights = checked_mask(mask, error.shape)
        pixels = weights.sum(axis=(-2, -1))
        mse = np.divide(
            (error * weights).sum(axis=(-2, -1)), pixels, out=np.full(pixels.shape, np.nan), where=pixels > 0
        )
    floor = 10.0 ** (-PSNR_OF_IDENTICAL_DB / 10.0)
    return np.asarray(-10.0 * np.log10(np.maximum(mse, floor)), dtype=np.float64)


def moving_region(frames: Any, threshold: float = 0.15) -> NDArray[np.bool_]:
    """Where the robot and what it moves are, for a camera at rest.

    Args:
        frames: ``(..., T, H, W, 3)``, consecutive frames of an episode; uint8 or floating point in 0..1.
        threshold: a pixel belongs to the region where a channel is further than this from its median over T.

    Returns:
        bool ``(..., T, H, W)``.
    """
    images = unit_images(frames)
    background = np.median(images, axis=-4, keepdims=True)
    return np.asarray((np.abs(images - background) > threshold).any(axis=-1))


def ssim(prediction: Any, target: Any) -> NDArray[np.float64]:
    """Structural similarity, mean over positions and colour channels.

    Wang, Bovik, Sheikh, Simoncelli (2004), equation 13, with the paper's 11 x 11 Gaussian window of 1.5 px, K1 = 0.01,
    K2 = 0.03, and only windows that lie inside the image.

    Returns:
        ``(...,)`` in -1..1.

    Raises:
        RoboAlignError: as :func:`psnr`, or images smaller than the window.
    """
    first, second = _unit_pair(prediction, target)
    height, width = first.shape[-3:-1]
    if min(height, width) < _SSIM_SIZE:
        raise RoboAlignError(
            f"ssim: expected images of at least {_SSIM_SIZE}x{_SSIM_SIZE} pixels, found {height}x{width}"
        )
    leading = first.shape[:-3]
    pairs = [_channels_first(image) for image in (first, second)]
    values = [_ssim_batch(x, y) for x, y in zip(pairs[0].split(_SSIM_BATCH), pairs[1].split(_SSIM_BATCH), strict=True)]
    return torch.cat(values).numpy().reshape(leading)


def _ssim_batch(x: Tensor, y: Tensor) -> Tensor:
    """``(N, 3, H, W)`` float64 in 0..1, twice, to ``(N,)``."""
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x * mean_x
    var_y = _blur(y * y) - mean_y * mean_y
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = _SSIM_K1**2, _SSIM_K2**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x * mean_x + mean_y * mean_y + c1) * (var_x + var_y + c2)
    return (numerator / denominator).mean(dim=(1, 2, 3))


def _blur(images: Tensor) -> Tensor:
    """Gaussian window over the positions where it fits: matrix products, which are faster than narrow convolutions."""
    rows, columns = (_windows(size).to(images) for size in images.shape[-2:])
    return rows @ images @ columns.T


@lru_cache(maxsize=8)
def _windows(size: int) -> Tensor:
    """(positions, size) float64: the window at each position where it fits."""
    offsets = torch.arange(_SSIM_SIZE, dtype=torch.float64) - _SSIM_SIZE // 2
    window = torch.exp(-offsets.square() / (2 * _SSIM_SIGMA**2))
    window = window / window.sum()
    positions = size - _SSIM_SIZE + 1
    matrix = torch.zeros(positions, size, dtype=torch.float64)
    for position in range(positions):
        matrix[position, position : position + _SSIM_SIZE] = window
    return matrix


def _channels_first(images: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(images.reshape(-1, *images.shape[-3:])).permute(0, 3, 1, 2)


def _unit_pair(prediction: Any, target: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = _array(prediction), _array(target)
    if first.shape != second.shape or first.dtype != second.dtype:
        raise RoboAlignError(
            "images to compare: expected the same shape and dtype, "
            f"found {first.shape} {first.dtype} and {second.shape} {second.dtype}"
        )
    return unit_images(first), unit_images(second)


def unit_images(images: Any) -> NDArray[np.float64]:
    """Images ``(..., H, W, 3)`` as float64 in 0..1.

    Raises:
        RoboAlignError: another shape, a dtype that is neither uint8 nor floating point, or values outside 0..1.
    """
    array = _array(images)
    if array.ndim < 3 or array.shape[-1] != 3 or array.size == 0:
        raise RoboAlignError(f"images: expected shape (..., H, W, 3) with at least one image, found {array.shape}")
    if array.dtype == np.uint8:
        return array.astype(np.float64) / 255.0
    if not np.issubdtype(array.dtype, np.floating):
        raise RoboAlignError(f"images: expected uint8 (0..255) or floating point (0..1), found {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0.0 and high <= 1.0):  # also true for NaN
        raise RoboAlignError(f"images: expected finite values in 0..1 for {array.dtype}, found {low:g}..{high:g}")
    return array.astype(np.float64)


def checked_mask(mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """``mask`` broadcast to ``shape``.

    Raises:
        RoboAlignError: it is not boolean, or does not fit.
    """
    array = _array(mask)
    if array.dtype != np.bool_:
        raise RoboAlignError(f"mask: expected bool, found {array.dtype}")
    try:
        return np.broadcast_to(array, shape)
    except ValueError as error:
        raise RoboAlignError(f"mask: expected a shape that broadcasts to {shape}, found {array.shape}") from error


def _array(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
