"""Codes in groups of channels, and logits over them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.codes import CodeGroups, CodeLogits
from roboalign_core.world_model.fsq import FSQ

LEVELS = [4, 3, 2, 5]
CODES = 4 * 3 * 2 * 5


@pytest.fixture(params=[[], [2, 2], [1, 2, 1], [4]])
def groups(request: pytest.FixtureRequest) -> CodeGroups:
    return CodeGroups.of(LEVELS, request.param)


@pytest.fixture
def logits(groups: CodeGroups) -> CodeLogits:
    return CodeLogits.of(groups, torch.randn(7, sum(groups.sizes), generator=torch.Generator().manual_seed(0)))


def test_parts_are_the_codes_of_their_own_channels(groups: CodeGroups) -> None:
    codes = torch.arange(CODES)
    parts = groups.split(codes)
    assert torch.equal(groups.join(parts), codes)
    values = torch.cat([FSQ(levels).values(part) for levels, part in zip(groups.levels, parts, strict=True)], dim=-1)
    assert torch.equal(values, FSQ(LEVELS).values(codes))


def test_a_table_of_sums_gives_its_factors_back(groups: CodeGroups) -> None:
    factors = [torch.randn(size, 3) for size in groups.sizes]
    table = groups.spread(factors)
    assert table.shape == (CODES, 3)
    code = torch.tensor([77])
    expected = sum(factor[part] for factor, part in zip(factors, groups.split(code), strict=True))
    torch.testing.assert_close(table[code], expected)
    torch.testing.assert_close(groups.spread(groups.factors(table)), table)


def test_rounding_of_the_table_mostly_cancels() -> None:
    groups = CodeGroups.of([8, 8, 8, 5, 5], [2, 3])
    exact = groups.spread([torch.randn(size, 3, generator=torch.Generator().manual_seed(0)) for size in groups.sizes])
    rounded = exact.bfloat16().float()
    again = groups.spread(groups.factors(rounded))
    assert (again - exact).abs().mean() < 0.2 * (rounded - exact).abs().mean()


def test_the_central_code_has_the_least_expected_squared_distance(logits: CodeLogits) -> None:
    every = torch.arange(CODES)
    levels = torch.tensor(LEVELS)
    digits = (every[:, None] // torch.cumprod(torch.tensor([1, *LEVELS[:-1]]), 0) % levels).float()
    distance = torch.cdist(digits, digits).square()
    for sharpness in (0.5, 3.0):
        risk = (logits.joint() * sharpness).softmax(-1) @ distance
        central = logits.central(sharpness)
        torch.testing.assert_close(risk.gather(1, central[:, None])[:, 0], risk.min(-1).values)
    assert not torch.equal(logits.central(0.5), logits.likeliest())


def test_means_and_deviations_are_those_of_the_levels() -> None:
    """Two levels of the first channel, 1 and 2, as 1 to 3; the second is sure; sharpened, it is 1 to 9."""
    groups = CodeGroups.of([4, 3], [2])
    logits = torch.full((12,), -50.0)
    logits[1 + 4 * 2], logits[2 + 4 * 2] = math.log(1), math.log(3)
    found = CodeLogits.of(groups, logits[None])
    torch.testing.assert_close(found.means(1.0), torch.tensor([[1.75, 2.0]]))
    torch.testing.assert_close(found.deviations(1.0), torch.tensor([[(0.75 * 0.25) ** 0.5, 0.0]]))
    torch.testing.assert_close(found.means(2.0), torch.tensor([[1.9, 2.0]]))
    torch.testing.assert_close(found.deviations(2.0), torch.tensor([[0.3, 0.0]]))


def test_channels_are_the_levels_of_every_group(groups: CodeGroups) -> None:
    codes = torch.arange(CODES)
    levels = torch.stack(groups.channels.split(codes), dim=-1)
    half = torch.tensor(LEVELS) // 2
    torch.testing.assert_close((levels - half) / half, FSQ(LEVELS).values(codes))
    assert torch.equal(groups.channels.join(levels.unbind(-1)), codes)


def test_a_sure_code_is_central(groups: CodeGroups) -> None:
    codes = torch.arange(CODES)
    parts = [20.0 * F.one_hot(part, size) for part, size in zip(groups.split(codes), groups.sizes, strict=True)]
    assert torch.equal(CodeLogits(groups, tuple(parts)).central(), codes)


def test_groups_are_a_distribution_over_codes(logits: CodeLogits) -> None:
    """The joint logits are one, whose likeliest code, cross-entropy and samples those of the groups are."""
    joint = logits.joint()
    assert joint.shape == (7, CODES)
    assert torch.equal(logits.likeliest(), joint.argmax(-1))
    codes = torch.randint(0, CODES, (7,))
    torch.testing.assert_close(logits.cross_entropy(codes), F.cross_entropy(joint, codes, reduction="none"))
    distribution = torch.distributions.Categorical(logits=joint)
    torch.testing.assert_close(logits.log_prob(codes), distribution.log_prob(codes))
    torch.testing.assert_close(logits.entropy(), distribution.entropy())


def test_samples_follow_the_joint_distribution(logits: CodeLogits) -> None:
    many = CodeLogits(logits.groups, tuple(part[:1].expand(200_000, -1) for part in logits.parts))
    drawn = many.sample(0.7, torch.Generator().manual_seed(0))
    found = torch.bincount(drawn, minlength=CODES) / len(drawn)
    expected = (logits.joint()[0] / 0.7).softmax(-1)
    assert (found - expected).abs().max() < 5 * (0.25 / len(drawn)) ** 0.5
    assert torch.equal(drawn, many.sample(0.7, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("channels", [[3], [2, 3], [4, 0], [5, -1]])
def test_groups_that_do_not_fit_are_refused(channels: list[int]) -> None:
    with pytest.raises(RoboAlignError, match="code_channels: expected numbers of at least 1 whose sum is 4"):
        CodeGroups.of(LEVELS, channels)
