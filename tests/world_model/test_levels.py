"""Codes drawn around a mean, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from roboalign_core.world_model.codes import CodeGroups, CodeLogits
from roboalign_core.world_model.levels import NARROWEST, LevelGaussian, level_widths
from roboalign_core.world_model.picking import Sampled, Scattered, picker

GROUPS = CodeGroups.of([3, 2, 4], [2, 1])


def code(*levels: int) -> torch.Tensor:
    return GROUPS.channels.join([torch.tensor(level) for level in levels])


def gaussian(mean: list[float], width: list[float]) -> LevelGaussian:
    return LevelGaussian(GROUPS, torch.tensor(mean, requires_grad=True), torch.tensor(width))


def test_a_level_s_probability_is_that_of_a_gaussian_over_the_levels() -> None:
    draws = gaussian([0.5, 1.0, 1.0], [0.5, 0.0, 2.0])
    weights = [
        math.exp(-0.5),
        math.exp(-0.5),
        math.exp(-4.5),
    ]  # levels 0, 1, 2 around 0.5, in widths of 0.5: 1, 1 and 3
    others = [math.exp(-0.125), 1.0, math.exp(-0.125), math.exp(-0.5)]  # around 1, in widths of 2
    shares = [value / sum(weights) for value in weights]
    further = [value / sum(others) for value in others]
    for first in range(3):
        for third in range(4):
            expected = math.log(shares[first] * further[third])
            assert draws.log_prob(code(first, 1, third)).item() == pytest.approx(expected, abs=1e-5)
    entropy = -sum(p * math.log(p) for p in [*shares]) - sum(p * math.log(p) for p in further)
    assert draws.entropy().item() == pytest.approx(entropy, abs=1e-5)


def test_a_channel_without_width_is_certain_and_learns_nothing() -> None:
    draws = gaussian([1.4, 0.6, 2.6], [0.0, 0.0, 0.0])
    assert draws.sample().item() == code(1, 1, 3)
    told = draws.log_prob(code(0, 0, 0))  # whatever was drawn
    assert (told.item(), draws.entropy().item()) == (0.0, 0.0)
    told.backward()
    assert draws.mean.grad is not None
    assert draws.mean.grad.tolist() == [0.0, 0.0, 0.0]


def test_the_mean_is_pulled_towards_what_was_drawn() -> None:
    """d log p / d mean = (level − expected level) / width²."""
    draws = gaussian([0.5, 0.5, 1.0], [0.5, 1.0, 1.0])
    draws.log_prob(code(1, 0, 3)).backward()
    assert draws.mean.grad is not None
    weights = torch.tensor([math.exp(-0.5), math.exp(-0.5), math.exp(-4.5)])
    expected = (weights * torch.arange(3)).sum() / weights.sum()
    assert draws.mean.grad[0].item() == pytest.approx((1 - expected.item()) / 0.25, abs=1e-4)
    assert draws.mean.grad[1].item() == pytest.approx(-0.5, abs=1e-5)  # two levels, one as likely as the other
    assert draws.mean.grad[2] > 0


def test_only_the_mean_gets_a_gradient() -> None:
    """A distribution that could widen or narrow where it is drawn from would, whatever the reward."""
    part = torch.randn(1, 6, requires_grad=True)
    logits = CodeLogits(CodeGroups.of([6], []), (part,))
    width = level_widths(logits, 1.0)
    assert not width.requires_grad
    draws = LevelGaussian.of(logits, width)
    (slope,) = torch.autograd.grad(draws.log_prob(torch.tensor([5])).sum(), part)
    (mean,) = torch.autograd.grad(logits.means().sum(), part)
    ratio = slope / mean
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-3, atol=1e-3)
    assert ratio[0, 0] > 0


def test_draws_are_as_frequent_as_told() -> None:
    draws = LevelGaussian(
        GROUPS, torch.tensor([0.7, 0.4, 2.2]).expand(100_000, -1), torch.tensor([0.6, 0.0, 1.1]).expand(100_000, -1)
    )
    drawn = draws.sample(torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn, minlength=24) / len(drawn)
    every = torch.arange(24)
    possible = GROUPS.channels.split(every)[1] == 0  # the second channel is certain
    single = LevelGaussian(GROUPS, draws.mean[:24], draws.width[:24])
    expected = torch.where(possible, single.log_prob(every).exp(), 0.0)
    assert expected.sum().item() == pytest.approx(1, abs=1e-5)
    assert (shares - expected).abs().max() < 5 * (0.25 / len(drawn)) ** 0.5
    assert torch.equal(drawn, draws.sample(torch.Generator().manual_seed(0)))


def test_widths_are_the_network_s_own_doubt_and_0_where_there_is_next_to_none() -> None:
    groups = CodeGroups.of([2], [])
    shares = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.97, 0.03], [1.0, 0.0]])
    found = level_widths(CodeLogits(groups, (shares.log().clamp(min=-50),)), 0.5, sharpness=1.0)
    expected = [0.25, 0.5 * math.sqrt(0.75 * 0.25), 0.5 * math.sqrt(0.97 * 0.03), 0.0]
    torch.testing.assert_close(found[:, 0], torch.tensor(expected))
    assert level_widths(CodeLogits(groups, (shares.log(),)), 0.2, sharpness=1.0)[2].item() == 0.0  # 0.034 levels
    assert NARROWEST == 0.05


def test_what_is_drawn_narrowly_is_the_central_code() -> None:
    logits = CodeLogits.of(GROUPS, torch.randn(200, sum(GROUPS.sizes), generator=torch.Generator().manual_seed(0)))
    central = logits.central()
    torch.manual_seed(0)
    assert torch.equal(Scattered(1e-3)(logits), central)
    near, far = ((Scattered(exploration)(logits) == central).float().mean() for exploration in (0.3, 2.0))
    assert near > 0.3
    assert far < near < 1


def test_the_orders_pick_differently() -> None:
    logits = CodeLogits.of(GROUPS, torch.randn(50, sum(GROUPS.sizes), generator=torch.Generator().manual_seed(0)))
    assert torch.equal(picker("frame")(logits), logits.central())
    assert torch.equal(picker("token")(logits), logits.likeliest())
    assert not torch.equal(logits.central(), logits.likeliest())
    drawn = [picker(order, 0.7, torch.Generator().manual_seed(0))(logits) for order in ("frame", "token")]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], Sampled(0.7, torch.Generator().manual_seed(0))(logits))
