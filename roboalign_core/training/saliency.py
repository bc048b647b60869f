"""Which pixels matter, and how much: a small robot and small objects on a large, calm table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class ReconstructionConfig:
    """Weights of the loss of a drawn frame.

    Attributes:
        foreground: of what stands out from the background, see :func:`saliency`.
        motion: of what changed since the context frame, see :func:`saliency`.
        squared: of the squared error beside the absolute one.
        edges: of differences between neighbouring pixels.
    """

    foreground: float = 4.0
    motion: float = 4.0
    squared: float = 4.0
    edges: float = 0.5

    def drawing_loss(self, drawn: Tensor, frames: Tensor, context: Tensor) -> Tensor:
        """Of drawn frames against real ones, with the context frame of each, all (B, 3, H, W)."""
        weight = saliency(frames, context, self.foreground, self.motion)
        return reconstruction_loss(drawn, frames, weight, self.squared, self.edges)


def saliency(frames: Tensor, context: Tensor, foreground: float, motion: float) -> Tensor:
    """Loss weights (B, 1, H, W), mean 1 per frame, for frames (B, 3, H, W) in [0, 1] with the context frame of each.

    A plain pixel mean is ruled by the background: a model may lose a thin gripper and still score well. Weighted up
    here are pixels whose colour is far from the frame's median colour (the background, without knowing any colour in
    advance) and pixels that changed since the context frame, both widened by two pixels.
    """
    median = frames.flatten(2).median(dim=2).values[..., None, None]
    distinct = (frames - median).abs().amax(1, keepdim=True)
    moved = (frames - context).abs().amax(1, keepdim=True)
    weight = foreground * _widen(distinct) + motion * _widen(moved)
    weight = 1 + weight
    return weight / weight.mean(dim=(1, 2, 3), keepdim=True)


def _widen(mask: Tensor) -> Tensor:
    return F.max_pool2d((mask * 4).clamp(max=1), 5, stride=1, padding=2)


def reconstruction_loss(predicted: Tensor, target: Tensor, weight: Tensor, squared: float, edges: float) -> Tensor:
    """Weighted L1 and squared error on pixels, and L1 on differences of neighbouring pixels (edges), for (B, 3, H, W).

    The squared part pulls hard on what is missing altogether, the L1 parts keep edges sharp.
    """
    error = predicted - target
    loss = ((error.abs() + squared * error.square()) * weight).mean()
    if edges:
        horizontal = (predicted.diff(dim=3) - target.diff(dim=3)).abs() * weight[..., 1:]
        vertical = (predicted.diff(dim=2) - target.diff(dim=2)).abs() * weight[..., 1:, :]
        loss = loss + edges * (horizontal.mean() + vertical.mean())
    return loss


def psnr(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over frames of the peak signal-to-noise ratio in dB of (B, 3, H, W) in [0, 1]."""
    error = (predicted.clamp(0, 1) - target).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
    return (-10 * torch.log10(error)).mean()
