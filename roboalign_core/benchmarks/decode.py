"""Decoding side by side: the ancestors' way and ours, with the same weights, number format and device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from roboalign_core.benchmarks.timing import matmul_limit, timed
from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.huggingface import load_llama
from roboalign_core.world_model.layout import TokenLayout
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Context, Imagination, Order

# What each way is, in the order of the results.
WAYS = {
    "ancestor": "transformers' generate for every frame; no cache between frames, the context repeated per candidate",
    "ancestor_static": "the same with transformers' static cache within each frame",
    "token": "ours, token by token: one cache for the whole rollout, the context computed once",
    "frame": "ours, all tokens of a frame in one pass",
}


class HuggingFace:
    """Rollouts by ``transformers`` alone, as iVideoGPT and RLVR-World make them."""

    def __init__(self, world_model: WorldModel, name: str, implementation: str | None) -> None:
        self.layout: TokenLayout = world_model.config.layout
        self.network = load_llama(name, world_model.dtype).to(world_model.device)
        self.options: dict[str, Any] = {"cache_implementation": implementation} if implementation else {}

    @torch.no_grad()
    def roll(self, context: Context, bins: Tensor) -> Tensor:
        """Bins (N, T, A) → dynamics codes (N, T, dynamics_tokens), greedily."""
        layout, candidates = self.layout, len(bins)
        ids = torch.cat([layout.context_ids(context.codes), context.start], dim=1).repeat(candidates, 1)
        for step in range(bins.shape[1]):
            ids = torch.cat([ids, layout.action_ids(bins[:, step])], dim=1)
            ids = self.network.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=layout.dynamics_tokens,
                min_new_tokens=layout.dynamics_tokens,
                do_sample=False,
                pad_token_id=0,
                suppress_tokens=list(range(layout.dynamics_codes, layout.vocabulary)),
                **self.options,
            )
        steps = ids[:, layout.context_tokens + layout.dynamics_tokens :].unflatten(1, (bins.shape[1], -1))
        return steps[:, :, layout.action_tokens :]


@torch.no_grad()
def roll_ours(world_model: WorldModel, context: Context, bins: Tensor, order: Order) -> Tensor:
    """The same with our decoder."""
    imagination = Imagination(world_model, context, len(bins), order)
    return torch.stack([imagination.step(bins[:, step]) for step in range(bins.shape[1])], dim=1)


def decode(
    name: str, ways: list[str], candidates: list[int], frames: int, repeats: int, seed: int, device: str
) -> Mapping[str, Any]:
    """Time every way for every number of candidates."""
    world_model = WorldModel.from_pretrained(name, device)
    limit = world_model.config.dynamics.max_frames - 1
    if frames > limit:
        raise RoboAlignError(f"frames: expected at most {limit}, as the model has positions for, found {frames}")
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (1, *world_model.config.image_size, 3), dtype=np.uint8)
    context = world_model.encode(torch.from_numpy(image))
    low, high = world_model.config.action_low, world_model.config.action_high
    rollers = {way: _roller(way, world_model, name) for way in ways}
    figures: dict[str, Any] = {"matmul_gflops": matmul_limit(world_model.dtype, world_model.device) / 1e9}
    rows = []
    for count in candidates:
        actions = random.uniform(low, high, (count, frames, len(low))).astype(np.float32)
        bins = world_model.action_bins(actions)
        for way in track(ways, f"{count} candidates"):
            timing = timed(lambda: rollers[way](context, bins), repeats, world_model.device)  # noqa: B023 - called now
            per_s = count * frames / timing.median
            figures[f"{way}_n{count}_frames_per_s"] = per_s
            tokens = per_s * world_model.config.layout.dynamics_tokens
            seconds = {"median_s": timing.median, "q25_s": timing.low, "q75_s": timing.high}
            rows.append({"way": way, "candidates": count, "frames_per_s": per_s, "tokens_per_s": tokens, **seconds})
        figures |= _ratios(figures, ways, count)
    if {"ancestor", "token"} <= set(ways):
        figures["token_agreement_with_ancestor"] = _agreement(rollers, context, bins)
    return {**figures, "frames": frames, "dtype": str(world_model.dtype), "detail": {"rows": rows, "ways": WAYS}}


def _roller(way: str, world_model: WorldModel, name: str) -> Callable[[Context, Tensor], Tensor]:
    if way == "token":
        return lambda context, bins: roll_ours(world_model, context, bins, "token")
    if way == "frame":
        return lambda context, bins: roll_ours(world_model, context, bins, "frame")
    return HuggingFace(world_model, name, "static" if way == "ancestor_static" else None).roll


def _ratios(figures: Mapping[str, float], ways: list[str], count: int) -> dict[str, float]:
    """How many times faster ours is."""
    pairs = {"token_over_ancestor": ("token", "ancestor"), "frame_over_token": ("frame", "token")}
    return {
        f"{label}_n{count}": figures[f"{first}_n{count}_frames_per_s"] / figures[f"{second}_n{count}_frames_per_s"]
        for label, (first, second) in pairs.items()
        if first in ways and second in ways
    }


def _agreement(rollers: Mapping[str, Callable[[Context, Tensor], Tensor]], context: Context, bins: Tensor) -> float:
    """Share of the first imagined frame's tokens that come out alike, for the last number of candidates."""
    ours, theirs = (rollers[way](context, bins[:, :1]) for way in ("token", "ancestor"))
    return (ours == theirs).float().mean().item()
