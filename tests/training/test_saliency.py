"""The loss of a drawn frame: which pixels count how much, and LPIPS beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from roboalign_core.training import tokenizer
from roboalign_core.training.saliency import ReconstructionConfig, reconstruction_loss, saliency
from roboalign_core.training.verb import TrainConfig, train

SIDE = 16
BACKGROUND = torch.tensor([0.2, 0.5, 0.7])


def table(count: int = 1) -> Tensor:
    """Frames (count, 3, 16, 16) of nothing but background."""
    return BACKGROUND[:, None, None].expand(count, 3, SIDE, SIDE).clone()


def test_what_stands_out_weighs_more_within_two_pixels() -> None:
    frames = table(2)
    frames[0, 0, 8, 8] += 0.6  # one channel is enough
    weight = saliency(frames, frames, foreground=3.0, motion=5.0)
    expected = torch.ones(2, 1, SIDE, SIDE)
    expected[0, 0, 6:11, 6:11] = 1 + 3.0
    torch.testing.assert_close(weight[0], expected[0] / ((231 + 25 * 4) / 256))
    torch.testing.assert_close(weight[1], expected[1])  # the mean is each frame's own


def test_what_moved_weighs_more_where_it_is_and_where_it_was() -> None:
    frames, context = table(), table()
    frames[0, 1, 0, 0] -= 0.4  # in the corner, so that three by three pixels are around it
    context[0, 2, 10, 4] -= 0.4
    weight = saliency(frames, context, foreground=3.0, motion=5.0)
    expected = torch.ones(1, 1, SIDE, SIDE)
    expected[0, 0, :3, :3] = 1 + 3.0 + 5.0
    expected[0, 0, 8:13, 2:7] = 1 + 5.0
    torch.testing.assert_close(weight, expected / ((222 + 9 * 9 + 25 * 6) / 256))


@pytest.mark.parametrize(("step", "share"), [(0.05, 0.2), (0.125, 0.5), (0.25, 1.0), (0.5, 1.0)])
def test_a_quarter_of_the_range_counts_in_full_and_less_in_proportion(step: float, share: float) -> None:
    frames = table()
    frames[0, :, 3, 12] -= torch.tensor([step, step / 2, 0.0])
    weight = saliency(frames, table(), foreground=4.0, motion=0.0)
    assert (weight[0, 0, 3, 12] / weight[0, 0, 12, 3]).item() == pytest.approx(1 + 4 * share, rel=1e-4)
    assert weight.mean().item() == pytest.approx(1)


def test_errors_and_edges_are_weighted() -> None:
    target, weight = torch.rand(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    predicted = target.clone()
    predicted[0, 1, 1, 2] += 0.5
    weight[0, 0, 1, 2:], weight[0, 0, 2, 2] = torch.tensor([2.0, 3.0]), 5.0
    pixels = 2 * (0.5 + 4.0 * 0.25) / 48
    sides = ((2 + 3) * 0.5 + (2 + 5) * 0.5) / 36  # an edge weighs as the pixel to the right of it, or below
    assert reconstruction_loss(predicted, target, weight, 4.0, 0.0).item() == pytest.approx(pixels)
    assert reconstruction_loss(predicted, target, weight, 4.0, 0.25).item() == pytest.approx(pixels + 0.25 * sides)


def test_the_settings_are_those_of_the_loss() -> None:
    torch.manual_seed(0)
    drawn, frames, context = (torch.rand(2, 3, SIDE, SIDE) for _ in range(3))
    frames[:, :, :12] = table()[:, :, :12]
    context[:, :, 4:] = frames[:, :, 4:]
    weight = saliency(frames, context, 3.0, 7.0)
    assert not torch.allclose(weight, saliency(frames, context, 7.0, 3.0))
    config = ReconstructionConfig(foreground=3.0, motion=7.0, squared=2.0, edges=0.25)
    expected = reconstruction_loss(drawn, frames, weight, 2.0, 0.25)
    torch.testing.assert_close(config.drawing_loss(drawn, frames, context), expected)


class TwoApart:
    """Finds all pictures equally far from each other, and notes how many it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, int]] = []

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        self.shown.append((len(predicted), len(target)))
        return torch.tensor(2.0)


def test_perceptual_distances_of_both_branches_count(
    settings: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    perceptual = TwoApart()
    monkeypatch.setattr(tokenizer, "trained_perceptual", lambda device: perceptual)
    without = train(settings("tokenizer", tmp_path / "without", steps=1, targets=2))
    assert perceptual.shown == []
    assert "perceptual" not in without
    found = train(settings("tokenizer", tmp_path / "with", steps=1, targets=2, perceptual=0.25))
    assert perceptual.shown == [(6, 6), (12, 12)]
    assert found["perceptual"] == 4.0
    assert found["loss"] == pytest.approx(without["loss"] + 0.25 * 4.0)
