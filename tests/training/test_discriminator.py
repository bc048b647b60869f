"""The discriminator learns to tell, the drawer learns to please, and neither gets the other's gradient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.training.discriminator import PatchDiscriminator
from roboalign_core.training.tokenizer import TokenizerStageConfig
from roboalign_core.training.verb import TrainConfig, train

from .test_stages import metrics


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_the_discriminator_learns_to_tell() -> None:
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(width=8)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3)
    for step in range(60):
        loss = discriminator.discriminator_loss(0.3 * pictures(step), pictures(1000 + step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3
    assert discriminator.generator_loss(0.3 * pictures(5)).item() > discriminator.generator_loss(pictures(6)).item()


def test_each_side_gets_its_own_gradient_only() -> None:
    discriminator, drawn = PatchDiscriminator(width=8), pictures(0).requires_grad_()
    discriminator.generator_loss(drawn).backward()
    assert drawn.grad is not None
    assert drawn.grad.any()
    assert all(parameter.grad is None for parameter in discriminator.parameters())
    drawn.grad = None
    discriminator.discriminator_loss(drawn, pictures(1)).backward()
    assert drawn.grad is None
    assert all(parameter.grad is not None for parameter in discriminator.parameters())


def test_it_begins_late(settings: Callable[..., TrainConfig], tmp_path: Path) -> None:
    config = settings("tokenizer", tmp_path / "run", steps=6)
    config.stage = {**config.stage, "adversarial": 0.1, "adversarial_after": 3}
    train(config)
    judged = ["discriminator" in entry for entry in metrics(tmp_path / "run")]
    assert judged == [False, False, False, True, True, True]


@pytest.mark.parametrize("name", ["perceptual", "adversarial", "adversarial_after"])
def test_negative_weights_are_refused(name: str) -> None:
    with pytest.raises(RoboAlignError, match=f"stage.{name}: expected 0 or more, found -1"):
        TokenizerStageConfig(**{name: -1})
