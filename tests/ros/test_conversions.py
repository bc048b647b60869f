"""Messages and arrays."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("roboalign_interfaces", reason="needs ros2_ws/src/roboalign_interfaces to be built")

from builtin_interfaces.msg import Time
from roboalign_interfaces.srv import Imagine
from sensor_msgs.msg import Image

from roboalign_core.errors import RoboAlignError
from roboalign_nodes.conversions import (
    Chunk,
    candidates_to_request,
    chunk_to_message,
    image_to_message,
    message_to_chunk,
    message_to_image,
    ns_to_time,
    request_to_candidates,
    time_to_ns,
)


def frame(height: int = 3, width: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def image(**changes: object) -> Image:
    message = image_to_message(frame(), Time(sec=1), "camera")
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def test_image_round_trip() -> None:
    message = image_to_message(frame(), Time(sec=1, nanosec=2), "camera")
    assert (message.height, message.width, message.step, message.encoding) == (3, 5, 15, "rgb8")
    assert (message.header.frame_id, message.header.stamp) == ("camera", Time(sec=1, nanosec=2))
    np.testing.assert_array_equal(message_to_image(message), frame())


def test_image_of_a_view_that_is_not_contiguous() -> None:
    turned = frame()[:, ::-1].transpose(1, 0, 2)
    np.testing.assert_array_equal(message_to_image(image_to_message(turned, Time(), "")), turned)


def test_image_is_read_without_a_copy() -> None:
    message = image()
    seen = message_to_image(message)
    message.data[0] = (int(seen[0, 0, 0]) + 1) % 256
    assert seen[0, 0, 0] == message.data[0]


def test_padded_rows() -> None:
    padded = np.zeros((3, 20), np.uint8)
    padded[:, :15] = frame().reshape(3, 15)
    np.testing.assert_array_equal(message_to_image(image(step=20, data=padded.tobytes())), frame())


def test_bgr8() -> None:
    np.testing.assert_array_equal(message_to_image(image(encoding="bgr8")), frame()[..., ::-1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "mono8"}, "rgb8 or bgr8, found 'mono8'"),
        ({"encoding": ""}, "rgb8 or bgr8, found ''"),
        ({"step": 14}, "at least 15 bytes a row, found 14"),
        ({"step": 16}, "3 rows x 16 bytes = 48, found 45"),
        ({"data": b"\0" * 44}, "3 rows x 15 bytes = 45, found 44"),
        ({"height": 0}, "at least 1, found 0 x 5"),
        ({"width": 0}, "at least 1, found 3 x 0"),
    ],
)
def test_bad_image_messages(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(RoboAlignError, match=reason):
        message_to_image(image(**changes))


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((3, 5, 3), np.float32),
        np.zeros((3, 5), np.uint8),
        np.zeros((3, 5, 4), np.uint8),
        np.zeros((0, 5, 3), np.uint8),
    ],
)
def test_bad_frames(bad: np.ndarray) -> None:
    with pytest.raises(RoboAlignError, match="expected \\(H, W, 3\\) uint8, found"):
        image_to_message(bad, Time(), "")


def test_time_round_trip() -> None:
    assert time_to_ns(ns_to_time(1_700_000_000_123_456_789)) == 1_700_000_000_123_456_789


def test_chunk_round_trip() -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 3)).astype(np.float32)
    message = chunk_to_message(Chunk(actions, step=8, episode=2, plan_id=2**63), Time(sec=3), ("x", "y", "z"))
    chunk = message_to_chunk(message)
    np.testing.assert_array_equal(chunk.actions, actions)
    assert (chunk.step, chunk.episode, chunk.plan_id) == (8, 2, 2**63)
    assert (message.horizon, message.action_dim, list(message.names)) == (4, 3, ["x", "y", "z"])


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "finite actions, found 1 that"), (np.inf, "finite"), (1.01, "\\[-1, 1\\], found up to 1.01")],
)
def test_bad_actions(value: float, reason: str) -> None:
    actions = np.zeros((4, 3), np.float32)
    message = chunk_to_message(Chunk(actions), Time())
    actions[1, 1] = message.actions[4] = value
    with pytest.raises(RoboAlignError, match=reason):
        chunk_to_message(Chunk(actions), Time())
    with pytest.raises(RoboAlignError, match=reason):
        message_to_chunk(message)


@pytest.mark.parametrize(("horizon", "action_dim"), [(4, 4), (0, 3), (4, 0), (0, 0)])
def test_chunk_of_another_size_than_it_says(horizon: int, action_dim: int) -> None:
    message = chunk_to_message(Chunk(np.zeros((4, 3), np.float32)), Time())
    message.horizon, message.action_dim = horizon, action_dim
    with pytest.raises(RoboAlignError, match=f"expected {horizon} x {action_dim} = .*found 12"):
        message_to_chunk(message)


def test_candidates_round_trip() -> None:
    candidates = np.random.default_rng(0).uniform(-1, 1, (5, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(request_to_candidates(candidates_to_request(candidates)), candidates)


def test_bad_candidates() -> None:
    with pytest.raises(RoboAlignError, match="expected shape \\(N, H, A\\), found \\(4, 3\\)"):
        candidates_to_request(np.zeros((4, 3), np.float32))
    with pytest.raises(RoboAlignError, match="expected 2 x 4 x 3 = 24 values"):
        request_to_candidates(Imagine.Request(n=2, horizon=4, action_dim=3))
