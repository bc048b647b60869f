"""Rollouts of any length, their modes, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model import WorldModel, WorldModelConfig
from roboalign_core.world_model.codes import CodeLogits
from roboalign_core.world_model.rollout import Context, Imagination, Mode, Order
from roboalign_core.world_model.tokenizer import to_frames

MODES, ORDERS = get_args(Mode), get_args(Order)


def assert_same_picture(found: np.ndarray, expected: np.ndarray) -> None:
    """But for rounding: batches of different sizes add up in different orders."""
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ORDERS)
def test_shapes(model: WorldModel, frame: np.ndarray, actions: np.ndarray, mode: Mode, order: Order) -> None:
    rollout = model.rollout(frame, actions, mode=mode, order=order)
    assert rollout.tokens.shape == (5, 7, 4)
    assert rollout.tokens.max() < model.config.layout.dynamics_codes
    assert rollout.frames.shape == (5, 7, 32, 32, 3)
    assert rollout.frames.dtype == np.uint8
    for step in (0, 3, 6):
        assert rollout.latent(step).shape == (5, 16, 32)
    assert torch.equal(rollout.latent(-1), rollout.latent(6))


def test_steps_that_were_not_imagined_are_refused(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    rollout = model.rollout(frame, actions)
    for step in (7, -8):
        with pytest.raises(RoboAlignError, match="rollout step"):
            rollout.latent(step)


@pytest.mark.parametrize("mode", MODES)
def test_latents_are_those_of_the_frames(model: WorldModel, frame: np.ndarray, actions: np.ndarray, mode: Mode) -> None:
    rollout = model.rollout(frame, actions, mode=mode)
    start = 0
    for segment in rollout.segments:
        features = segment.features.repeat(5 // len(segment.features.latent))
        drawn = model.tokenizer.decode_latent(rollout.latent(start), features)
        assert torch.equal(to_frames(drawn.detach()), torch.from_numpy(rollout.frames[:, start]))
        start += segment.codes.shape[1]
    assert start == 7


# -- candidates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ORDERS)
def test_candidates_do_not_influence_each_other(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, mode: Mode, order: Order
) -> None:
    together = model.rollout(frame, actions, mode=mode, order=order)
    assert len(together.tokens.unique(dim=0)) == 5, "candidates that are all alike prove little"
    permutation = np.array([3, 0, 4, 1, 2])
    permuted = model.rollout(frame, actions[permutation], mode=mode, order=order)
    assert torch.equal(permuted.tokens, together.tokens[permutation])
    for index in (0, 4):
        alone = model.rollout(frame, actions[index : index + 1], mode=mode, order=order)
        assert torch.equal(alone.tokens[0], together.tokens[index])
        assert_same_picture(alone.frames[0], together.frames[index])


@pytest.mark.parametrize("mode", MODES)
def test_the_future_does_not_change_the_past(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, mode: Mode
) -> None:
    short = model.rollout(frame, actions[:, :5], mode=mode)
    long = model.rollout(frame, actions, mode=mode)
    assert torch.equal(short.tokens, long.tokens[:, :5])
    assert np.array_equal(short.frames, long.frames[:, :5])


def test_actions_matter(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    other = actions.copy()
    other[:, 0] *= -1
    assert not torch.equal(model.rollout(frame, actions).tokens[:, 0], model.rollout(frame, other).tokens[:, 0])


@torch.no_grad()
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("when", ["start", "act", "draw"])
def test_forked_candidates_go_on_from_one_past(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, order: Order, when: str
) -> None:
    """As if each of the many had come all the way alone, wherever they part."""
    bins = model.action_bins(actions[:2])
    many = bins.repeat_interleave(3, 0)
    many[1, 1] = (many[1, 1] + 5) % 16  # from the second action on, two of a kind go different ways
    context = model.encode(torch.from_numpy(np.stack([frame, frame[::-1]])))
    imagination = Imagination(model, context, 2, order)
    if when == "start":
        imagination.fork(3)
    imagination.act(many[:, 0] if when == "start" else bins[:, 0])
    if when == "act":
        imagination.fork(3)
    first = imagination.draw()
    if when == "draw":
        imagination.fork(3)
        first = first.repeat_interleave(3, 0)
    found = torch.stack([first, imagination.step(many[:, 1]), imagination.step(many[:, 2])], dim=1)
    each = Context(
        context.codes.repeat_interleave(3, 0), context.start.repeat_interleave(3, 0), context.features.repeat(3)
    )
    alone = Imagination(model, each, 6, order)
    assert torch.equal(found, torch.stack([alone.step(many[:, step]) for step in range(3)], dim=1))
    assert len(found.unique(dim=0)) > 2
    torch.testing.assert_close(imagination.expected, alone.expected)


# -- modes ----------------------------------------------------------------------------------------------------------


def test_swr_starts_anew_from_the_frame_that_it_drew(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    """With a context of several frames: from the newest ones that it drew."""
    rollout = model.rollout(frame, actions, mode="swr", window=3)
    assert [segment.codes.shape[1] for segment in rollout.segments] == [3, 3, 1]
    for border in (3, 6):
        for candidate in range(5):
            *seen, last = rollout.frames[candidate, :border]
            move = actions[candidate : candidate + 1, border : border + 1]
            fresh = model.rollout(last, move, seen=seen)
            assert torch.equal(fresh.tokens[0, 0], rollout.tokens[candidate, border])
            assert_same_picture(fresh.frames[0, 0], rollout.frames[candidate, border])


def test_windows_shorter_than_the_context_reach_back_to_what_was_seen(
    config: WorldModelConfig, make_model: Callable[..., WorldModel], frame: np.ndarray, actions: np.ndarray
) -> None:
    """Three context frames, windows of one: the second segment starts from two frames seen and one drawn."""
    model = make_model(replace(config, tokenizer=replace(config.tokenizer, context_frames=3)))
    start, seen = to_frames(torch.rand(3, 32, 32)).numpy(), [255 - frame, np.flip(frame, 1)]
    rollout = model.rollout(start, actions[:1, :3], mode="swr", window=1, seen=seen)
    drawn = rollout.frames[0]
    for border, before in ((1, [seen[1], start]), (2, [start, drawn[0]])):
        move = actions[:1, border : border + 1]
        fresh = model.rollout(drawn[border - 1], move, seen=before)
        assert torch.equal(fresh.tokens[0, 0], rollout.tokens[0, border])
        other = model.rollout(drawn[border - 1], move)
        assert not torch.equal(other.segments[0].features.latent, fresh.segments[0].features.latent)


def test_frames_seen_before_are_the_rest_of_the_context(
    config: WorldModelConfig, make_model: Callable[..., WorldModel], frame: np.ndarray, actions: np.ndarray
) -> None:
    """The newest ones. Where there are fewer, the oldest stands for those before it; one alone has stood still."""
    model = make_model(replace(config, tokenizer=replace(config.tokenizer, context_frames=3)), seed=1)
    older, old = np.flip(frame, 0), np.flip(frame, 1)

    def tokens(*seen: np.ndarray) -> torch.Tensor:
        return model.rollout(frame, actions, seen=seen).tokens

    assert torch.equal(tokens(frame, older, old), tokens(older, old))
    assert torch.equal(tokens(old), tokens(old, old))
    assert torch.equal(tokens(), tokens(frame, frame))
    found = [tokens(), tokens(old), tokens(older, old), tokens(old, older)]
    assert all(not torch.equal(a, b) for index, a in enumerate(found) for b in found[:index]), "and in this order"
    with pytest.raises(RoboAlignError, match="frame: expected a uint8 array"):
        tokens(old[0])


def test_frozen_keeps_the_first_context(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    rollout = model.rollout(frame, actions, mode="frozen", window=3)
    first, second, third = rollout.segments
    for segment in (second, third):
        assert torch.equal(segment.features.latent, first.features.latent.expand(5, -1, -1))
        assert torch.equal(segment.features.fine, first.features.fine.expand(5, -1, -1, -1))
    context = model.encode(torch.from_numpy(frame)[None])
    with torch.no_grad():
        again = Imagination(model, replace(context, start=rollout.tokens[:, 2]), 5, "token")
        assert torch.equal(again.step(model.action_bins(actions)[:, 3]), rollout.tokens[:, 3])


def test_modes_agree_within_the_first_window_and_differ_after(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray
) -> None:
    swr, frozen, plain = (
        model.rollout(frame, actions, mode=mode, window=3).tokens for mode in ("swr", "frozen", "plain")
    )
    assert torch.equal(swr[:, :3], plain[:, :3])
    assert torch.equal(frozen[:, :3], plain[:, :3])
    assert not torch.equal(frozen[:, 3:5], plain[:, 3:5])
    assert not torch.equal(swr[:, 3:5], plain[:, 3:5])


def test_plain_keeps_the_newer_half_when_positions_run_out(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray
) -> None:
    """Six frames of positions: five steps, then the last two of them as history, then three more steps."""
    long = np.concatenate([actions, actions[:, ::-1]], axis=1)[:, :12]
    rollout = model.rollout(frame, long, mode="plain")
    assert [segment.codes.shape[1] for segment in rollout.segments] == [5, 3, 3, 1]
    bins, context = model.action_bins(long), model.encode(torch.from_numpy(frame)[None])
    for border in (5, 8):
        with torch.no_grad():
            start = replace(context, start=rollout.tokens[:, border - 3])
            again = Imagination(model, start, 5, "token")
            again.follow(bins[:, border - 2 : border], rollout.tokens[:, border - 2 : border])
            assert torch.equal(again.step(bins[:, border]), rollout.tokens[:, border])


def test_plain_with_positions_for_a_single_step(
    config: WorldModelConfig,
    make_model: Callable[[WorldModelConfig], WorldModel],
    frame: np.ndarray,
    actions: np.ndarray,
) -> None:
    small = replace(config.dynamics, max_frames=2)
    model = make_model(replace(config, dynamics=small, window=1))
    plain = model.rollout(frame, actions, mode="plain").tokens
    assert torch.equal(plain, model.rollout(frame, actions, mode="frozen", window=1).tokens)


def test_the_longest_window_fits(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    for order in ORDERS:
        for mode in ("swr", "frozen"):
            assert model.rollout(frame, actions, mode=mode, window=5, order=order).tokens.shape[1] == 7


def test_window_is_the_configuration_s_by_default(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    assert torch.equal(model.rollout(frame, actions).tokens, model.rollout(frame, actions, window=3).tokens)
    assert not torch.equal(model.rollout(frame, actions).tokens, model.rollout(frame, actions, window=2).tokens)


def test_nothing_is_decoded_before_it_is_asked_for(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    decode = model.decode
    monkeypatch.setattr(model, "decode", lambda *a: calls.append(1) or decode(*a))
    rollout = model.rollout(frame, actions[:, :3])
    _ = rollout.tokens
    assert not calls
    _ = rollout.frames
    assert len(calls) == 3


# -- sampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_a_seed_decides_what_is_sampled(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, order: Order
) -> None:
    def sampled(seed: int) -> torch.Tensor:
        return model.rollout(frame, actions, order=order, temperature=1.0, seed=seed).tokens

    torch.manual_seed(5)
    first = sampled(1)
    torch.manual_seed(6)
    assert torch.equal(first, sampled(1))
    assert not torch.equal(first, sampled(2))


@pytest.mark.parametrize("order", ORDERS)
def test_what_picks_is_given(model: WorldModel, order: Order) -> None:
    """Every token of every frame goes through it; token by token, those after a wrong guess once more."""
    context, asked = model.encode(torch.zeros(1, 32, 32, 3, dtype=torch.uint8)), []

    def pick(logits: CodeLogits) -> torch.Tensor:
        asked.append(logits.parts[0].shape[:-1].numel())
        return torch.full(logits.parts[0].shape[:-1], 7)

    imagination = Imagination(model, context, 3, order, pick)
    with torch.no_grad():
        codes = [imagination.step(torch.zeros(3, 2, dtype=torch.int64)) for _ in range(2)]
    assert all((each == 7).all() for each in codes)
    tokens = torch.stack(codes).numel()
    assert sum(asked) == tokens if order == "frame" else sum(asked) >= tokens


def test_without_temperature_nothing_is_random(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    torch.manual_seed(0)
    first = model.rollout(frame, actions).tokens
    torch.manual_seed(1)
    assert torch.equal(first, model.rollout(frame, actions).tokens)


# -- bad input ------------------------------------------------------------------------------------------------------

NAN = np.full((1, 2, 2), np.nan, np.float32)
HUGE = np.full((1, 2, 2), 1e300)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((5, 7, 3), np.float32), "width 2, found 3"),
        (np.zeros((7, 2), np.float32), r"expected shape \(candidates, frames, 2\).*found \(7, 2\)"),
        (np.zeros((5, 0, 2), np.float32), "none of them 0"),
        (np.zeros((0, 7, 2), np.float32), "none of them 0"),
        (NAN, "NaN"),
        pytest.param(HUGE, "infinity", marks=pytest.mark.filterwarnings("ignore:overflow")),
    ],
    ids=["width", "two axes", "no steps", "no candidates", "NaN", "too large"],
)
def test_bad_actions_are_refused(model: WorldModel, frame: np.ndarray, bad: np.ndarray, message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        model.rollout(frame, bad)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((32, 32, 3), np.float32),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.zeros((1, 32, 32, 3), np.uint8),
        np.zeros((0, 32, 3), np.uint8),
        np.zeros((32, 32, 3), np.uint8).tolist(),
    ],
    ids=["float", "four channels", "grey", "batch", "empty", "list"],
)
def test_bad_frames_are_refused(model: WorldModel, actions: np.ndarray, bad: np.ndarray) -> None:
    with pytest.raises(RoboAlignError, match=r"frame: expected a uint8 array \(H, W, 3\)"):
        model.rollout(bad, actions)
    if np.shape(bad) != (1, 32, 32, 3):  # a session takes several robots
        with pytest.raises(RoboAlignError, match=r"frame: expected a uint8 array \(H, W, 3\)"):
            model.session().reset(bad)


def test_what_came_before_is_seen_from_the_same_context(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray
) -> None:
    for mode, window in (("plain", 1), ("frozen", 3), ("swr", 3)):
        rollout = model.rollout(frame, actions, mode=mode, window=window)
        tokens, before = rollout.tokens, rollout.before
        assert len(rollout.segments) > 1
        assert (before[:, 0] == model.tokenizer.still_code).all()  # a context's newest frame, relative to itself
        place = 0
        for segment in rollout.segments:
            length = segment.codes.shape[1]
            assert torch.equal(before[:, place + 1 : place + length], tokens[:, place : place + length - 1])
            if place and mode == "swr":
                assert (before[:, place] == model.tokenizer.still_code).all()
            elif place:
                assert torch.equal(before[:, place], tokens[:, place - 1])
            place += length


@pytest.mark.parametrize("window", [0, -1, 6])
@pytest.mark.parametrize("mode", ["swr", "frozen"])
def test_bad_windows_are_refused(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, mode: Mode, window: int
) -> None:
    with pytest.raises(RoboAlignError, match=f"window: expected 1 to 5 frames, found {window}"):
        model.rollout(frame, actions, mode=mode, window=window)


def test_unknown_modes_and_temperatures_are_refused(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    with pytest.raises(RoboAlignError, match=r"rollout mode: expected one of.*'dream'"):
        model.rollout(frame, actions, mode="dream")
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(RoboAlignError, match="temperature"):
            model.rollout(frame, actions, temperature=temperature)


def test_the_caller_s_arrays_stay_the_caller_s(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    expected = model.rollout(frame, actions).tokens
    for array in (frame, actions):
        array.flags.writeable = False
    before = frame.copy(), actions.copy()
    assert torch.equal(model.rollout(frame[:, :], actions).tokens, expected)
    strided = np.repeat(actions, 2, axis=1)[:, ::2]
    assert torch.equal(model.rollout(np.asfortranarray(frame), strided).tokens, expected)
    assert np.array_equal(frame, before[0])
    assert np.array_equal(actions, before[1])


def test_rollouts_are_computed_without_gradients(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    rollout = model.rollout(frame, actions)
    assert not rollout.latent(0).requires_grad
    assert not rollout.segments[0].features.latent.requires_grad


def test_configurations_that_do_not_fit_the_robot_are_refused(
    config: WorldModelConfig, make_model: Callable[[WorldModelConfig], WorldModel]
) -> None:
    with pytest.raises(RoboAlignError, match="expected the range of 2 action components, found that of 0"):
        make_model(replace(config, action_low=[], action_high=[]))
    with pytest.raises(RoboAlignError, match="every low below its high"):
        make_model(replace(config, action_low=[1.0, 0.0]))
