"""Sequences that begin alike: what they share is run through the transformer once, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.transformer import DecoderLayer


def branching_hidden(dynamics: Dynamics, trunk: Tensor, branches: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states of N sequences, of which N / P in a row begin alike.

    The same as :meth:`Dynamics.hidden` of the whole sequences, at the price of each trunk once.

    Args:
        dynamics: the network.
        trunk: ids (P, K), what the sequences begin with.
        branches: ids (N, L), how each goes on.

    Returns:
        Hidden states (P, K, dim) of the trunks and (N, L, dim) of the branches.

    Raises:
        RoboAlignError: N is not a multiple of P, or the sequences are longer than there are positions.
    """
    backbone = dynamics.backbone
    (count, start), (total, length) = trunk.shape, branches.shape
    if total % count:
        raise RoboAlignError(f"branches: expected a multiple of {count}, the trunks, found {total}")
    if start + length > backbone.capacity:
        raise RoboAlignError(
            f"dynamics transformer: expected at most {backbone.capacity} tokens, found {start + length}"
        )
    table = dynamics.table()
    x, y = F.embedding(trunk, table), F.embedding(branches, table)
    if dynamics.positions is not None:
        positions = dynamics.positions.table()
        x, y = x + positions[:start], y + positions[start : start + length]
    mask = torch.full((start + length,) * 2, float("-inf"), dtype=x.dtype, device=x.device).triu(1)
    rotary = backbone.rotary.to(x.dtype).split([start, length, backbone.capacity - start - length], dim=1)
    for layer in backbone.layers:
        if isinstance(layer, DecoderLayer):  # as all are
            x, y = _layer(layer, x, y, rotary[0], rotary[1], mask)
    return backbone.norm(x), backbone.norm(y)


def _layer(
    layer: DecoderLayer, x: Tensor, y: Tensor, before: Tensor, after: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Trunks (P, K, dim) and branches (N, L, dim), with their rotary positions, one layer further."""
    attention, start, times = layer.self_attn, x.shape[1], len(y) // len(x)
    query, key, value = attention.project(layer.input_layernorm(x), before)
    x = x + attention.mix(query, key, value, mask[:start, :start])
    query, *own = attention.project(layer.input_layernorm(y), after)
    key, value = (
        torch.cat([shared.repeat_interleave(times, 0), each], dim=2)
        for shared, each in zip((key, value), own, strict=True)
    )
    y = y + attention.mix(query, key, value, mask[start:])
    return layer.feed(x), layer.feed(y)
