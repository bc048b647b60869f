"""Finite scalar quantisation: codes and values name each other, and gradients pass."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.fsq import FSQ
from roboalign_core.world_model.tokenizer import Bottleneck

LEVELS = [[8, 8, 6, 5], [5, 5, 5, 5, 5], [2], [3], [2, 3, 4], [7, 5, 5, 5, 5]]


@pytest.mark.parametrize("levels", LEVELS, ids=str)
def test_every_code_survives_the_round_trip(levels: list[int]) -> None:
    fsq = FSQ(levels)
    codes = torch.arange(fsq.codes)
    values = fsq.values(codes)
    assert fsq.codes == math.prod(levels)
    assert values.shape == (fsq.codes, len(levels))
    assert len(values.unique(dim=0)) == fsq.codes
    half, offset = (torch.tensor(levels) - 1) * 1.001 / 2, torch.tensor([0.5 * (n % 2 == 0) for n in levels])
    integers = values * (torch.tensor(levels) // 2)
    z = torch.atanh((integers + offset) / half) - torch.atanh(offset / half)  # what is bounded to these integers
    again, found = fsq(z)
    assert torch.equal(found, codes)
    torch.testing.assert_close(again, values)


@settings(deadline=None, max_examples=60)
@given(
    levels=st.lists(st.integers(2, 9), min_size=1, max_size=5),
    scale=st.sampled_from([0.1, 1.0, 10.0, 1e4]),
    seed=st.integers(0, 100),
)
def test_any_input_gives_a_code_of_the_book(levels: list[int], scale: float, seed: int) -> None:
    fsq = FSQ(levels)
    z = torch.randn(7, 3, len(levels), generator=torch.Generator().manual_seed(seed)) * scale
    values, codes = fsq(z)
    assert codes.shape == (7, 3)
    assert codes.dtype == torch.int64
    assert codes.min() >= 0
    assert codes.max() < fsq.codes
    assert values.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(fsq.values(codes), values)


def test_values_of_odd_and_even_levels() -> None:
    torch.testing.assert_close(FSQ([5]).values(torch.arange(5)).flatten(), torch.tensor([-1, -0.5, 0, 0.5, 1]))
    torch.testing.assert_close(FSQ([4]).values(torch.arange(4)).flatten(), torch.tensor([-1, -0.5, 0, 0.5]))


def test_the_first_level_counts_fastest() -> None:
    assert FSQ([4, 3]).values(torch.tensor([1])).tolist() == [[-0.5, -1.0]]


@pytest.mark.parametrize("levels", [[5], [4]], ids=str)
def test_gradient_is_that_of_the_bound_alone(levels: list[int]) -> None:
    fsq = FSQ(levels)
    z = torch.linspace(-2, 2, 9).unsqueeze(-1).requires_grad_()
    values, _ = fsq(z)
    (straight,) = torch.autograd.grad(values.sum(), z)
    (bounded,) = torch.autograd.grad((fsq.bound(z) / (levels[0] // 2)).sum(), z)
    torch.testing.assert_close(straight, bounded)
    assert straight.min() > 0


def test_rounding_is_to_the_nearest() -> None:
    fsq = FSQ([7])
    z = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    values, _ = fsq(z)
    assert (values * 3 - fsq.bound(z)).abs().max() <= 0.5 + 1e-6


@pytest.mark.parametrize("levels", [[], [1], [5, 0]], ids=str)
def test_impossible_levels_are_refused(levels: list[int]) -> None:
    with pytest.raises(RoboAlignError, match="FSQ levels"):
        FSQ(levels)


def test_bottleneck_spreads_what_all_positions_share() -> None:
    """Inputs that differ little must still use many codes, after some batches also in evaluation."""
    torch.manual_seed(0)
    bottleneck, fsq = Bottleneck(16, 3), FSQ([5, 5, 5])
    common = torch.randn(16) * 5

    def batch() -> torch.Tensor:
        return common + 0.2 * torch.randn(8, 20, 16)

    plain = fsq(bottleneck.linear(bottleneck.norm(batch())))[1].unique().numel()
    z = bottleneck(batch())
    assert z.shape == (8, 20, 3)
    assert z.flatten(0, 1).mean(0).abs().max() < 1e-4
    torch.testing.assert_close(z.flatten(0, 1).std(0, correction=0), torch.ones(3), atol=0.05, rtol=0)
    for _ in range(600):  # the variance starts at 1 and is to come down to 0.0005
        bottleneck(batch())
    bottleneck.eval()
    spread = fsq(bottleneck(batch()))[1].unique().numel()
    assert spread >= 4 * plain
    assert spread >= 60
