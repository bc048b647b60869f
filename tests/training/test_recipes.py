"""Recipes: ours, and that of the ancestors to compare with."""

from __future__ import annotations

import pytest
import torch

from roboalign_core.cli import compose
from roboalign_core.errors import RoboAlignError
from roboalign_core.training.tokenizer import TokenizerStageConfig
from roboalign_core.training.verb import VERB, TrainConfig
from roboalign_core.world_model import TokenizerConfig
from roboalign_core.world_model.tokenizer import DualBranchTokenizer

NEEDED = ["data=[x]", "out=y"]


def composed(*arguments: str) -> TrainConfig:
    config: TrainConfig = compose(VERB, [*NEEDED, *arguments])
    return config


def test_the_default_recipe_is_ours() -> None:
    config = composed()
    assert config == composed("recipe=ours")
    assert config.model.tokenizer.composite
    assert config.stage["foreground"] > 0
    assert config.loop.optimizer == "muon"


def test_the_ancestors_recipe_reaches_both_stages() -> None:
    tokenizer, dynamics = (composed("recipe=ancestor", f"stage={stage}") for stage in ("tokenizer", "dynamics"))
    for config in (tokenizer, dynamics):
        assert not config.model.tokenizer.composite
        assert config.loop.optimizer == "adamw"
        assert config.model.action_percentile == 0
    assert [tokenizer.stage[key] for key in ("distance", "foreground", "own_share")] == [8, 0, 0]
    assert [dynamics.stage[key] for key in ("frame_head_weight", "dropout", "moved_share")] == [0, 0, 0]


def test_arguments_go_before_the_recipe() -> None:
    config = composed("recipe=ancestor", "stage.foreground=2.0", "loop.lr=1e-3", "model.tokenizer.heads=3")
    assert (config.stage["foreground"], config.loop.lr, config.model.tokenizer.heads) == (2.0, 1e-3, 3)


def test_stages_without_a_recipe_of_the_ancestors_stay_as_they_are() -> None:
    assert composed("recipe=ancestor", "stage=probe").stage == composed("stage=probe").stage


def test_impossible_distances_are_refused() -> None:
    with pytest.raises(RoboAlignError, match=r"stage.nearest: expected 0 to distance \(3\), found 4"):
        TokenizerStageConfig(distance=3, nearest=4)


@torch.no_grad()
def test_without_compositing_the_context_s_pixels_do_not_matter() -> None:
    config = TokenizerConfig(32, 32, composite=False, fine_width=16, latent_width=32, heads=2)
    tokenizer = DualBranchTokenizer(config).eval()
    first, later, other = torch.rand(3, 2, 3, 32, 32)
    values = tokenizer.encode_context(first.unsqueeze(1))[0]
    drawn = []
    for pixels in (first, other):
        context = tokenizer.context_features(values, pixels.unsqueeze(1))
        drawn.append(tokenizer.decode_dynamics(tokenizer.encode_dynamics(later, context)[1], context))
    assert torch.equal(*drawn)
