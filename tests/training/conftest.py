"""A toy store, and training runs that take seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_world import make_store, save_world_model

from roboalign_core.episodes import AugmentationConfig
from roboalign_core.training.loop import LoopConfig
from roboalign_core.training.verb import ModelConfig, TrainConfig
from roboalign_core.world_model import DynamicsConfig, TokenizerConfig

STAGES: dict[str, dict[str, Any]] = {
    "tokenizer": {"clips": 6, "targets": 1, "distance": 3},
    "dynamics": {"clips": 6, "lengths": [4, 5], "context_distance": 2},
    "decoder": {"clips": 6, "targets": 2, "distance": 4, "imagined": 3},
    "progress": {
        "contexts": 64,
        "distance": 3,
        "holdout": 0.1,
        "batch": 12,
        "width": 16,
        "slots": 4,
        "hidden": 16,
    },
    "probe": {"frames": 12},
    "grpo": {
        "prompts": 4,
        "group": 4,
        "frames": 3,
        "rewards": ["brightness"],
        "updates": 2,
        "micro": 1,
        "validation": {"windows": 4, "every": 2, "holdout": 0.2},
        "guard": {"divergence": 100.0},
    },
}


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 episodes of 12 frames; tests do not change it."""
    return make_store(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="session")
def world_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, with weights so large that what is imagined differs and is seen; tests do not change it."""
    return save_world_model(tmp_path_factory.mktemp("model") / "random")


@pytest.fixture(scope="session")
def new_world_model() -> Callable[..., Path]:
    """Makes further ones: ``new_world_model(folder, seed=0, config changes…)``."""
    return save_world_model


@pytest.fixture(scope="session")
def new_store() -> Callable[..., Path]:
    """Makes further stores: ``new_store(folder, episodes=16, first=0)``."""
    return make_store


@pytest.fixture(scope="session")
def settings(store: Path) -> Callable[..., TrainConfig]:
    """A small run: ``settings(stage, out, steps=…, world_model=…, stage_changes…)``."""

    def make(stage: str, out: Path, steps: int = 6, world_model: Path | str = "", **changes: Any) -> TrainConfig:
        return TrainConfig(
            data=[str(store)],
            out=str(out),
            world_model=str(world_model),
            stage={"name": stage, **STAGES[stage], **changes},
            model=ModelConfig(
                tokenizer=TokenizerConfig(
                    32,
                    32,
                    context_levels=[5, 5, 5],
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
                action_bins=16,
                window=3,
            ),
            augmentation=AugmentationConfig(),
            loop=LoopConfig(
                steps=steps,
                warmup=3,
                optimizer="muon" if stage in ("tokenizer", "dynamics") else "adamw",  # as in configs/stage
                lr=3e-3,
                checkpoint_every=2,
                log_every=1,
            ),
        )

    return make
