"""A small world model and objective with random weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from roboalign_core.reward.progress import ProgressConfig, ProgressHead, ProgressModel
from roboalign_core.world_model import (
    DualBranchTokenizer,
    DynamicsConfig,
    TokenizerConfig,
    WorldModel,
    WorldModelConfig,
)
from roboalign_core.world_model.dynamics import Dynamics

INSTRUCTIONS = ["push the red cube left", "reach the blue cylinder"]


@pytest.fixture(scope="session")
def world_model() -> WorldModel:
    """16 context tokens, 4 dynamics tokens, actions of width 2, at most 6 frames."""
    config = WorldModelConfig(
        tokenizer=TokenizerConfig(
            32, 32, fine_width=16, latent_width=32, encoder_blocks=1, decoder_blocks=1, heads=2, dynamics_levels=[4, 3]
        ),
        dynamics=DynamicsConfig(layers=2, dim=32, heads=2, ffn=64, max_frames=6, frame_head_layers=1),
        action_dim=2,
        action_bins=16,
        action_low=[-1.0, -1.0],
        action_high=[1.0, 1.0],
        window=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tokenizer, dynamics = DualBranchTokenizer(config.tokenizer), Dynamics(config)
        with torch.no_grad():
            for parameter in dynamics.parameters():
                if parameter.ndim == 2:
                    parameter.normal_(std=2 * parameter.shape[1] ** -0.5)  # otherwise actions would hardly matter
    return WorldModel(config, tokenizer, dynamics)


@pytest.fixture(scope="session")
def objective() -> ProgressModel:
    """Fits the features of ``world_model``."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = ProgressConfig(
            INSTRUCTIONS, cells=16, channels=32, dim=32, state=["x", "y"], width=16, slots=3, hidden=16
        )
        head = ProgressHead(config)
        with torch.no_grad():
            for parameter in head.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(4)  # otherwise what the frames show would hardly matter
        return ProgressModel(config, head)


@pytest.fixture
def frame() -> np.ndarray:
    """(32, 32, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def candidates() -> np.ndarray:
    """(6, 4, 2) in [-1, 1]."""
    return np.random.default_rng(3).uniform(-1, 1, (6, 4, 2)).astype(np.float32)
