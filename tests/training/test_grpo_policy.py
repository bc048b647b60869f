"""What the policy says it drew is what it drew, in both orders, and shared beginnings change nothing."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from roboalign_core.training.dynamics import for_inference
from roboalign_core.training.grpo.build import trainable
from roboalign_core.training.grpo.imagination import Prompts, TokenCost, draw
from roboalign_core.training.grpo.policy import Categorical, Central, Groups, Policy, code_logits
from roboalign_core.world_model import WorldModel, rollout
from roboalign_core.world_model.decoding import Decoder, KeyValueCache
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.layout import TokenLayout
from roboalign_core.world_model.rollout import Order

ORDERS = ("token", "frame")
CATEGORICAL, CENTRAL = Categorical(), Central(1.0)


@pytest.fixture(scope="module")
def model(world_model: Path) -> WorldModel:
    """The policy in float32; its embedding is one that learns."""
    return WorldModel.from_pretrained(world_model, dtype=torch.float32)


@pytest.fixture(scope="module")
def policy(world_model: Path) -> Dynamics:
    return trainable(WorldModel.from_pretrained(world_model, dtype=torch.float32))


def prompts(count: int, frames: int) -> Prompts:
    random = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, frames + 1, 32, 32, 3), generator=random, dtype=torch.uint8)
    return Prompts(pixels, torch.rand(count, frames, 2, generator=random) * 2 - 1, ["move"] * count)


def groups(model: WorldModel, count: int, size: int, frames: int, order: Order, policy: Policy = CATEGORICAL) -> Groups:
    torch.manual_seed(0)
    return draw(model, prompts(count, frames), size, order, policy.picker)[1]


def whole(policy: Dynamics, groups: Groups, order: Order) -> Tensor:
    """(N, T·m) log-probabilities, as the dynamics stage computes them: over whole sequences."""
    size, layout = groups.size, policy.layout
    context, start, actions = (x.repeat_interleave(size, 0) for x in (groups.context, groups.start, groups.actions))
    dynamics = torch.cat([start.unsqueeze(1), groups.codes], dim=1)
    actions = torch.cat([actions, torch.zeros_like(actions[:, :1])], dim=1)  # the last leads nowhere
    hidden = policy.hidden(layout.sequence(context, dynamics, actions))
    frames = dynamics.shape[1]
    logits = policy.token_logits(hidden, frames) if order == "token" else policy.frame_logits(hidden, frames)
    return -logits.cross_entropy(groups.codes).flatten(1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("frames", [1, 4])
def test_shared_beginnings_give_the_same_as_whole_sequences(
    model: WorldModel, policy: Dynamics, order: Order, frames: int
) -> None:
    drawn = groups(model, 3, 4, frames, order)
    assert (drawn.size, len(drawn)) == (4, 3)
    found = code_logits(policy, drawn, order).log_prob(drawn.codes).flatten(1)
    expected = whole(policy, drawn, order)
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)

    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    gradients = []
    for values in (found, expected):
        policy.zero_grad()
        (values * weights).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], value, atol=1e-3 * float(value.abs().max() + 1e-3), rtol=1e-3)
    assert any(name.startswith("frame_head") for name in gradients[0]) == (order == "frame")


def test_groups_are_taken_apart_by_their_starts(model: WorldModel, policy: Dynamics) -> None:
    drawn = groups(model, 3, 4, 2, "frame")
    one = drawn[1:2]
    assert torch.equal(one.codes, drawn.codes[4:8])
    found = torch.cat([code_logits(policy, drawn[row : row + 1], "frame").joint() for row in range(3)])
    torch.testing.assert_close(found, code_logits(policy, drawn, "frame").joint(), atol=1e-4, rtol=1e-4)


def assert_drawn_as_told(counts: Tensor, which: Tensor, told: Tensor) -> None:
    """Pearson's test of the outcomes' counts (K,) against what was told of each draw (N,), whose outcome is ``which``.

    Rare outcomes are put together.
    """
    total = len(which)
    expected = told.new_zeros(len(counts)).scatter(0, which, told) * total
    often = expected >= 5
    seen = torch.cat([counts[often], counts[~often].sum()[None]])
    hoped = torch.cat([expected[often], (total - expected[often].sum())[None].clamp(min=1e-9)])
    statistic = ((seen - hoped).square() / hoped).sum()
    freedom = int(often.sum())
    assert freedom >= 5, "too few outcomes to prove anything"
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5, f"{statistic:.0f} with {freedom} degrees of freedom"


@pytest.mark.parametrize(("order", "drawing"), [("token", CATEGORICAL), ("frame", CATEGORICAL), ("frame", CENTRAL)])
def test_frequencies_are_the_probabilities_that_the_policy_tells(
    model: WorldModel, policy: Dynamics, order: Order, drawing: Policy
) -> None:
    """Whole first frames, and what begins the second frame after the commonest of them: as often as exp(log p) says."""
    drawn = groups(model, 1, 10_000, 2, order, drawing)
    with torch.no_grad():
        logits = code_logits(policy, drawn, order)
        told = drawing.draws(logits, drawing.widths(logits)).log_prob(drawn.codes).double()
    _, which, counts = drawn.codes[:, 0].unique(dim=0, return_inverse=True, return_counts=True)
    assert_drawn_as_told(counts, which, told[:, 0].sum(-1).exp())
    after = which == counts.argmax()
    _, which, counts = drawn.codes[after, 1, 0].unique(return_inverse=True, return_counts=True)
    assert_drawn_as_told(counts, which, told[after, 1, 0].exp())


def test_the_test_of_frequencies_can_fail() -> None:
    told = torch.full((20_000,), 1 / 50, dtype=torch.float64)
    for more, fails in ((0, False), (80, True)):  # one half of the outcomes so much more often than the other
        counts = torch.tensor([400 + more] * 25 + [400 - more] * 25)
        which = torch.arange(50).repeat_interleave(counts)
        with pytest.raises(AssertionError, match="degrees of freedom") if fails else nullcontext():
            assert_drawn_as_told(counts, which, told)


@pytest.mark.parametrize("order", ORDERS)
def test_known_tokens_carry_no_loss(model: WorldModel, policy: Dynamics, order: Order) -> None:
    """Nothing pulls at the hidden states that stand before an action, where nothing but it would be predicted."""
    layout, drawn = policy.layout, groups(model, 2, 3, 3, order)
    assert layout.drawn(3).tolist() == ([True] * 4 + [False] * 2) * 2 + [True] * 4
    found = code_logits(policy, drawn, order).log_prob(drawn.codes)
    assert found.shape == (6, 3, 4)
    policy.zero_grad()
    found.sum().backward()
    assert policy.embedding.free.grad is not None
    if order == "token":  # action ids are inputs, never targets: no other action's row gets a gradient
        used = (drawn.actions + layout.action_offset - layout.dynamics_codes + sum(policy.groups.sizes)).unique()
        rows = policy.embedding.free.grad[-layout.action_bins :].abs().sum(1).nonzero().flatten()
        offset = len(policy.embedding.free) - layout.action_bins
        assert set((rows + offset).tolist()) <= set(used.tolist())


@pytest.mark.parametrize("order", ORDERS)
def test_beginnings_are_run_through_once(model: WorldModel, order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost that a run reports is what the engine is given."""
    fed: list[int] = []
    hidden = Decoder.hidden

    def counted(self: Decoder, ids: Tensor, cache: KeyValueCache) -> Tensor:
        fed.append(ids.numel())
        return hidden(self, ids, cache)

    monkeypatch.setattr(Decoder, "hidden", counted)
    monkeypatch.setattr(rollout, "AHEAD", 1)  # no guesses, which may be wrong
    layout, (windows, group, frames) = model.config.layout, (2, 5, 4)
    groups(model, windows, group, frames, order)
    cost = TokenCost.of(layout, windows, group, frames)
    own = windows * group * (frames - 1) * layout.dynamics_tokens  # drawn tokens that come in to draw the next frame
    if order == "token":
        own += windows * group * (layout.dynamics_tokens - 1)
    assert sum(fed) == cost.prefilled + own
    assert cost.sampled == windows * group * frames * layout.dynamics_tokens


def test_the_cost_is_that_of_the_papers_at_their_layout() -> None:
    layout = TokenLayout(4375, 4375, 256, context_tokens=1280, dynamics_tokens=80, action_tokens=13)
    assert TokenCost.of(layout, 1, 16, 7) == TokenCost(prefilled=2621, sampled=8960, ancestor=185_024)


def test_learning_goes_on_from_the_weights_of_the_file(model: WorldModel, policy: Dynamics) -> None:
    """An embedding that learns is as the file's table, and stays a sum of parts when it changes."""
    torch.testing.assert_close(policy.table(), model.dynamics.table(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        for_inference(model.config, model.tokenizer, policy).dynamics.table(), policy.table().detach()
    )
