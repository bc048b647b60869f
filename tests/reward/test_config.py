"""Sizes: the presets, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from roboalign_core.configs import config_dir
from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.config import RewardModelConfig, TextConfig, VisionConfig
from roboalign_core.reward.student import RewardNetwork
from roboalign_core.reward.text import tokenise


def preset(name: str) -> RewardModelConfig:
    from omegaconf import OmegaConf

    value: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / "reward_model" / f"{name}.yaml"))
    return RewardModelConfig.from_dict(value)


@pytest.mark.parametrize(
    ("name", "positions", "least", "most"),
    [("tabletop", 0, 1e6, 5e6), ("tabletop", 9, 1e6, 5e6), ("base", 0, 97e6, 99e6)],
)
def test_presets_have_the_size_that_they_say(name: str, positions: int, least: float, most: float) -> None:
    config = replace(preset(name), positions=[f"thing_{number}.x" for number in range(positions)])
    with torch.device("meta"):  # no time for random weights: only shapes are looked at
        network = RewardNetwork(config)
    network.to_empty(device="cpu")
    summaries = torch.zeros(1, 2, 3, *config.size, 3, dtype=torch.uint8)
    ids = tokenise(["push the red cube"], config.text)
    with torch.no_grad():
        assert network.text(ids).shape == (1, 256)
        assert network(summaries, ids).shape == (config.heads, 1, 6)
    assert len(network.text.layers.layers) == 4
    assert config.text.dropout == 0.2
    assert least < sum(p.numel() for p in network.parameters()) <= most


def test_settings_come_back() -> None:
    config = RewardModelConfig(frames=9, text=TextConfig(width=12, heads=3), vision=VisionConfig(slots=5))
    assert RewardModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.pop("frames"), "frames missing"),
        (lambda value: value["text"].pop("width"), "width missing"),
        (lambda value: value["vision"].update(colour=1), "colour"),
        (lambda value: value.pop("vision"), "vision"),
    ],
)
def test_unknown_and_missing_keys_are_named(change: Any, message: str) -> None:
    value = RewardModelConfig().to_dict()
    change(value)
    with pytest.raises(RoboAlignError, match=f"expected the keys of RewardModelConfig.*{message}"):
        RewardModelConfig.from_dict(value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(RewardModelConfig(), height=60), "height: expected a multiple of 8, two patches, found 60"),
        (lambda: replace(RewardModelConfig(), frames=1), "frames: expected at least 2, found 1"),
        (lambda: replace(RewardModelConfig(), heads=1), "heads: expected at least 2, found 1"),
        (lambda: TextConfig(width=30, heads=4), r"text\.width: expected a multiple of 4 heads, found 30"),
        (lambda: TextConfig(dropout=1.0), r"text\.dropout: expected a number in \[0, 1\), found 1.0"),
        (lambda: VisionConfig(slots=0), r"vision\.slots: expected at least 1, found 0"),
    ],
)
def test_impossible_sizes_are_refused(make: Any, message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        make()
