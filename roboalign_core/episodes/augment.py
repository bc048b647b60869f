"""Photometric and geometric augmentation of clips; all frames of a clip get the same parameters."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from roboalign_core.errors import RoboAlignError

_LUMA = torch.tensor([0.299, 0.587, 0.114])
_RGB_TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_YIQ_TO_RGB = torch.linalg.inv(_RGB_TO_YIQ)


@dataclass
class AugmentationConfig:
    """How far a clip may be changed. Amounts are drawn uniformly from [-x, x] for each clip; 0 switches one off.

    Attributes:
        photometric: switch for the four colour changes.
        brightness: added to every colour, in units of the range [0, 1].
        contrast: relative change of the distance from mid-grey.
        saturation: relative change of the distance from the pixel's grey.
        hue: rotation of the hue in turns; 0.02 is about 7 degrees.
        geometric: switch for the two changes of geometry.
        zoom: relative change of the scale.
        shift: in units of the frame's height and width; pixels from outside repeat the border.
    """

    photometric: bool = True
    brightness: float = 0.08
    contrast: float = 0.1
    saturation: float = 0.1
    hue: float = 0.02
    geometric: bool = True
    zoom: float = 0.05
    shift: float = 0.04

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, bool) and not 0 <= value < 1:
                raise RoboAlignError(f"augmentation.{item.name}: expected a number in [0, 1), found {value!r}")

    @property
    def is_off(self) -> bool:
        """Nothing would change."""
        photometric = self.photometric and any((self.brightness, self.contrast, self.saturation, self.hue))
        return not photometric and not (self.geometric and any((self.zoom, self.shift)))


def augment(frames: Tensor, config: AugmentationConfig, rng: np.random.Generator) -> Tensor:
    """Change clips.

    Args:
        frames: (B, T, H, W, 3) uint8.
        config: how far.
        rng: draws one set of parameters for each of the B clips.

    Returns:
        (B, T, H, W, 3) uint8.
    """
    if config.is_off:
        return frames
    images = frames.permute(0, 1, 4, 2, 3).float() / 255.0
    if config.geometric:
        images = _move(images, _amounts(rng, len(frames), config.zoom, config.shift, config.shift))
    if config.photometric:
        amounts = _amounts(rng, len(frames), config.brightness, config.contrast, config.saturation, config.hue)
        images = _recolour(images, amounts)
    pixels = images.clamp_(0.0, 1.0).mul_(255.0).round_()
    return pixels.to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()


def _amounts(rng: np.random.Generator, count: int, *limits: float) -> Tensor:
    drawn: NDArray[np.float64] = rng.uniform(-1.0, 1.0, (count, len(limits))) * np.array(limits)
    return torch.from_numpy(drawn.astype(np.float32))


def _move(images: Tensor, amounts: Tensor) -> Tensor:
    """Zoom and shift (B, T, 3, H, W); the frames of a clip are channels of one image, so one grid moves all."""
    zoom, down, right = amounts.unbind(1)
    batch, length, _, height, width = images.shape
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1.0 / (1.0 + zoom)
    theta[:, 0, 2], theta[:, 1, 2] = -2.0 * right, -2.0 * down  # grid coordinates run from -1 to 1
    stacked = images.reshape(batch, length * 3, height, width)
    grid = affine_grid(theta, list(stacked.shape), align_corners=False)
    moved = grid_sample(stacked, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return moved.reshape(images.shape)


def _recolour(images: Tensor, amounts: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue of (B, T, 3, H, W) are together one affine map of the colours."""
    brightness, contrast, saturation, hue = amounts.unbind(1)
    matrix = (1.0 + contrast).view(-1, 1, 1) * _saturation_matrix(saturation) @ _hue_matrix(hue)
    offset = brightness - 0.5 * contrast
    return torch.einsum("bij,btjhw->btihw", matrix, images) + offset.view(-1, 1, 1, 1, 1)


def _saturation_matrix(amount: Tensor) -> Tensor:
    scale = (1.0 + amount).view(-1, 1, 1)
    return scale * torch.eye(3) + (1.0 - scale) * _LUMA.expand(3, 3)


def _hue_matrix(turns: Tensor) -> Tensor:
    angle = 2.0 * torch.pi * turns
    rotation = torch.eye(3).repeat(len(turns), 1, 1)
    rotation[:, 1, 1] = rotation[:, 2, 2] = torch.cos(angle)
    rotation[:, 1, 2], rotation[:, 2, 1] = -torch.sin(angle), torch.sin(angle)
    return _YIQ_TO_RGB @ rotation @ _RGB_TO_YIQ
