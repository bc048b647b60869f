"""A world model so small that a rollout takes milliseconds, with weights that make every input matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from roboalign_core.torchvision_ops import declare_missing_ops
from roboalign_core.world_model import (
    DualBranchTokenizer,
    DynamicsConfig,
    TokenizerConfig,
    WorldModel,
    WorldModelConfig,
)
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.tokenizer import latest

declare_missing_ops()  # transformers, which some tests here compare with, imports torchvision where it is installed


@pytest.fixture(scope="session")
def config() -> WorldModelConfig:
    """16 tokens a context frame, 4 dynamics tokens and 2 action tokens; sequences of at most 6 frames."""
    return WorldModelConfig(
        tokenizer=TokenizerConfig(
            height=32,
            width=32,
            context_levels=[5, 4],
            dynamics_levels=[4, 3, 2],
            fine_width=16,
            latent_width=32,
            encoder_blocks=1,
            decoder_blocks=1,
            heads=2,
        ),
        dynamics=DynamicsConfig(
            layers=2, dim=32, heads=2, ffn=64, max_frames=6, frame_head_layers=1, code_channels=[2, 1]
        ),
        action_dim=2,
        action_bins=16,
        action_low=[-1.0, -2.0],
        action_high=[1.0, 2.0],
        window=3,
    )


@pytest.fixture(scope="session")
def make_model() -> Callable[[WorldModelConfig], WorldModel]:
    """Random weights, those of the dynamics much larger than at the start of training.

    Otherwise every rollout would repeat one code, whatever came before, and a test on it could not fail.
    """

    def make(config: WorldModelConfig, seed: int = 0) -> WorldModel:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tokenizer, dynamics = DualBranchTokenizer(config.tokenizer), Dynamics(config)
            with torch.no_grad():
                for name, parameter in dynamics.named_parameters():
                    if parameter.ndim == 2 and "position" not in name:
                        parameter.normal_(std=4 * parameter.shape[1] ** -0.5)
                tokenizer.train()  # a few batches, so that the statistics before FSQ fit and codes differ
                for _ in range(30):
                    pixels = torch.rand(4, 3, config.tokenizer.height, config.tokenizer.width)
                    context = latest(pixels.unsqueeze(1), config.tokenizer.context_frames)
                    features = tokenizer.context_features(tokenizer.encode_context(context)[0], context)
                    tokenizer.encode_dynamics(pixels.flip(0), features)
        return WorldModel(config, tokenizer, dynamics)

    return make


@pytest.fixture(scope="session", params=[(1, 0), (2, 1)], ids=["one context frame", "two context frames"])
def model(
    request: pytest.FixtureRequest, config: WorldModelConfig, make_model: Callable[..., WorldModel]
) -> WorldModel:
    """Shared; tests do not change it. Each number of context frames has a seed with which codes vary."""
    frames, seed = request.param
    return make_model(replace(config, tokenizer=replace(config.tokenizer, context_frames=frames)), seed)


@pytest.fixture
def frame() -> np.ndarray:
    """(40, 48, 3) uint8, not the model's size."""
    return np.random.default_rng(1).integers(0, 256, (40, 48, 3), dtype=np.uint8)


@pytest.fixture
def actions() -> np.ndarray:
    """(5, 7, 2): five candidates, seven steps, which are more than the transformer has positions for."""
    return np.random.default_rng(2).uniform(-1, 1, (5, 7, 2)).astype(np.float32)
