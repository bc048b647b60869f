"""A small benchmark whose labels can be seen: two squares, one of which moves to a side, far enough or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.benchmark import Applied, Origin, Pair, Split
from roboalign_core.benchmark.benchmark import Benchmark, finish
from roboalign_core.episodes import AugmentationConfig, Episode, EpisodeStore, StoreSpec
from roboalign_core.reward.config import RewardModelConfig, TextConfig, VisionConfig
from roboalign_core.training.loop import LoopConfig
from roboalign_core.training.verb import TrainConfig, train

Frames = NDArray[np.uint8]
COLOURS = {"red": (220, 50, 40), "blue": (40, 80, 230)}
SIDES = {"left": -1, "right": 1}
INSTRUCTIONS = tuple(f"move the {colour} square {side}" for colour in COLOURS for side in SIDES)
STORE = "toy-top"
LENGTH, FAR, NEAR = 12, 11, 4  # frames; pixels that a square moves where it gets there, and where it does not


def toy_model() -> RewardModelConfig:
    """A student that learns the toy in seconds."""
    return RewardModelConfig(
        height=32,
        width=32,
        frames=8,
        heads=4,
        text=TextConfig(width=32, layers=2, heads=2, expansion=2, dropout=0.0, words=8, buckets=128),
        vision=VisionConfig(patch_width=24, cell_width=48, blocks=1, slots=8, width=64, layers=1, heads=2, dropout=0.0),
    )


def toy_settings(benchmark: Path, out: Path, steps: int = 6, **changes: Any) -> TrainConfig:
    """A small run of ``stage=reward``; ``changes`` are settings of the stage."""
    stage = {"name": "reward", "pairs": 24, "shortest": 4, "short_share": 0.1, "validate_every": 20, "validation": 60}
    return TrainConfig(
        benchmark=str(benchmark),
        out=str(out),
        stage={**stage, **changes},
        reward_model=toy_model(),
        augmentation=AugmentationConfig(photometric=False, geometric=False),
        loop=LoopConfig(steps=steps, warmup=10, optimizer="muon", lr=4e-3, checkpoint_every=100, log_every=1),
    )


def train_toy(benchmark: Path, out: Path, steps: int) -> Path:
    """The run folder."""
    train(toy_settings(benchmark, out, steps))
    return out


def toy_video(colour: str, side: str, far: bool, seed: int) -> Frames:
    """(12, 32, 32, 3): the square of a colour moves to a side; the other one stays."""
    random = np.random.default_rng(seed)
    top = {name: y + int(random.integers(-2, 3)) for name, y in zip(COLOURS, random.permutation([8, 22]), strict=True)}
    frames = np.full((LENGTH, 32, 32, 3), 90, np.uint8) + random.integers(0, 8, (1, 32, 32, 1), dtype=np.uint8)
    for name, rgb in COLOURS.items():
        x = 16 + int(random.integers(-1, 2))
        for step, frame in enumerate(frames):
            way = (FAR if far else NEAR) * step / (LENGTH - 1) if name == colour else 0
            place = round(x + SIDES[side] * way)
            frame[top[name] - 3 : top[name] + 3, max(0, place - 3) : place + 3] = rgb
    return frames


def flicker(frames: Frames, seed: int) -> Frames:
    """Every third frame brighter, never one of the first two."""
    result = frames.astype(np.int64)
    result[2 + seed % 2 :: 3] += 50
    return result.clip(0, 255).astype(np.uint8)


def toy_scores(colour: str, side: str, far: bool, instruction: str) -> tuple[float, ...]:
    """The six scores of a video that is not damaged."""
    right = (f" {colour} " in instruction) + instruction.endswith(side)
    if right == 2:
        return (3.0, 2.0, 1.0, 1.0, 1.0, 2.0) if far else (2.0, 1.0, 1.0, 1.0, 1.0, 2.0)
    return (float(right), 0.0, 1.0, 1.0, 1.0, 2.0)


def make_benchmark(folder: Path, videos: int = 120) -> Benchmark:
    """Two pairs of every video and one of a damaged one; four fifths train, the rest validation and test."""
    made = list(_videos(videos))
    recorded = [each["episode"] for each in made]
    damaged = [_like(episode, flicker(episode.frames, index)) for index, episode in enumerate(recorded)]
    spec = StoreSpec.like(recorded[0], lossless=True)
    EpisodeStore.create(folder / "stores" / STORE, spec).append([*recorded, *damaged])
    rows = [row for index, each in enumerate(made) for row in _rows(index, videos, each)]
    return finish(folder, [Pair(number=number, **row) for number, row in enumerate(rows)], {"toy": True})


def _videos(count: int) -> Iterator[dict[str, Any]]:
    for index in range(count):
        colour, side = list(COLOURS)[index % 2], list(SIDES)[index // 2 % 2]
        far = bool(index // 4 % 2)
        frames = toy_video(colour, side, far, index)
        told = f"move the {colour} square {side}"
        episode = Episode(
            frames=frames,
            actions=np.zeros((LENGTH, 2), np.float32),
            instruction=told,
            success=far,
            fps=5.0,
            source="toy",
            camera="top",
        )
        yield {"episode": episode, "colour": colour, "side": side, "far": far}


def _like(episode: Episode, frames: Frames) -> Episode:
    return Episode(
        frames=frames,
        actions=episode.actions,
        instruction=episode.instruction,
        success=episode.success,
        fps=episode.fps,
        source=episode.source,
        camera=episode.camera,
    )


def _rows(index: int, count: int, video: dict[str, Any]) -> Iterator[dict[str, Any]]:
    split = Split.TRAIN if index % 10 < 8 else (Split.VALIDATION if index % 10 == 8 else Split.TEST)
    told = video["episode"].instruction
    other = INSTRUCTIONS[(INSTRUCTIONS.index(told) + 1 + index // 8 % 3) % 4]
    common = {"split": split, "store": STORE, "source": "toy", "parent": f"toy:{index}", "labeller": "rule"}
    for instruction in (told, other):
        scores = toy_scores(video["colour"], video["side"], video["far"], instruction)
        yield {
            **common,
            "instruction": instruction,
            "episode": index,
            "origin": Origin.RECORDED,
            "degradations": (),
            "scores": scores,
        }
    scores = toy_scores(video["colour"], video["side"], video["far"], told)
    yield {
        **common,
        "instruction": told,
        "episode": count + index,
        "origin": Origin.DEGRADED,
        "degradations": (Applied("flicker", 1.0, index),),
        "scores": (*scores[:3], 0.0, 1.0, 1.0),
    }
