"""Running the dynamics transformer forward, fast: fused weights, a key–value cache that is never re-allocated.

:mod:`roboalign_core.world_model.transformer` is the network as it is trained and as ``transformers`` has it; this is
the same function for inference. A test holds both to the same hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.codes import CodeLogits
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.transformer import NORM_EPS, DecoderLayer


@dataclass
class KeyValueCache:
    """Keys and values (layers, B, heads, capacity, d) of the tokens seen; ``length`` of them are filled."""

    keys: Tensor
    values: Tensor
    length: int = 0

    def repeat(self, count: int) -> KeyValueCache:
        """The past of each sequence ``count`` times in a row."""
        layers, batch, *rest = self.keys.shape
        keys, values = (part.new_empty(layers, batch, count, *rest) for part in (self.keys, self.values))
        keys[..., : self.length, :] = self.keys.unsqueeze(2)[..., : self.length, :]
        values[..., : self.length, :] = self.values.unsqueeze(2)[..., : self.length, :]
        return KeyValueCache(keys.flatten(1, 2), values.flatten(1, 2), self.length)


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer: queries, keys and values in one matrix, gate and up in another; norm weights are inside."""

    mix: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor

    @classmethod
    def of(cls, layer: DecoderLayer) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        mix = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
        return cls(
            _scaled(mix, layer.input_layernorm.weight),
            attention.o_proj.weight.detach(),
            _scaled(gate_up, layer.post_attention_layernorm.weight),
            mlp.down_proj.weight.detach(),
        )


class Decoder:
    """The dynamics transformer for inference, made from the weights as they are now. Not for gradients."""

    @torch.no_grad()
    def __init__(self, dynamics: Dynamics) -> None:
        backbone = dynamics.backbone
        self.config, self.capacity = backbone.config, backbone.capacity
        self._table = dynamics.table().detach()
        self._factors, self._groups = dynamics.factors().detach(), dynamics.groups
        self._positions = None if dynamics.positions is None else dynamics.positions.table().detach()
        self._layers = [_Layer.of(layer) for layer in backbone.layers if isinstance(layer, DecoderLayer)]
        self._norm = backbone.norm.weight.detach()
        self._rotary = backbone.rotary.to(self._norm.dtype)

    def cache(self, batch: int, tokens: int | None = None) -> KeyValueCache:
        """An empty cache for ``batch`` sequences of ``tokens``: at most, and where None, all that have positions."""
        config = self.config
        tokens = self.capacity if tokens is None else min(tokens, self.capacity)
        shape = (config.layers, batch, config.heads, tokens, config.dim // config.heads)
        return KeyValueCache(self._norm.new_zeros(shape), self._norm.new_zeros(shape))

    @torch.no_grad()
    def hidden(self, ids: Tensor, cache: KeyValueCache) -> Tensor:
        """Ids (B, L) after the tokens in ``cache``, which then holds them, too → hidden states (B, L, dim).

        Raises:
            RoboAlignError: more tokens than the cache holds.
        """
        start, end = cache.length, cache.length + ids.shape[1]
        if end > cache.keys.shape[-2]:
            raise RoboAlignError(f"dynamics transformer: expected at most {cache.keys.shape[-2]} tokens, found {end}")
        x = self._table[ids]
        if self._positions is not None:
            x = x + self._positions[start:end]
        mask = _causal_mask(start, end, x)
        for index, layer in enumerate(self._layers):
            mixed = self._attend(_normalised(x), layer, cache, index, start, mask)
            x = x + F.linear(mixed, layer.out)
            gate, up = F.linear(_normalised(x), layer.gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate).mul_(up), layer.down)
        cache.length = end
        return _normalised(x).mul_(self._norm)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> CodeLogits:
        """Hidden states (…, dim) → logits (…) of the next token, as :meth:`Dynamics.head` gives them."""
        return CodeLogits.of(self._groups, F.linear(hidden, self._factors))

    def _attend(
        self, x: Tensor, layer: _Layer, cache: KeyValueCache, index: int, start: int, mask: Tensor | None
    ) -> Tensor:
        end = start + x.shape[1]
        mixed = F.linear(x, layer.mix).unflatten(-1, (3, self.config.heads, -1)).permute(2, 0, 3, 1, 4)
        query = torch.empty_like(mixed[0])
        keys, values = cache.keys[index], cache.values[index]
        self._rotate(mixed[0], query, start)
        self._rotate(mixed[1], keys[:, :, start:end], start)
        values[:, :, start:end] = mixed[2]
        seen = F.scaled_dot_product_attention(query, keys[:, :, :end], values[:, :, :end], attn_mask=mask)
        return seen.transpose(1, 2).flatten(2)

    def _rotate(self, x: Tensor, out: Tensor, start: int) -> None:
        """Rotary positions from ``start`` on: (B, heads, L, d) into ``out`` of the same shape."""
        cos, sin = self._rotary[:, start : start + x.shape[2]]
        first, second = x.chunk(2, dim=-1)
        low, high = out.chunk(2, dim=-1)
        torch.mul(first, cos, out=low)
        low.addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=high)
        high.addcmul_(first, sin)


def _scaled(weight: Tensor, norm: Tensor) -> Tensor:
    """A matrix that takes what the norm leaves before its own weight."""
    return (weight.float() * norm.float()).to(weight.dtype)


def _normalised(x: Tensor) -> Tensor:
    """Root-mean-square norm without weight."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = length.square_().div_(x.shape[-1]).add_(NORM_EPS).rsqrt_()
    return x * scale.to(x.dtype)


def _causal_mask(start: int, end: int, x: Tensor) -> Tensor | None:
    if end - start == 1:
        return None
    allowed = torch.ones(end - start, end, dtype=torch.bool, device=x.device).tril(start)
    return torch.zeros(allowed.shape, dtype=x.dtype, device=x.device).masked_fill(~allowed, float("-inf"))
