"""A session is a rollout with re-encoding, one frame at a time."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model import Session, WorldModel
from roboalign_core.world_model.rollout import Order


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
    walk(session, actions[1, :2])
    session.observe(seen)
    fresh.reset(seen)
    after = walk(session, actions[2])
    assert np.array_equal(after, walk(fresh, actions[2]))
    session.reset(frame)
    assert not np.array_equal(walk(session, actions[2]), after)


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
