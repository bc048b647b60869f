"""The node world_model, with an imagination that knows how the dot moves."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("roboalign_interfaces", reason="needs ros2_ws/src/roboalign_interfaces to be built")

from diagnostic_msgs.msg import DiagnosticArray
from roboalign_interfaces.msg import RobotStatus
from roboalign_interfaces.srv import Imagine
from ros_support import REACH, DotImagination, Loop, draw, locate, wait_until
from sensor_msgs.msg import Image

from roboalign_core.bundled import MODELS
from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import ObjectiveConfig
from roboalign_nodes import qos
from roboalign_nodes.conversions import candidates_to_request, image_to_message, message_to_image, ns_to_time
from roboalign_nodes.world_model import WorldModelNode


class Camera:
    """A world_model node, and a robot for it to look at."""

    def __init__(self, loop: Loop, **parameters: Any) -> None:
        self.loop = loop
        self.imagination = DotImagination()
        make = partial(WorldModelNode, lambda *_: self.imagination)
        self.node = loop.add(make, **{"diagnostics_period": 0.1, "frame_timeout": 20.0, **parameters})
        self._images = loop.probe.create_publisher(Image, "camera/image_raw", qos.CAMERA)
        self._statuses = loop.probe.create_publisher(RobotStatus, "status", qos.STATUS)
        self._diagnostics = loop.listen(DiagnosticArray, "/diagnostics", 10)
        self.imagined = loop.listen(Image, "imagined/image", qos.CAMERA)
        counts = (self._images.get_subscription_count, self._statuses.get_subscription_count)
        wait_until(lambda: all(count() == 1 for count in counts), "the topics of world_model")
        wait_until(lambda: loop.probe.count_publishers("imagined/image") == 1, "the topic of imagined frames")

    def show(
        self,
        episode: int,
        step: int,
        place: tuple[float, float] = (0.0, 0.0),
        lost: bool = False,
        later: bool = False,
        instruction: str = "go right",
    ) -> None:
        stamp = ns_to_time(episode * 1000 + step + later * 1_000_000)
        status = RobotStatus(episode=episode, step=step, instruction=instruction, waiting=True, action_dim=3)
        status.header.stamp = stamp
        self._statuses.publish(status)
        if not lost:
            self._images.publish(image_to_message(draw(np.array(place), 32), stamp, ""))

    def show_raw(self, image: Image) -> None:
        self._images.publish(image)

    def ask(self, asked: np.ndarray, **fields: Any) -> Imagine.Response:
        request = candidates_to_request(asked)
        for name, value in fields.items():
            setattr(request, name, value)
        return self.loop.call(Imagine, "imagine", request)

    def health(self) -> dict[str, str]:
        if not self._diagnostics:
            return {}
        status = self._diagnostics[-1].status[0]
        return {"message": status.message, **{pair.key: pair.value for pair in status.values}}


@pytest.fixture
def camera(loop: Loop) -> Camera:
    return Camera(loop)


def straight(*ways: float, horizon: int = 4) -> np.ndarray:
    candidates = np.zeros((len(ways), horizon, 3), np.float32)
    candidates[:, :, 0] = np.array(ways)[:, None]
    return candidates


def test_scores_and_frames_of_the_best(camera: Camera) -> None:
    camera.show(1, 0, (0.1, 0.2))
    answer = camera.ask(straight(-1, 0.5, 1), episode=1, instruction="go right", return_frames=True)
    assert (answer.ok, answer.message, answer.episode, answer.step) == (True, "", 1, 0)
    expected = locate(draw(np.array((0.1, 0.2)), 32))[0] + 4 * REACH * np.array((-1, 0.5, 1))
    np.testing.assert_allclose(answer.scores, expected, atol=1e-5)
    assert answer.latency_ms > 0
    places = [locate(message_to_image(image))[0] for image in answer.frames]
    np.testing.assert_allclose(np.diff(places), REACH, atol=1.5 / 32)
    wait_until(lambda: len(camera.imagined) == 4, "the frames on imagined/image")


def test_without_frames_nothing_is_drawn(camera: Camera) -> None:
    camera.show(1, 0)
    assert list(camera.ask(straight(1), episode=1).frames) == []


def test_the_reference_is_the_first_frame_and_every_later_one_is_observed_once(camera: Camera) -> None:
    for step in range(4):
        camera.show(1, step, (0.05 * step, 0.0))
    answer = camera.ask(straight(0), episode=1, step=3)
    seen = ["reset", "observe", "observe", "observe"]
    assert camera.imagination.calls == seen
    assert answer.scores[0] == pytest.approx(0.15, abs=1 / 32)
    camera.ask(straight(0), episode=1, step=3)
    assert camera.imagination.calls == seen
    camera.show(2, 0)
    camera.ask(straight(0), episode=2)
    assert camera.imagination.calls == [*seen, "reset"]


def test_a_robot_that_starts_anew_gets_a_new_reference(camera: Camera) -> None:
    camera.show(1, 0)
    assert camera.ask(straight(0), episode=1).ok
    camera.show(1, 0, (0.2, 0.0), later=True)
    wait_until(lambda: camera.health().get("frames_received") == "2", "the frame")
    assert camera.ask(straight(0), episode=1).scores[0] == pytest.approx(0.2, abs=1 / 32)
    assert camera.imagination.calls == ["reset", "reset"]


def test_frames_after_the_asked_step_wait(camera: Camera) -> None:
    camera.show(1, 0)
    camera.show(1, 1, (0.2, 0.0))
    assert camera.ask(straight(0), episode=1, step=0).scores[0] == pytest.approx(0.0, abs=1 / 32)
    assert camera.ask(straight(0), episode=1, step=1).scores[0] == pytest.approx(0.2, abs=1 / 32)


def test_without_an_episode_the_newest_frame_counts(camera: Camera) -> None:
    camera.show(4, 0)
    camera.show(4, 1, (0.2, 0.0))
    camera.ask(straight(0), episode=4, step=1)  # so that both have arrived
    camera.show(4, 2, (0.3, 0.0))
    wait_until(lambda: camera.health().get("frames_received") == "3", "the frame")
    answer = camera.ask(straight(0))
    assert (answer.ok, answer.episode, answer.step) == (True, 4, 2)


def test_a_request_that_comes_before_its_frame_waits_for_it(camera: Camera) -> None:
    camera.show(1, 0)
    camera.ask(straight(0), episode=1)
    request = candidates_to_request(straight(0))
    request.episode, request.step = 1, 1
    future = camera.loop.probe.create_client(Imagine, "imagine")
    assert future.wait_for_service(20)
    pending = future.call_async(request)
    camera.show(1, 1, (0.2, 0.0))
    wait_until(pending.done, "the answer")
    assert pending.result().ok
    assert pending.result().step == 1


def test_lost_frames_are_counted_and_a_missing_one_is_an_error(loop: Loop) -> None:
    camera = Camera(loop, frame_timeout=2.0)
    camera.show(1, 0)
    camera.show(1, 1, lost=True)
    camera.show(1, 2, lost=True)
    camera.show(1, 3)
    assert camera.ask(straight(0), episode=1, step=3).ok
    assert camera.imagination.calls == ["reset", "observe after a gap"], "no context reaches over what was lost"
    wait_until(lambda: camera.health().get("frames_dropped") == "2", "two lost frames in the diagnostics")
    camera.show(1, 4, lost=True)
    answer = camera.ask(straight(0), episode=1, step=4)
    assert not answer.ok
    assert "expected the frame of episode 1 step 4, found episode 1 step 3" in answer.message
    wait_until(lambda: camera.health().get("frames_dropped") == "3", "the third lost frame")
    camera.show(1, 4)  # a robot that waits repeats itself
    wait_until(lambda: camera.ask(straight(0), episode=1, step=4).ok, "the repetition")
    assert camera.health()["frames_dropped"] == "3"


def test_bad_requests_get_an_answer_and_the_node_goes_on(loop: Loop) -> None:
    camera = Camera(loop, frame_timeout=0.3)
    assert "expected a frame, found none yet" in camera.ask(straight(1)).message
    camera.show(1, 0)
    wait_until(lambda: camera.ask(straight(1), episode=1).ok, "the first frame")
    bad: list[tuple[dict[str, Any], str]] = [
        ({"candidates": [math.nan] * 12}, "expected finite actions"),
        ({"candidates": [1.5] * 12}, "expected actions in [-1, 1]"),
        ({"n": 2}, "expected 2 x 4 x 3 = 24 values"),
        ({"n": 0, "candidates": []}, "at least one"),
        ({"horizon": 6, "action_dim": 2}, "expected 3 components, found 2"),
        ({"instruction": "go left"}, "expected the episode's, 'go right', found 'go left'"),
        ({"episode": 9}, "expected the frame of episode 9 step 0"),
    ]
    for fields, reason in bad:
        answer = camera.ask(straight(1), **{"episode": 1, **fields})
        assert not answer.ok
        assert reason in answer.message
        assert len(answer.scores) == 0
    assert camera.ask(straight(1), episode=1).ok


def test_an_unexpected_error_is_an_answer_too(camera: Camera) -> None:
    camera.show(1, 0)
    camera.imagination.score = lambda actions: 1 / 0  # type: ignore[method-assign,assignment]
    answer = camera.ask(straight(1), episode=1)
    assert not answer.ok
    assert "ZeroDivisionError" in answer.message


def test_an_instruction_that_nobody_knows_is_told_every_time(camera: Camera) -> None:
    camera.show(1, 0, instruction="make coffee")
    messages = [camera.ask(straight(1), episode=1).message for _ in range(2)]
    assert messages == ["instruction: expected one of ('go left', 'go right'), found 'make coffee'"] * 2


def test_frames_that_could_not_be_shown_are_shown_to_the_next_request(camera: Camera) -> None:
    for step in range(3):
        camera.show(1, step, (0.05 * step, 0.0))
    assert camera.ask(straight(0), episode=1, step=0).ok
    observe = camera.imagination.observe
    camera.imagination.observe = lambda frame, follows: 1 / 0  # type: ignore[method-assign,assignment]
    assert "ZeroDivisionError" in camera.ask(straight(0), episode=1, step=2).message
    camera.imagination.observe = observe  # type: ignore[method-assign]
    answer = camera.ask(straight(0), episode=1, step=2)
    assert (answer.ok, answer.message) == (True, "")
    assert answer.scores[0] == pytest.approx(0.1, abs=1 / 32)
    assert camera.imagination.calls == ["reset", "observe", "observe"]


def test_a_bad_image_is_reported_and_skipped(camera: Camera) -> None:
    camera.show_raw(Image(height=2, width=2, step=2, encoding="mono8", data=b"\0" * 4))
    wait_until(lambda: "rgb8 or bgr8, found 'mono8'" in camera.health().get("message", ""), "the report")
    camera.show(1, 0)
    assert camera.ask(straight(1), episode=1).ok
    wait_until(lambda: camera.health()["message"] == "running", "good health")


def test_parameters_say_what_is_loaded(domain: int) -> None:
    asked: list[tuple[Any, ...]] = []

    def load(*settings: Any) -> DotImagination:
        asked.append(settings)
        return DotImagination()

    with Loop(domain) as loop:
        loop.add(partial(WorldModelNode, load), model="here", objective="both", reward_model="there", worth=0.25)
    assert asked == [("here", ObjectiveConfig("both", reward_model="there", worth=0.25), "frame", 0)]


def test_missing_weights(domain: int) -> None:
    with (
        Loop(domain) as loop,
        pytest.raises(RoboAlignError, match="world_model: model 'nowhere': expected a bundled name"),
    ):
        loop.add(WorldModelNode, model="nowhere")


@pytest.mark.skipif(not (MODELS / "robosuite_lift").is_dir(), reason="this checkout ships no weights")
def test_a_missing_student_says_what_to_do(domain: int) -> None:
    expected = r"objective student: model 'robosuite_lift': expected a reward model.* or choose the objective progress"
    with Loop(domain) as loop, pytest.raises(RoboAlignError, match=expected):
        loop.add(WorldModelNode, model="robosuite_lift", objective="student")
