"""The maths of GRPO against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from roboalign_core.training.grpo.objective import FAR, TIE, Objective, advantages, divergence, objective, ties


def test_advantages_are_normalised_within_each_group() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0, 4.0], [-10.0, 30.0, 10.0, 10.0]])
    found = advantages(rewards)
    spread = math.sqrt(1.25)  # of 1, 2, 3, 4 around 2.5
    torch.testing.assert_close(found[0], torch.tensor([-1.5, -0.5, 0.5, 1.5]) / spread)
    torch.testing.assert_close(found[1], torch.tensor([-20.0, 20.0, 0.0, 0.0]) / math.sqrt(200))
    torch.testing.assert_close(found.square().mean(1), torch.ones(2))


def test_members_that_tie_have_one_advantage_and_groups_that_tie_have_none() -> None:
    rewards = torch.tensor([[0.0, 0.0, 1.0], [0.3, 0.3, 0.3], [7.0, 7.0 + TIE / 2, 7.0]], dtype=torch.float64)
    found = advantages(rewards)
    third = math.sqrt(2) / 3  # standard deviation of 0, 0, 1
    torch.testing.assert_close(found[0], torch.tensor([-1 / 3, -1 / 3, 2 / 3], dtype=torch.float64) / third)
    assert found[1:].abs().max() == 0
    assert ties(rewards).tolist() == [False, True, True]


def test_a_constant_and_a_factor_change_no_advantage() -> None:
    rewards = torch.rand(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(advantages(3 * rewards - 100), advantages(rewards))


def test_frames_are_compared_with_the_same_frames_of_the_others() -> None:
    returns = torch.tensor([[[1.0, 5.0], [3.0, 5.0], [2.0, 8.0]]])
    found = advantages(returns)
    for frame in range(2):
        torch.testing.assert_close(found[..., frame], advantages(returns[..., frame]))


def test_the_divergence_is_the_low_variance_estimate() -> None:
    new, reference = torch.log(torch.tensor([0.5, 0.2, 0.4])), torch.log(torch.tensor([0.25, 0.4, 0.4]))
    expected = torch.tensor([0.5 - math.log(0.5) - 1, 2 - math.log(2) - 1, 0.0])
    torch.testing.assert_close(divergence(new, reference), expected)


def test_the_divergence_s_mean_is_kullback_leibler_s() -> None:
    """Exactly, where every code is weighed with the probability that it is drawn with."""
    new, reference = (torch.randn(50, dtype=torch.float64).log_softmax(0) for _ in range(2))
    expected = (new.exp() * (new - reference)).sum()
    torch.testing.assert_close((new.exp() * divergence(new, reference)).sum(), expected)
    assert divergence(new, reference).min() >= 0


def one(ratio: float, advantage: float) -> tuple[Objective, float]:
    """Objective of a single token, and the gradient that its log-probability gets."""
    new = torch.tensor([[math.log(ratio)]], requires_grad=True)
    zero = torch.zeros(1, 1)
    found = objective(new, zero, zero, torch.tensor([advantage]), torch.ones(1, dtype=torch.bool), clip=0.2, weight=0.0)
    found.loss.backward()
    assert new.grad is not None
    return found, new.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "gradient", "clipped"),
    [
        (1.0, 2.0, 2.0, -2.0, 0.0),
        (1.1, 2.0, 2.2, -2.2, 0.0),
        (1.5, 2.0, 2.4, 0.0, 1.0),  # good and already likelier: enough
        (0.5, 2.0, 1.0, -1.0, 0.0),  # good and less likely: back, however far
        (0.5, -2.0, -1.6, 0.0, 1.0),  # bad and already less likely: enough
        (1.5, -2.0, -3.0, 3.0, 0.0),  # bad and likelier: back, however far
        (1.5, 0.0, 0.0, 0.0, 0.0),
    ],
)
def test_the_ratio_is_clipped_where_it_has_gone_far_enough(
    ratio: float, advantage: float, gain: float, gradient: float, clipped: float
) -> None:
    found, slope = one(ratio, advantage)
    assert found.loss.item() == pytest.approx(-gain, abs=1e-6)
    assert slope == pytest.approx(gradient, abs=1e-6)
    assert found.clipped == clipped


def test_only_masked_tokens_count() -> None:
    new = torch.tensor([[0.1, -3.0, 0.2], [0.0, 9.0, -0.1]], requires_grad=True)
    old, reference = torch.zeros(2, 3), torch.tensor([[0.0, 5.0, 0.0], [0.3, -5.0, 0.0]])
    advantage, mask = torch.tensor([[1.0], [-1.0]]), torch.tensor([True, False, True])
    found = objective(new, old, reference, advantage, mask, clip=0.2, weight=0.5)
    gains = [math.exp(0.1), 1.2, -1.0, -math.exp(-0.1)]  # exp(0.2) is beyond 1.2
    away = [math.exp(d) - d - 1 for d in (-0.1, -0.2, 0.3, 0.1)]
    assert found.divergence == pytest.approx(sum(away) / 4, rel=1e-5)
    assert found.loss.item() == pytest.approx(sum(0.5 * a - g for a, g in zip(away, gains, strict=True)) / 4, rel=1e-5)
    assert found.clipped == 0.25
    found.loss.backward()
    assert new.grad is not None
    assert new.grad[:, 1].tolist() == [0.0, 0.0]
    assert (new.grad[:, [0, 2]] != 0).sum() == 4  # where the ratio is clipped the divergence still pulls


def test_each_token_has_an_advantage_of_its_own() -> None:
    new = torch.zeros(1, 3, requires_grad=True)
    zero, everything = torch.zeros(1, 3), torch.ones(3, dtype=torch.bool)
    objective(new, zero, zero, torch.tensor([[3.0, 0.0, -6.0]]), everything, clip=0.2, weight=0.0).loss.backward()
    assert new.grad is not None
    assert new.grad.tolist() == [[-1.0, 0.0, 2.0]]


def test_where_nothing_was_drawn_there_is_nothing_to_learn() -> None:
    new = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    nothing = torch.zeros(2, dtype=torch.bool)
    found = objective(new, new.detach(), new.detach() - 1, torch.ones(1), nothing, clip=0.2, weight=1.0)
    assert (found.loss.item(), found.divergence, found.clipped) == (0.0, 0.0, 0.0)
    found.loss.backward()
    assert new.grad is not None
    assert new.grad.tolist() == [[0.0, 0.0]]


def test_the_divergence_pulls_back_to_the_reference() -> None:
    new = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    everything = torch.ones(2, dtype=torch.bool)
    reference = torch.tensor([[-2.0, -1.0]])
    objective(new, new.detach(), reference, torch.zeros(1), everything, clip=0.2, weight=1.0).loss.backward()
    assert new.grad is not None
    assert new.grad[0, 0] > 0 > new.grad[0, 1]


def test_what_is_far_off_stays_finite_and_keeps_pulling() -> None:
    """A narrow draw whose mean has moved by a level: 300 nats, where exp overflows in float32."""
    new = torch.tensor([[-1.0, -301.0]], requires_grad=True)
    old, reference = torch.tensor([[-301.0, -1.0]]), torch.tensor([[-1.0, -1.0]])
    found = objective(new, old, reference, torch.tensor([-1.0]), torch.ones(1, 2, dtype=torch.bool), 0.2, 0.1)
    found.loss.backward()
    assert torch.isfinite(found.loss)
    assert torch.isfinite(new.grad).all()
    assert new.grad[0, 0] > 0, "a worse future that became likelier is pushed down"
    assert new.grad[0, 1] < 0, "what the reference holds for likelier is pulled up"


def test_the_tangent_goes_on_where_exp_ends() -> None:
    near, far = torch.tensor([0.5, FAR]), torch.tensor([FAR, FAR + 2])
    torch.testing.assert_close(divergence(-near, torch.zeros(2)), near.exp() - near - 1)
    slope = math.exp(FAR) - 1
    assert (divergence(-far, torch.zeros(2)).diff() / 2).item() == pytest.approx(slope, rel=1e-5)
