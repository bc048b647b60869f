"""A session is a rollout with re-encoding, one frame at a time."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model import Session, WorldModel, WorldModelConfig
from roboalign_core.world_model.rollout import Imagination, Order


def assert_same_picture(found: np.ndarray, expected: np.ndarray) -> None:
    """But for rounding: batches of different sizes add up in different orders."""
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 1


def walk(session: Session, actions: np.ndarray) -> np.ndarray:
    return np.stack([session.step(action) for action in actions])


@pytest.mark.parametrize("order", get_args(Order))
def test_a_session_is_a_rollout_with_reencoding(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, order: Order
) -> None:
    session = model.session(order)
    session.reset(frame)
    found = walk(session, actions[0])
    assert found.shape == (7, 32, 32, 3)
    assert found.dtype == np.uint8
    assert np.array_equal(found, model.rollout(frame, actions[:1], mode="swr", order=order).frames[0])


def test_observing_replaces_what_was_imagined(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    seen = np.flip(frame, 1).copy()
    session, fresh = model.session(), model.session()
    session.reset(frame)
    before = walk(session, actions[1, :2])
    session.observe(seen)
    fresh.reset(seen, seen=before[:1])  # the last one is what was replaced
    after = walk(session, actions[2])
    assert np.array_equal(after, walk(fresh, actions[2]))
    session.reset(frame)
    assert not np.array_equal(walk(session, actions[2]), after)


@pytest.mark.parametrize("model", [(2, 1)], indirect=True, ids=["two context frames"])
def test_without_a_step_in_between_a_frame_takes_the_place_of_the_one_seen_before(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray
) -> None:
    """So that the context has no frame twice, or of one moment two."""
    before, second, third = 255 - frame, np.flip(frame, 1).copy(), np.flip(frame, 0).copy()
    session, fresh = model.session(), model.session()

    def is_as_after(seen: np.ndarray, earlier: np.ndarray) -> bool:
        fresh.reset(seen, seen=[earlier])
        return np.array_equal(after, walk(fresh, actions[0]))

    session.reset(frame, seen=[before])
    assert session.observe(second).shape == (0, 32, 32, 3)
    after = walk(session, actions[0])
    assert is_as_after(second, before)
    assert not is_as_after(second, frame)
    session.reset(frame)
    session.step(actions[1, 0])
    session.observe(second)
    session.observe(third)
    after = walk(session, actions[0])
    assert is_as_after(third, frame)
    assert not is_as_after(third, second)


def test_sessions_of_one_model_do_not_mix(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    first, second = model.session(), model.session()
    first.reset(frame)
    second.reset(255 - frame)
    found = [(first.step(a), second.step(b)) for a, b in zip(actions[0], actions[1], strict=True)]
    alone = model.session()
    alone.reset(frame)
    assert np.array_equal(np.stack([a for a, _ in found]), walk(alone, actions[0]))


def test_memory_does_not_grow_with_the_stream(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    session = model.session()
    session.reset(frame)
    limit = model.config.layout.length(model.config.window + 1)
    for action in np.tile(actions[0], (3, 1)):
        session.step(action)
        assert session._imagination is not None
        assert session._imagination.frames < model.config.window
        assert session._imagination.cache.length < limit


def test_a_step_needs_a_frame(model: WorldModel, actions: np.ndarray) -> None:
    with pytest.raises(RoboAlignError, match=r"expected reset\(frame\) before step\(action\)"):
        model.session().step(actions[0, 0])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(3, np.float32), "width 2, found 3"),
        (np.zeros((1, 2), np.float32), r"expected shape \(2,\), found \(1, 2\)"),
        (np.float32(0), r"expected shape \(2,\), found \(\)"),
        (np.array([0, np.nan], np.float32), "NaN"),
        (np.array([np.inf, 0], np.float32), "infinity"),
    ],
    ids=["width", "batch", "number", "NaN", "infinity"],
)
def test_bad_actions_change_nothing(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, bad: np.ndarray, message: str
) -> None:
    session, undisturbed = model.session(), model.session()
    session.reset(frame)
    undisturbed.reset(frame)
    with pytest.raises(RoboAlignError, match=message):
        session.step(bad)
    assert np.array_equal(session.step(actions[0, 0]), undisturbed.step(actions[0, 0]))


# -- several robots -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", get_args(Order))
def test_robots_in_step_are_robots_alone(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, order: Order
) -> None:
    """Over two borders of the window, whatever their order."""
    seen = np.stack([frame, 255 - frame, np.flip(frame, 1)])
    together = model.session(order)
    together.reset(seen)
    found = walk(together, actions[:3].swapaxes(0, 1))
    assert found.shape == (7, 3, 32, 32, 3)
    turned = model.session(order)
    turned.reset(seen[[2, 0, 1]])
    assert_same_picture(walk(turned, actions[[2, 0, 1]].swapaxes(0, 1)), found[:, [2, 0, 1]])
    for robot in range(3):
        alone = model.session(order)
        alone.reset(seen[robot])
        assert_same_picture(walk(alone, actions[robot]), found[:, robot])


def test_a_batch_of_one_robot_keeps_its_axis(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    session = model.session()
    session.reset(frame[None])
    assert session.step(actions[0, :1]).shape == (1, 32, 32, 3)
    session.reset(frame)
    assert session.step(actions[0, 0]).shape == (32, 32, 3)


def test_other_numbers_of_robots_are_refused(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    session = model.session()
    session.reset(np.stack([frame, frame]))
    for bad in (actions[0, 0], actions[:3, 0], actions[:1]):
        with pytest.raises(RoboAlignError, match=r"action: expected shape \(2, 2\), found"):
            session.step(bad)
    for other in (frame, np.stack([frame] * 3)):
        with pytest.raises(RoboAlignError, match=r"frame: expected shape \(2, H, W, 3\), found"):
            session.observe(other)
    with pytest.raises(RoboAlignError, match=r"frame: expected a uint8 array"):
        session.reset(np.zeros((0, 32, 32, 3), np.uint8))


# -- frames that come late ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", get_args(Order))
@pytest.mark.parametrize("robots", [None, 2])
def test_a_late_frame_takes_the_place_of_the_imagined_one(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, order: Order, robots: int | None
) -> None:
    """As if its codes had been there from the beginning: the context and what came before it still hold."""
    start, seen = (np.stack([each] * (robots or 1)) for each in (frame, 255 - frame))
    moves = actions[: robots or 1]
    session = model.session(order)
    session.reset(start if robots else start[0])
    walk(session, moves[:, :2].swapaxes(0, 1) if robots else moves[0, :2])
    found = session.observe(seen if robots else seen[0], late=1)

    context, bins = model.encode(torch.from_numpy(start)), model.action_bins(moves)
    again = Imagination(model, context, len(start), order)
    codes = model.encode_dynamics(torch.from_numpy(seen), context.features)
    assert not torch.equal(codes[0], model.rollout(frame, moves[:1, :1], order=order).tokens[0, 0])
    again.follow(bins[:, :1], codes.unsqueeze(1))
    with torch.no_grad():
        expected = model.decode(again.step(bins[:, 1]), context.features).numpy()
    assert_same_picture(found, expected[None] if robots else expected)


def test_a_late_frame_does_not_prefill_the_context_again(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = model.session("frame")
    session.reset(frame)
    walk(session, actions[0, :2])
    fed: list[int] = []
    run = model.decoder.hidden
    monkeypatch.setattr(model.decoder, "hidden", lambda ids, cache: fed.append(ids.shape[1]) or run(ids, cache))
    session.observe(255 - frame, late=1)
    assert fed == [model.config.layout.frame_tokens]


@pytest.mark.parametrize("late", [2, 3])
def test_a_frame_older_than_the_context_becomes_the_context(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, late: int
) -> None:
    """The window of three ended in between, so that what came after was imagined from a frame that was not so."""
    session, fresh = model.session(), model.session()
    session.reset(frame)
    before = walk(session, actions[0, :4])
    found = session.observe(255 - frame, late=late)
    fresh.reset(255 - frame, seen=[frame, *before[: 3 - late]])
    assert np.array_equal(found, walk(fresh, actions[0, 4 - late : 4]))
    assert np.array_equal(walk(session, actions[0, 4:]), walk(fresh, actions[0, 4:]))


def test_a_frame_in_time_changes_nothing_before_it(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    session = model.session()
    session.reset(frame)
    session.step(actions[0, 0])
    assert session.observe(255 - frame).shape == (0, 32, 32, 3)


def test_frames_of_too_long_ago_are_refused(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    session, undisturbed = model.session(), model.session()
    with pytest.raises(RoboAlignError, match=r"expected reset\(frame\) before observe\(frame\)"):
        session.observe(frame, late=1)
    for each in (session, undisturbed):
        each.reset(frame)
        walk(each, actions[0, :2])
    for late in (3, -1):
        with pytest.raises(RoboAlignError, match=f"0 to 2 steps ago.*found {late}"):
            session.observe(frame, late=late)
    assert np.array_equal(walk(session, actions[0, 2:]), walk(undisturbed, actions[0, 2:]))
    with pytest.raises(RoboAlignError, match=r"0 to 3 steps ago.*found 4"):  # of the seven, no more are remembered
        session.observe(frame, late=4)
    session.observe(frame, late=1)
    with pytest.raises(RoboAlignError, match=r"0 to 1 steps ago.*found 2"):  # older than the last real frame
        session.observe(frame, late=2)


def test_a_border_of_the_window_is_a_fresh_start(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    session, fresh = model.session(), model.session()
    session.reset(frame)
    found = walk(session, actions[0, :6])
    fresh.reset(found[2], seen=found[:2])
    assert np.array_equal(walk(fresh, actions[0, 3:6]), found[3:])


def test_frames_that_were_seen_become_the_context(
    config: WorldModelConfig, make_model: Callable[..., WorldModel], frame: np.ndarray, actions: np.ndarray
) -> None:
    """Also late ones, and those of several robots; nothing remains of what was imagined in their place."""
    model = make_model(replace(config, tokenizer=replace(config.tokenizer, context_frames=3)), seed=1)
    for robots in (None, 2):
        first, second, third = (
            each if robots is None else np.stack([each, np.flip(each, 1)])
            for each in (frame, 255 - frame, np.flip(frame, 0))
        )
        moves = actions[0] if robots is None else actions[:2].swapaxes(0, 1)
        session, fresh = model.session("frame"), model.session("frame")
        session.reset(first)
        walk(session, moves[:2])
        session.observe(second, late=1)
        session.observe(third)
        fresh.reset(third, seen=[first, second])
        after = walk(session, moves[2:])
        assert np.array_equal(after, walk(fresh, moves[2:]))
        fresh.reset(third)
        assert not np.array_equal(after, walk(fresh, moves[2:]))


def test_other_numbers_of_robots_seen_before_are_refused(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray
) -> None:
    session, undisturbed = model.session(), model.session()
    session.reset(frame)
    undisturbed.reset(frame)
    with pytest.raises(RoboAlignError, match=r"frame: expected shape \(2, H, W, 3\), found \(40, 48, 3\)"):
        session.reset(np.stack([frame, frame]), seen=[frame])
    with pytest.raises(RoboAlignError, match=r"frame: expected shape \(H, W, 3\), found \(2, 40, 48, 3\)"):
        session.reset(frame, seen=[np.stack([frame, frame])])
    assert np.array_equal(walk(session, actions[0]), walk(undisturbed, actions[0]))


def test_observing_starts_a_stream(model: WorldModel, frame: np.ndarray) -> None:
    first, second = model.session(), model.session()
    first.observe(frame)
    second.reset(frame)
    action = np.array([0.3, -0.2], np.float32)
    assert np.array_equal(first.step(action), second.step(action))
    with pytest.raises(RoboAlignError, match="expected reset"):
        model.session().observe(frame, late=1)
    with pytest.raises(RoboAlignError, match=r"steps ago .* found 1\.0"):
        first.observe(frame, late=1.0)  # type: ignore[arg-type]


def test_a_model_that_has_imagined_can_be_copied(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    before = model.rollout(frame, actions).tokens
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.rollout(frame, actions).tokens, before)
