"""Running the dynamics transformer forward, fast: fused weights, and a cache that keeps once what is shared.

:mod:`roboalign_core.world_model.transformer` is the network as it is trained and as ``transformers`` has it; this is
the same function for inference. A test holds both to the same hidden states.
"""

from __future__ import annotations

from dataclasses import dataclass
from platform import machine
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError
from roboalign_core.precision import native_dtype
from roboalign_core.world_model.codes import CodeLogits
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.transformer import NORM_EPS, DecoderLayer

ALIGNMENT = 32
"""Rows of attention scores are multiples of it: vector registers are filled, and the softmax takes half the time."""


@dataclass
class KeyValueCache:
    """What N sequences have seen: a past that they share, and after it each its own.

    Keys are transposed, as the product with queries wants them. Sequences that begin alike follow each other.

    Attributes:
        keys: (layers, heads, N, d, S) of each sequence's own tokens, 0 where there are none yet.
        values: (layers, heads, N, S, d), likewise.
        shared_keys: (layers, heads, b, d, P), each of N / b sequences.
        shared_values: (layers, heads, b, P, d).
        length: tokens seen, those that are shared among them.
        limit: tokens that it may grow to.
    """

    keys: Tensor
    values: Tensor
    shared_keys: Tensor
    shared_values: Tensor
    length: int
    limit: int

    @classmethod
    def after(cls, shared_keys: Tensor, shared_values: Tensor, count: int, limit: int) -> KeyValueCache:
        """``count`` sequences after each shared past, of at most ``limit`` tokens in all."""
        layers, heads, pasts, d, shared = shared_keys.shape
        keys = shared_keys.new_empty(layers, heads, pasts * count, d, 0)
        return cls(keys, keys.transpose(-1, -2), shared_keys, shared_values, shared, limit)

    def reserve(self, tokens: int) -> None:
        """Make room for so many tokens in all.

        Keys and values lie without gaps, which products with them need not to copy them first.
        """
        length, more = self.keys.shape[-1], _aligned(tokens) - self.shared - self.keys.shape[-1]
        if more > 0:
            keys = self.keys.new_empty(*self.keys.shape[:-1], length + more)
            values = self.values.new_empty(*self.values.shape[:-2], length + more, self.values.shape[-1])
            keys[..., :length], keys[..., length:] = self.keys, 0
            values[..., :length, :], values[..., length:, :] = self.values, 0
            self.keys, self.values = keys, values

    @property
    def shared(self) -> int:
        """P, tokens of the shared past."""
        return self.shared_keys.shape[-1]

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(part.nbytes for part in (self.keys, self.values, self.shared_keys, self.shared_values))

    def repeat(self, count: int) -> KeyValueCache:
        """The past of each sequence ``count`` times in a row: shared from now on where nothing was shared yet."""
        own = self.length - self.shared
        if not self.shared:
            keys, values = self.keys[..., :own].contiguous(), self.values[..., :own, :].contiguous()
            return self.after(keys, values, count, self.limit)
        more = self.after(self.shared_keys, self.shared_values, self.keys.shape[2] // self._pasts * count, self.limit)
        more.keys, more.values = self.keys.repeat_interleave(count, 2), self.values.repeat_interleave(count, 2)
        more.length = self.length
        return more

    def keep(self, rows: Tensor) -> None:
        """Forget all sequences but ``rows`` (M,).

        Raises:
            RoboAlignError: they share several pasts, so that a past could be left with fewer than another.
        """
        if self._pasts > 1:
            raise RoboAlignError(f"cache: expected sequences with one past to choose from, found {self._pasts} pasts")
        self.keys, self.values = self.keys[:, :, rows], self.values[:, :, rows]

    @property
    def _pasts(self) -> int:
        return self.shared_keys.shape[2]


class _Matrix:
    """A weight to multiply by, kept in the order that oneDNN wants on a CPU, where what follows is fused into it."""

    def __init__(self, weight: Tensor) -> None:
        self.packed = _packs(weight)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, None) if self.packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        """The product x Wᵀ."""
        if self.packed:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "none", [], ""))
        return F.linear(x, self.weight)

    def silu(self, x: Tensor) -> Tensor:
        """SiLU of the product."""
        if self.packed:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self.weight, None, "swish", [], ""))
        return F.silu(F.linear(x, self.weight))

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """The product, times another number for each."""
        return self._with(x, other, "mul") if self.packed else F.linear(x, self.weight).mul_(other)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """The product, plus another number for each."""
        return self._with(x, other, "add") if self.packed else F.linear(x, self.weight).add_(other)

    def _with(self, x: Tensor, other: Tensor, how: str) -> Tensor:
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, None, how))


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN computes with this weight natively."""
    if weight.device.type != "cpu" or machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype == torch.float32 or native_dtype(weight.device) == weight.dtype


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer: queries, keys and values in one matrix; norm weights are inside.

    ``mix`` gives the first halves of all heads' queries and of their keys, then the second halves, then the values:
    rotary positions turn the halves against each other, in long runs of numbers. Queries come scaled.
    """

    mix: _Matrix
    out: _Matrix
    gate: _Matrix
    up: _Matrix
    down: _Matrix

    @classmethod
    def of(cls, layer: DecoderLayer) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        query, key, value = (part.weight.float() for part in (attention.q_proj, attention.k_proj, attention.v_proj))
        scale = (len(query) // attention.heads) ** -0.5
        halves = torch.stack([query * scale, key]).unflatten(1, (attention.heads, 2, -1)).permute(2, 0, 1, 3, 4)
        mix = torch.cat([halves.flatten(0, 3), value])
        norm, dtype = layer.post_attention_layernorm.weight, attention.o_proj.weight.dtype
        return cls(
            _Matrix((mix * layer.input_layernorm.weight).to(dtype)),
            _Matrix(attention.o_proj.weight.detach()),
            _Matrix((mlp.gate_proj.weight.float() * norm).to(dtype)),
            _Matrix((mlp.up_proj.weight.float() * norm).to(dtype)),
            _Matrix(mlp.down_proj.weight.detach()),
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
        self._rotary = backbone.rotary.to(self._norm.dtype).repeat(1, 1, 2 * self.config.heads)
        length = _aligned(self.capacity)
        self._mask = self._norm.new_full((length, length), float("-inf")).triu(1)

    def cache(self, batch: int, tokens: int | None = None) -> KeyValueCache:
        """An empty cache for ``batch`` sequences of ``tokens``: at most, and where None, all that have positions."""
        config = self.config
        limit = self.capacity if tokens is None else min(tokens, self.capacity)
        nothing = self._norm.new_zeros(config.layers, config.heads, batch, config.dim // config.heads, 0)
        return KeyValueCache.after(nothing, nothing.transpose(-1, -2), 1, limit)

    @torch.no_grad()
    def hidden(self, ids: Tensor, cache: KeyValueCache) -> Tensor:
        """Ids (B, L) after the tokens in ``cache``, which then holds them, too → hidden states (B, L, dim).

        Raises:
            RoboAlignError: more tokens than the cache holds.
        """
        start, end = cache.length, cache.length + ids.shape[1]
        if end > cache.limit:
            raise RoboAlignError(f"dynamics transformer: expected at most {cache.limit} tokens, found {end}")
        cache.reserve(end)
        x = self._table[ids]
        if self._positions is not None:
            x = x + self._positions[start:end]
        for index, layer in enumerate(self._layers):
            x = layer.out.plus(self._attend(_normalised(x), layer, cache, index), x)
            ready = _normalised(x)
            x = layer.down.plus(layer.up.times(ready, layer.gate.silu(ready)), x)
        cache.length = end
        return _normalised(x).mul_(self._norm)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> CodeLogits:
        """Hidden states (…, dim) → logits (…) of the next token, as :meth:`Dynamics.head` gives them."""
        return CodeLogits.of(self._groups, F.linear(hidden, self._factors))

    def _attend(self, x: Tensor, layer: _Layer, cache: KeyValueCache, index: int) -> Tensor:
        """Normalised states (B, L, dim) → what each token has seen (B, L, dim); their keys and values are kept."""
        start, end = cache.length, cache.length + x.shape[1]
        turned, value = self._project(x, layer, start)
        query, key = turned.unflatten(-1, (2, self.config.heads, -1)).unbind(3)  # (2, B, L, heads, d / 2)
        query = query.permute(3, 1, 2, 0, 4).flatten(3)  # (heads, B, L, d)
        keys, values, own = cache.keys[index], cache.values[index], slice(start - cache.shared, end - cache.shared)
        keys[..., own].unflatten(2, (2, -1)).copy_(key.permute(3, 1, 0, 4, 2))
        values[:, :, own] = value.unflatten(-1, (self.config.heads, -1)).permute(2, 0, 1, 3)
        mask = self._mask[start:end, cache.shared : cache.shared + keys.shape[-1]]
        shared = (cache.shared_keys[index], cache.shared_values[index])
        seen = _mix(query, (keys, values), shared, mask)
        return seen.permute(1, 2, 0, 3).flatten(2)

    def _project(self, x: Tensor, layer: _Layer, start: int) -> tuple[Tensor, Tensor]:
        """Queries and keys (2, B, L, dim) in their halves, turned by rotary positions; values (B, L, dim)."""
        first, second, value = layer.mix(x).chunk(3, dim=-1)
        cos, sin = self._rotary[:, start : start + x.shape[1]]
        turned = x.new_empty(2, *x.shape)
        torch.mul(first, cos, out=turned[0]).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=turned[1]).addcmul_(first, sin)
        return turned, value


def _mix(query: Tensor, own: tuple[Tensor, Tensor], shared: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """Attention of scaled queries (heads, N, L, d) to what is shared and, with ``mask`` added, to what is each one's.

    Keys (heads, N, d, S) and values (heads, N, S, d), shared ones (heads, b, d, P) and (heads, b, P, d). The queries of
    all sequences with one past meet it in one product, and the softmax spans both.
    """
    (keys, values), (old_keys, old_values) = own, shared
    heads, d, past = len(query), query.shape[-1], old_keys.shape[-1]
    weights = _scores(query, keys, old_keys, mask).softmax(-1)
    if not past:
        return (weights @ values.flatten(0, 1)).view_as(query)
    many = (heads * old_keys.shape[1], -1)  # the queries of all sequences with one past, in a row
    seen = torch.bmm(weights[..., past:], values.flatten(0, 1))
    seen.view(*many, d).baddbmm_(weights.view(*many, weights.shape[-1])[..., :past], old_values.flatten(0, 1))
    return seen.view_as(query)


def _scores(query: Tensor, keys: Tensor, old_keys: Tensor, mask: Tensor) -> Tensor:
    """Scores (heads · N, L, P + S) of all that a query sees, for :func:`_mix`."""
    heads, batch, length, d = query.shape
    past, many = old_keys.shape[-1], (heads * old_keys.shape[1], -1)
    if (
        query.dtype == torch.float32
    ):  # whose products of many matrices are taken one by one where they are to leave gaps
        scores = torch.bmm(query.flatten(0, 1), keys.flatten(0, 1)).add_(mask)
        old = torch.bmm(query.view(*many, d), old_keys.flatten(0, 1)).view(heads * batch, length, past)
        return torch.cat([old, scores], dim=-1) if past else scores
    scores = query.new_empty(heads * batch, length, past + keys.shape[-1])
    torch.baddbmm(mask, query.flatten(0, 1), keys.flatten(0, 1), out=scores[..., past:])
    if past:
        torch.bmm(query.view(*many, d), old_keys.flatten(0, 1), out=scores.view(*many, scores.shape[-1])[..., :past])
    return scores


def _normalised(x: Tensor) -> Tensor:
    """Root-mean-square norm without weight."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = length.square_().div_(x.shape[-1]).add_(NORM_EPS).rsqrt_()
    return x * scale.to(x.dtype)


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
