"""Building blocks of the tokenizer and the frame head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roboalign_core.world_model.config import NORM_GROUPS


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention over (B, heads, L, d); ``mask`` is additive.

    While training it is written out, because the backward pass of the fused CPU kernel is slow.
    """
    if not torch.is_grad_enabled() or query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores + mask
    return scores.softmax(-1) @ value


class Attention(nn.Module):
    """Multi-head attention of ``x`` to ``source`` (to itself where none is given), both (B, L, dim)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """(B, L, dim) → (B, L, dim)."""
        source = x if source is None else source
        key, value = self.key_value(source).chunk(2, dim=-1)
        mixed = attend(self._split(self.query(x)), self._split(key), self._split(value))
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm transformer block; with ``cross`` it also attends to a second sequence."""

    def __init__(self, dim: int, heads: int, cross: bool = False, expansion: int = 4) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm_cross = nn.LayerNorm(dim) if cross else None
        self.cross = Attention(dim, heads) if cross else None
        self.norm_mlp = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, expansion * dim), nn.GELU(), nn.Linear(expansion * dim, dim))

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """(B, L, dim) → (B, L, dim); ``source`` (B, S, dim) is needed with ``cross``."""
        x = x + self.attention(self.norm_self(x))
        if self.cross is not None and self.norm_cross is not None:
            x = x + self.cross(self.norm_cross(x), source)
        return x + self.mlp(self.norm_mlp(x))


class ConvBlock(nn.Module):
    """Residual pair of 3×3 convolutions over (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(NORM_GROUPS, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return x + self.second(F.gelu(self.first(self.norm(x))))
