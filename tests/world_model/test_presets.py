"""The sizes in ``configs/model``."""

from __future__ import annotations

import pytest
import torch
import yaml

from roboalign_core.configs import config_dir
from roboalign_core.world_model import DualBranchTokenizer, DynamicsConfig, TokenizerConfig, WorldModelConfig
from roboalign_core.world_model.transformer import LlamaBackbone

PRESETS = sorted(path.stem for path in (config_dir() / "model").glob("*.yaml"))


def preset(name: str, action_dim: int) -> WorldModelConfig:
    sizes = yaml.safe_load((config_dir() / "model" / f"{name}.yaml").read_text())
    del sizes["action_percentile"]  # becomes a range once there are actions
    return WorldModelConfig(
        tokenizer=TokenizerConfig(**sizes.pop("tokenizer")),
        dynamics=DynamicsConfig(**sizes.pop("dynamics")),
        action_dim=action_dim,
        action_low=[-1.0] * action_dim,
        action_high=[1.0] * action_dim,
        **sizes,
    )


def test_there_is_one_for_each_purpose() -> None:
    assert PRESETS == ["base", "frames256", "rt1", "tabletop", "tiny"]


def test_rt1_has_the_papers_layout() -> None:
    layout = preset("rt1", action_dim=13).layout
    assert (layout.context_tokens, layout.dynamics_tokens, layout.action_tokens) == (1280, 80, 13)
    assert layout.length(8) == 2024
    assert layout.dynamics_codes == layout.context_codes == 4375


@pytest.mark.parametrize("name", ["base", "rt1"])
def test_large_transformers_have_the_papers_size(name: str) -> None:
    config = preset(name, action_dim=13)
    with torch.device("meta"):
        backbone = LlamaBackbone(config.dynamics, config.layout.length(config.dynamics.max_frames))
    weights = sum(parameter.numel() for parameter in backbone.parameters())
    assert 110e6 < weights < 120e6  # 127 M with the embeddings


@torch.no_grad()
@pytest.mark.parametrize("name", PRESETS)
def test_shapes_follow_from_the_preset_alone(name: str) -> None:
    config = preset(name, action_dim=3)
    with torch.device("meta"):
        tokenizer = DualBranchTokenizer(config.tokenizer).eval()
        pixels = torch.rand(2, 3, *config.image_size)
        seen = pixels.unsqueeze(1)
        values, context = tokenizer.encode_context(seen)
        features = tokenizer.context_features(values, seen)
        codes = tokenizer.encode_dynamics(pixels, features)[1]
        assert context.shape == (2, config.layout.context_tokens)
        assert codes.shape == (2, config.layout.dynamics_tokens)
        assert tokenizer.decode_dynamics(codes, features).shape == pixels.shape
