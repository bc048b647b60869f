"""Recordings as other cameras, lights and scenes would show them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from roboalign_core.episodes.augment import AugmentationConfig, augment

Array = NDArray[np.float32]
Frames = NDArray[np.uint8]

# A handful of recordings is soon known by heart, so each is made into many before it is damaged.
_LOOKS = AugmentationConfig(brightness=0.15, contrast=0.3, saturation=0.5, hue=0.5, zoom=0.35, shift=0.15)
_CARRIED, _EXPOSED = 0.5, 0.5  # recordings that are seen as by a camera that moves, or that adapts to the light
_ADAPTING = 0.25  # share of the brightness
# Of a camera that moves: least share of the frame that it sees; of the frame; radians.
_NEAREST, _SWAY, _TURN = 0.6, 0.25, 0.2
_STILL = 0.5  # of the colours: most that a still picture which is laid over a recording may be


def looking(frames: Frames, look: int, still: Frames | None) -> Frames:
    """Frames (T, H, W, 3) in one of many looks, the same for the same number."""
    random = np.random.default_rng(look)
    if still is not None:
        share = random.uniform(0, _STILL)
        frames = np.rint((1 - share) * frames + share * still).astype(np.uint8)
    frames = frames[:, :: random.choice((-1, 1)), :: random.choice((-1, 1))]
    if frames.shape[1] == frames.shape[2] and random.random() < 0.5:
        frames = frames.transpose(0, 2, 1, 3)
    with torch.autocast("cpu", enabled=False):
        seen = augment(torch.from_numpy(frames.copy())[None], _LOOKS, random)[0]
        seen = carried(seen, random) if random.random() < _CARRIED else seen
        return (exposed(seen, random) if random.random() < _EXPOSED else seen).numpy()


def carried(frames: Tensor, random: np.random.Generator) -> Tensor:
    """Frames (T, H, W, 3) uint8 as a camera sees them that drifts, sways and turns, as on a robot's wrist."""
    count = len(frames)
    angle, nearer = _way(count, _TURN, random), 1 + _way(count, _SWAY, random)
    scale = np.clip(random.uniform(_NEAREST, 1) * nearer, _NEAREST, 1)
    across, down = scale * np.cos(angle), scale * np.sin(angle)
    right, below = (_way(count, 2 * _SWAY, random) for _ in range(2))
    views = np.stack([across, -down, right, down, across, below], axis=1).astype(np.float32).reshape(-1, 2, 3)
    pixels = frames.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(torch.from_numpy(views), list(pixels.shape), align_corners=False)
    found = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    return found.round().to(torch.uint8).permute(0, 2, 3, 1)


def exposed(frames: Tensor, random: np.random.Generator) -> Tensor:
    """Frames (T, H, W, 3) uint8 as a camera sees them that adapts to the light."""
    gains = torch.from_numpy(1 + _way(len(frames), _ADAPTING, random)).float()
    return (frames.float() * gains[:, None, None, None]).round().clamp(0, 255).to(torch.uint8)


def _way(count: int, most: float, random: np.random.Generator) -> Array:
    """(count,) float32 of at most ``most`` to both sides: a drift and a swing."""
    times = np.linspace(0, 1, count)
    swing = np.sin(2 * np.pi * (random.uniform(0.5, 3) * times + random.uniform()))
    return np.asarray(most * (random.uniform(-1, 1) * (times - 0.5) + random.uniform(-0.5, 0.5) * swing), np.float32)
