"""Finite scalar quantisation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roboalign_core.errors import RoboAlignError


class FSQ(nn.Module):
    """Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505).

    Each of the ``d = len(levels)`` channels is bounded by a tanh and rounded to one of ``levels[i]`` values; the
    product of the levels is the codebook. Gradients pass straight through the rounding.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: Sequence[int]) -> None:
        super().__init__()
        if not levels or any(level < 2 for level in levels):
            raise RoboAlignError(f"FSQ levels: expected integers of at least 2, found {list(levels)}")
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.int64), persistent=False)
        self.register_buffer("basis", torch.tensor(basis, dtype=torch.int64), persistent=False)
        self.codes = math.prod(levels)
        self.dim = len(levels)
        self.centre = sum(level // 2 * step for level, step in zip(levels, basis, strict=True))  # its values are zeros

    def bound(self, z: Tensor) -> Tensor:
        """(…, d) real → (…, d) within the range that rounds to ``levels`` integers."""
        half = (self.levels - 1).float() * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        shift = torch.atanh(offset / half)
        return torch.tanh(z.float() + shift) * half - offset

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """(…, d) real → values (…, d) in [-1, 1] with straight-through gradient, and codes (…) int64."""
        bounded = self.bound(z)
        rounded = bounded + (bounded.round() - bounded).detach()
        half = self.levels // 2
        digits = rounded.detach().round().long() + half
        return rounded / half, (digits * self.basis).sum(-1)

    def values(self, codes: Tensor) -> Tensor:
        """Codes (…) int64 → values (…, d) in [-1, 1]."""
        digits = codes.unsqueeze(-1) // self.basis % self.levels
        half = self.levels // 2
        return (digits - half).float() / half
