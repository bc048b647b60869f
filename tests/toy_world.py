"""A small world that can be seen, a bright square that goes where the action says, and untrained models of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec
from roboalign_core.episodes.boxes import BOXES, box_columns
from roboalign_core.reward.config import RewardModelConfig, TextConfig, VisionConfig
from roboalign_core.reward.model import RewardModel
from roboalign_core.reward.student import RewardNetwork
from roboalign_core.world_model import (
    DualBranchTokenizer,
    DynamicsConfig,
    TokenizerConfig,
    WorldModel,
    WorldModelConfig,
)
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.tokenizer import latest

INSTRUCTIONS = ("go left", "go right")


def toy_episode(seed: int, length: int = 12) -> Episode:
    """A bright square that goes where the action says, one to three pixels a step, on a 32×32 floor."""
    random = np.random.default_rng(seed)
    actions = random.uniform(-1, 1, (length, 2)).astype(np.float32)
    places = np.clip(16 + np.cumsum(3 * np.concatenate([np.zeros((1, 2)), actions[:-1]]), axis=0), 4, 28)
    frames = np.full((length, 32, 32, 3), 40, np.uint8)
    for frame, (x, y) in zip(frames, places.round().astype(int), strict=True):
        frame[y - 4 : y + 4, x - 4 : x + 4] = (230, 120, 60)
    left = np.clip((places[:1, :1] - places[:, :1]) / 8, 0, 1)
    right = np.clip((places[:, :1] - places[:1, :1]) / 8, 0, 1)
    corners = places.round() / 32
    extras = {
        "observation.state": places / 32,
        BOXES: np.concatenate([corners - 4 / 32, corners + 4 / 32], axis=1),
        "progress": np.concatenate([left, right], axis=1),
    }
    return Episode(
        frames=frames,
        actions=actions,
        instruction=INSTRUCTIONS[seed % 2],
        success=bool(seed % 2),
        fps=5.0,
        source="toy",
        camera="top",
        extras={key: rows.astype(np.float32) for key, rows in extras.items()},
    )


def make_store(folder: Path, episodes: int = 16, first: int = 0) -> Path:
    spec = StoreSpec(
        fps=5.0,
        height=32,
        width=32,
        action_names=("x", "y"),
        source="toy",
        camera="top",
        extras={"observation.state": ("x", "y"), BOXES: box_columns(["square"]), "progress": INSTRUCTIONS},
    )
    EpisodeStore.create(folder, spec).append([toy_episode(first + index) for index in range(episodes)])
    return folder


def save_world_model(folder: Path, seed: int = 0, context_frames: int = 1, **changes: Any) -> Path:
    """Random weights for the toy store: 16 tokens a context frame, 4 dynamics tokens of 24 codes, 2 action tokens."""
    sizes = {"layers": 2, "dim": 32, "heads": 2, "ffn": 64, "max_frames": 6, "frame_head_layers": 1}
    config = WorldModelConfig(
        tokenizer=TokenizerConfig(
            32,
            32,
            context_levels=[5, 4],
            dynamics_levels=[4, 3, 2],
            fine_width=16,
            latent_width=32,
            encoder_blocks=1,
            decoder_blocks=1,
            heads=2,
            context_frames=context_frames,
        ),
        dynamics=DynamicsConfig(**sizes, code_channels=[2, 1]),
        **{"action_dim": 2, "action_bins": 16, "action_low": [-1.0, -1.0], "action_high": [1.0, 1.0], "window": 3}
        | changes,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        tokenizer, dynamics = DualBranchTokenizer(config.tokenizer), Dynamics(config)
        for name, parameter in dynamics.named_parameters():
            if parameter.ndim == 2 and "position" not in name:
                parameter.normal_(std=(1 if "embedding" in name else 2) * parameter.shape[1] ** -0.5)
        for layer in (tokenizer.dynamics_out, tokenizer.dynamics_head.out[2]):
            layer.weight.mul_(5)
        tokenizer.train()  # a few batches, so that the statistics before FSQ fit and codes differ
        for _ in range(30):
            pixels = torch.rand(4, 3, 32, 32)
            context = latest(pixels.unsqueeze(1), config.tokenizer.context_frames)
            features = tokenizer.context_features(tokenizer.encode_context(context)[0], context)
            tokenizer.encode_dynamics(pixels.flip(0), features)
    WorldModel(config, tokenizer, dynamics).save_pretrained(folder, torch.float32)
    return folder


def toy_student(frames: int = 5) -> RewardModel:
    """A student of random weights, for at most ``frames`` frames of 16×16."""
    text = TextConfig(width=16, layers=1, heads=2, buckets=64)
    vision = VisionConfig(patch_width=8, cell_width=16, blocks=1, slots=2, width=16, layers=1, heads=2)
    config = RewardModelConfig(16, 16, frames=frames, heads=2, text=text, vision=vision)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return RewardModel(config, RewardNetwork(config))
