"""World models of a size that no weights are at hand for: speed hardly depends on what weights say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.config import DynamicsConfig, TokenizerConfig, WorldModelConfig
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.tokenizer import DualBranchTokenizer


def save_random_model(settings: Any, folder: Path, seed: int) -> None:
    """Write a world model of the sizes of a node of ``configs/model/``, with random weights, to a folder.

    Actions have three components in [-1, 1]. Random weights like some tokens whatever they are given, so that guesses
    of tokens (:mod:`roboalign_core.world_model.parallel`) are right more often than trained weights let them be.

    Raises:
        RoboAlignError: no such node.
    """
    config = _config(settings)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = WorldModel(config, DualBranchTokenizer(config.tokenizer), Dynamics(config))
    model.save_pretrained(folder)


def _config(settings: Any) -> WorldModelConfig:
    if not isinstance(settings, Mapping):
        raise RoboAlignError(f"model: expected a node of configs/model/, found {settings!r}")
    rest = {key: value for key, value in settings.items() if key not in ("tokenizer", "dynamics", "action_percentile")}
    try:
        tokenizer, dynamics = TokenizerConfig(**settings["tokenizer"]), DynamicsConfig(**settings["dynamics"])
        return WorldModelConfig(tokenizer, dynamics, action_low=[-1.0] * 3, action_high=[1.0] * 3, **rest)
    except (KeyError, TypeError) as error:
        raise RoboAlignError(f"model: expected a node of configs/model/, found a problem: {error}") from error
