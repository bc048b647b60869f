"""Decoding side by side: the ancestors' way and ours, with the same weights, number format and device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor

from roboalign_core.benchmarks.timing import Timing, matmul_limit, peak_memory, timed_in_turns
from roboalign_core.errors import RoboAlignError, require
from roboalign_core.evaluation.report import figure_png
from roboalign_core.world_model.huggingface import load_llama
from roboalign_core.world_model.layout import TokenLayout
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Context, Imagination, Order

# What each way is, in the order of the results.
WAYS = {
    "ancestor": "transformers' generate for every frame; no cache between frames, the context repeated per candidate",
    "static": "the same with transformers' static cache within each frame",
    "token": "ours, token by token: one cache for the rollout, the context computed once, guesses tried in one pass",
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
    """Time every way for every number of candidates, in turns, so that a machine that slows down slows them all."""
    world_model = WorldModel.from_pretrained(name, device)
    limit = world_model.config.dynamics.max_frames - 1
    if frames > limit:
        raise RoboAlignError(f"frames: expected at most {limit}, as the model has positions for, found {frames}")
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (1, *world_model.config.image_size, 3), dtype=np.uint8)
    context = world_model.encode(torch.from_numpy(image))
    low, high = world_model.config.action_low, world_model.config.action_high
    rollers = {way: _roller(way, world_model, name) for way in ways}
    bound = matmul_limit(world_model.dtype, world_model.device)
    figures: dict[str, Any] = {"matmul_gflops": bound / 1e9}
    rows = []
    for count in track(candidates, "decode"):
        actions = random.uniform(low, high, (count, frames, len(low))).astype(np.float32)
        bins = world_model.action_bins(actions)
        calls: dict[str, Callable[[], object]] = {way: partial(rollers[way], context, bins) for way in ways}
        memory = {way: peak_memory(call, world_model.device) for way, call in calls.items()}
        for way, timing in timed_in_turns(calls, repeats, world_model.device).items():
            row = _row(world_model, way, count, frames, timing)
            if (peak := memory[way]) is not None:
                row |= {"peak_memory_mb": peak / 2**20}
            row["matmul_share"] = frame_flops(world_model, way) * row["frames_per_s"] / bound
            figures[f"{way}_b{count}_frames_per_s"] = row["frames_per_s"]
            rows.append(row)
        figures |= _ratios(figures, ways, count)
    if {"ancestor", "token"} <= set(ways):
        figures["token_agreement_with_ancestor"] = _agreement(rollers, context, bins)
        figures["tokens_identical"] = _identical(name, image, bins[:2, :2])
    return {**figures, "frames": frames, "dtype": str(world_model.dtype), "detail": {"rows": rows, "ways": WAYS}}


def plot(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Frames a second against the number of candidates, a line a way, with quartiles; a PNG file.

    Raises:
        MissingExtraError: matplotlib is absent.
    """
    require("matplotlib", "viz").use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axis = figure.subplots()
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        middle = np.array([row["frames_per_s"] for row in own])
        frames = np.array([row["frames_per_s"] * row["median_s"] for row in own])
        spread = [middle - frames / [row["q75_s"] for row in own], frames / [row["q25_s"] for row in own] - middle]
        axis.errorbar([row["candidates"] for row in own], middle, np.abs(spread), marker="o", capsize=3, label=way)
    axis.set(xscale="log", yscale="log", xlabel="candidates", ylabel="imagined frames a second")
    axis.legend()
    return figure_png(figure)


def frame_flops(world_model: WorldModel, way: str) -> float:
    """Operations that a frame's matrix products take where nothing is computed twice; attention is not counted."""
    dynamics, layout = world_model.dynamics, world_model.config.layout
    layers = sum(weight.numel() for weight in dynamics.backbone.layers.parameters() if weight.ndim == 2)
    head = dynamics.frame_head
    blocks = sum(weight.numel() for weight in head.blocks.parameters() if weight.ndim == 2)
    scored = head.out.weight.numel()  # as large as the table of codes that tokens are scored with
    more = blocks * layout.frame_tokens if way == "frame" else 0
    return 2.0 * (layers * layout.frame_tokens + scored * layout.dynamics_tokens + more)


def _row(world_model: WorldModel, way: str, count: int, frames: int, timing: Timing) -> dict[str, Any]:
    per_s = count * frames / timing.median
    return {
        "way": way,
        "candidates": count,
        "frames_per_s": per_s,
        "tokens_per_s": per_s * world_model.config.layout.dynamics_tokens,
        "median_s": timing.median,
        "q25_s": timing.low,
        "q75_s": timing.high,
    }


def _roller(way: str, world_model: WorldModel, name: str) -> Callable[[Context, Tensor], Tensor]:
    if way == "token":
        return lambda context, bins: roll_ours(world_model, context, bins, "token")
    if way == "frame":
        return lambda context, bins: roll_ours(world_model, context, bins, "frame")
    return HuggingFace(world_model, name, "static" if way == "static" else None).roll


def _ratios(figures: Mapping[str, float], ways: list[str], count: int) -> dict[str, float]:
    """How many times faster ours is."""
    pairs = {"ours_over_ancestor": ("token", "ancestor"), "onepass_over_ours": ("frame", "token")}
    return {
        f"{label}_b{count}": figures[f"{first}_b{count}_frames_per_s"] / figures[f"{second}_b{count}_frames_per_s"]
        for label, (first, second) in pairs.items()
        if first in ways and second in ways
    }


def _agreement(rollers: Mapping[str, Callable[[Context, Tensor], Tensor]], context: Context, bins: Tensor) -> float:
    """Share of the first imagined frame's tokens that come out alike, for the last number of candidates."""
    ours, theirs = (rollers[way](context, bins[:, :1]) for way in ("token", "ancestor"))
    return (ours == theirs).float().mean().item()


def _identical(name: str, image: NDArray[np.uint8], bins: Tensor) -> bool:
    """Whether ours and transformers' give the same tokens in float32, on few candidates and frames."""
    exact = WorldModel.from_pretrained(name, bins.device, torch.float32)
    context = exact.encode(torch.from_numpy(image))
    return torch.equal(roll_ours(exact, context, bins, "token"), HuggingFace(exact, name, None).roll(context, bins))
