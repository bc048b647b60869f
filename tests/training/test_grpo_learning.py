"""What is rewarded becomes more, in both decoding orders and with either policy."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roboalign_core.episodes import AugmentationConfig
from roboalign_core.training.verb import TrainConfig, train
from roboalign_core.world_model import WorldModel

Settings = Callable[..., TrainConfig]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("order", "policy"), [("frame", "central"), ("frame", "categorical"), ("token", "categorical")]
)
def test_what_is_rewarded_becomes_more(
    settings: Settings, tmp_path: Path, world_model: Path, order: str, policy: str
) -> None:
    config = settings(
        "grpo",
        tmp_path / "run",
        steps=40,
        world_model=world_model,
        order=order,
        policy=policy,
        group=16,
        frames=2,
        micro=2,
        updates=1 if policy == "central" else 2,  # means go so far in such an update that what was drawn is no longer
        divergence_weight=0.0,
        guard={"divergence": 1e9},
    )
    config.stage["validation"]["keep"] = "last"
    plain = AugmentationConfig(photometric=False, geometric=False)  # which would change brightness, too
    train(replace(config, augmentation=plain, loop=replace(config.loop, lr=2e-3, checkpoint_every=100)))
    logged = metrics(tmp_path / "run")
    rewards = [entry["reward"] for entry in logged]
    spread = logged[0]["reward_spread"]
    assert np.mean(rewards[-5:]) > rewards[0] + spread, f"{rewards} of groups that spread by {spread}"
    assert logged[-1]["held_out_reward"] > logged[0]["held_out_reward"]  # without any temperature, too
    if policy == "categorical":
        assert logged[-1]["entropy"] < 0.8 * logged[0]["entropy"]
    assert logged[-1]["divergence"] > logged[0]["divergence"]
    assert WorldModel.from_pretrained(tmp_path / "run" / "model").config.layout.dynamics_tokens == 4
