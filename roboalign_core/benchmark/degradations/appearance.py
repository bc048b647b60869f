"""Damage to the pixels of whole frames, as of a failing renderer or a drifting world model. The first frame stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import grid_sample, interpolate

from roboalign_core.benchmark.degradations.degradation import Degradation, Pool
from roboalign_core.episodes import Episode
from roboalign_core.episodes.boxes import BOXES

_GAIN, _TINT = 0.5, 0.12  # largest relative change of brightness, and of one colour besides
_SIGMA = 0.04  # of the shorter side: the standard deviation of the strongest blur
_TIE = 1e-6  # of a grey level
_DRIFT = 0.05  # of the shorter side: the standard deviation of the strongest shift of texture
_CELLS = 5  # of the coarse grid that shifts are drawn on
_TURN = 1.5 * np.pi  # by which the shifts swim from one pattern to another during a video
_ROUNDS = 3  # to find the place that shows a box's middle


def flicker(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """Every frame but the first is lit differently."""
    count = len(episode)
    light = rng.choice((-1.0, 1.0), (count, 1)) * rng.uniform(0.3, 1.0, (count, 1))
    gains = 1 + strength * (_GAIN * light + _TINT * rng.uniform(-1.0, 1.0, (count, 3)))
    gains[0] = 1
    lit = np.rint(episode.frames * gains[:, None, None].astype(np.float32))
    return replace(episode, frames=np.minimum(lit, 255).astype(np.uint8))


def blur(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """Details melt away, from sharp at first to a Gaussian blur at the end."""
    count, height, width = episode.frames.shape[:3]
    frames = episode.frames.copy()
    sigmas = strength * _SIGMA * min(height, width) * np.arange(count) / (count - 1)
    for time in range(1, count):
        down, across = _smoother(height, sigmas[time]), _smoother(width, sigmas[time])
        rows = down @ frames[time].reshape(height, -1).astype(np.float64)
        columns = across @ rows.reshape(height, width, 3).transpose(1, 0, 2).reshape(width, -1)
        # Sums differ in their last bits from run to run; neither that nor a tie may decide how a pixel is rounded.
        frames[time] = np.rint(columns.reshape(width, height, 3).transpose(1, 0, 2) + _TIE).astype(np.uint8)
    return replace(episode, frames=frames)


def texture_drift(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """Shapes and textures swim away from where they belong, ever farther."""
    count, height, width = episode.frames.shape[:3]
    shifts = _shifts(rng, count, (height, width), strength * _DRIFT * min(height, width))
    y, x = (torch.arange(size, dtype=torch.float32) + 0.5 for size in (height, width))
    centres = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
    sides = torch.tensor([width, height], dtype=torch.float32)
    places = (centres + shifts.permute(0, 2, 3, 1)) * (2 / sides) - 1  # the whole image from -1 to 1
    images = torch.from_numpy(np.ascontiguousarray(episode.frames[1:])).permute(0, 3, 1, 2).float()
    drawn = grid_sample(images, places[1:], mode="bilinear", padding_mode="reflection", align_corners=False)
    frames = episode.frames.copy()
    frames[1:] = drawn.round_().clamp_(0, 255).permute(0, 2, 3, 1).to(torch.uint8).numpy()
    return replace(episode, frames=frames, extras=_shifted_boxes(episode.extras, shifts.numpy()))


def _smoother(size: int, sigma: float) -> NDArray[np.float64]:
    """(size, size) weights of a Gaussian blur of a row; at the ends of what is there."""
    distances = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-0.5 * np.square(distances / max(sigma, 1e-3)))
    smoother: NDArray[np.float64] = weights / weights.sum(1, keepdims=True)
    return smoother


def _shifts(rng: np.random.Generator, count: int, size: tuple[int, int], pixels: float) -> torch.Tensor:
    """(T, 2, H, W) smooth fields of shifts to the right and down, in pixels; none in the first frame."""
    patterns = torch.from_numpy(rng.normal(size=(2, 2, _CELLS, _CELLS)).astype(np.float32))
    start, end = interpolate(patterns, size=size, mode="bicubic", align_corners=True)
    time = torch.linspace(0, 1, count).view(-1, 1, 1, 1)
    return pixels * time * (start * torch.cos(_TURN * time) + end * torch.sin(_TURN * time))


def _shifted_boxes(
    extras: Mapping[str, NDArray[np.float32]], shifts: NDArray[np.float32]
) -> dict[str, NDArray[np.float32]]:
    """Boxes go where the texture at their middle goes: the place that shows it, a shift before where it was."""
    if BOXES not in extras:
        return dict(extras)
    height, width = shifts.shape[2:]
    boxes = extras[BOXES].reshape(len(shifts), -1, 2, 2)  # of each: upper left, lower right
    seen = (boxes[:, :, 1] > boxes[:, :, 0]).all(-1)
    time = np.arange(len(shifts))[:, None]
    away = np.zeros((*boxes.shape[:2], 2), np.float32)
    for _ in range(_ROUNDS):
        x, y = np.moveaxis(np.floor((boxes.mean(2) - away) * (width, height)).astype(int), -1, 0)
        away = shifts[time, :, y.clip(0, height - 1), x.clip(0, width - 1)] / np.array([width, height], np.float32)
    moved = np.clip(boxes - away[:, :, None], 0, 1) * seen[:, :, None, None]
    return {**extras, BOXES: moved.reshape(extras[BOXES].shape).astype(np.float32)}


ALL = (
    Degradation(
        "flicker",
        "appearance",
        "Brightness and tint jump from frame to frame.",
        flicker,
        {"temporal_consistency": (0, 0.75, 1, 1, 1)},
    ),
    Degradation(
        "blur",
        "appearance",
        "Details melt away towards the end.",
        blur,
        {
            "temporal_consistency": (0, 0.25, 0.5, 0.75, 1),
            "contact_realism": (0, 0, 0.25, 0.5, 0.5),
            "physics_adherence": (0, 0, 0.5, 0.75, 1),
        },
    ),
    Degradation(
        "texture_drift",
        "appearance",
        "Shapes and textures swim away from their places, farther towards the end.",
        texture_drift,
        {
            "temporal_consistency": (0, 0.5, 1, 1, 1),
            "contact_realism": (0, 0, 0.25, 0.5, 0.5),
            "physics_adherence": (0, 0.5, 1, 1.5, 2),
        },
    ),
)
