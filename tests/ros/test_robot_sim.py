"""The node robot_sim, with a small environment in place of MuJoCo."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("roboalign_interfaces", reason="needs ros2_ws/src/roboalign_interfaces to be built")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from roboalign_interfaces.msg import ActionChunk, RobotStatus
from roboalign_interfaces.srv import ResetEpisode
from ros_support import INSTRUCTIONS, REACH, DotEnv, Loop, locate, make_dot_env, values, wait_until
from sensor_msgs.msg import Image
from std_msgs.msg import String

from roboalign_core.errors import RoboAlignError
from roboalign_nodes import qos
from roboalign_nodes.conversions import Chunk, chunk_to_message, message_to_image, time_to_ns
from roboalign_nodes.robot_sim import RobotSimNode

RIGHT = (1.0, 0.0, 0.0)


class Robot:
    """A robot_sim node with ears on everything that it says."""

    def __init__(self, loop: Loop, **parameters: Any) -> None:
        self.loop = loop
        self.node = loop.add(partial(RobotSimNode, make_dot_env), **{"diagnostics_period": 0.1, **parameters})
        self.images = loop.listen(Image, "camera/image_raw", qos.CAMERA)
        self.statuses = loop.listen(RobotStatus, "status", qos.STATUS)
        self.executed = loop.listen(ActionChunk, "action_executed", qos.COMMAND)
        self.poses = loop.listen(PoseStamped, "effector_pose", qos.COMMAND)
        self.diagnostics = loop.listen(DiagnosticArray, "/diagnostics", 10)
        self._chunks = loop.probe.create_publisher(ActionChunk, "action_chunk", qos.COMMAND)
        wait_until(self._connected, "the topics of robot_sim")
        wait_until(lambda: self.diagnostics, "the diagnostics of robot_sim")

    def reset(self, **request: Any) -> ResetEpisode.Response:
        return self.loop.call(ResetEpisode, "reset", ResetEpisode.Request(**request))

    def send(self, *actions: tuple[float, ...], step: int = 0, episode: int = 0, plan_id: int = 0) -> None:
        chunk = Chunk(np.array(actions, np.float32), step, episode, plan_id)
        self._chunks.publish(chunk_to_message(chunk, Time()))

    def send_raw(self, message: ActionChunk) -> None:
        self._chunks.publish(message)

    def step(self) -> int:
        return self.statuses[-1].step if self.statuses else -1

    def shows_its_step(self) -> bool:
        """Whether the newest frame is that of the newest status."""
        newest = [messages[-1].header.stamp for messages in (self.images, self.statuses) if messages]
        return len(newest) == 2 and newest[0] == newest[1]

    def health(self) -> DiagnosticStatus:
        return self.diagnostics[-1].status[0]

    def _connected(self) -> bool:
        probe = self.loop.probe
        topics = ("camera/image_raw", "status", "action_executed", "effector_pose")
        return self._chunks.get_subscription_count() == 1 and all(probe.count_publishers(topic) for topic in topics)


def different(messages: list[Any]) -> list[Any]:
    """Messages without the repetitions of a waiting robot, which have the same stamp."""
    return list({time_to_ns(message.header.stamp): message for message in messages}.values())


def spy_on_frames(node: RobotSimNode) -> list[Image]:
    """Frames as they are sent from here on; being sensor data, some may be lost on their way on a busy machine."""
    sent: list[Image] = []
    publish = node._image_out.publish
    node._image_out.publish = lambda image: (sent.append(image), publish(image))
    return sent


@pytest.fixture
def robot(loop: Loop) -> Robot:
    return Robot(loop)


def test_reset_then_a_chunk_then_frames(robot: Robot) -> None:
    answer = robot.reset(seed=3, instruction="go right")
    assert (answer.ok, answer.message, answer.episode, answer.instruction) == (True, "", 1, "go right")
    wait_until(lambda: robot.images and robot.statuses and robot.poses, "the first frame")
    status = robot.statuses[0]
    assert (status.episode, status.step, status.waiting, status.done) == (1, 0, True, False)
    assert (status.instruction, status.action_dim) == ("go right", 3)

    sent = spy_on_frames(robot.node)
    robot.send(RIGHT, RIGHT, RIGHT, RIGHT, RIGHT, RIGHT, episode=1, plan_id=5)
    wait_until(lambda: robot.step() == 4 and len(robot.executed) == 4, "four steps")
    wait_until(lambda: robot.shows_its_step() and robot.poses[-1].header.stamp == sent[-1].header.stamp, "the last one")
    statuses, images = different(robot.statuses), different([robot.images[0], *sent])
    assert values(statuses, "step") == [0, 1, 2, 3, 4]
    assert values(statuses, "waiting") == [True, False, False, False, True]
    # Frames and statuses belong together by stamp, stamps rise, and the picture shows what was done.
    stamps = [time_to_ns(image.header.stamp) for image in images]
    assert stamps == [time_to_ns(status.header.stamp) for status in statuses]
    assert stamps == sorted(set(stamps))
    places = [locate(message_to_image(image))[0] for image in images]
    np.testing.assert_allclose(np.diff(places), REACH, atol=1.5 / 64)
    assert robot.images[0].header.frame_id == "camera_optical_frame"
    assert all(image in images for image in robot.images)  # as they were sent, as many as arrived
    # The executed actions stand beside the frames that they led to.
    assert values(robot.executed, "step") == [0, 1, 2, 3]
    assert {(chunk.horizon, chunk.plan_id, tuple(chunk.actions)) for chunk in robot.executed} == {(1, 5, RIGHT)}
    assert [chunk.header.stamp for chunk in robot.executed] == [status.header.stamp for status in statuses[1:]]
    assert robot.poses[-1].pose.position.x == pytest.approx(places[-1], abs=1 / 64)
    assert robot.poses[-1].header.frame_id == "base_link"


def test_an_episode_ends_and_only_a_reset_goes_on(robot: Robot) -> None:
    robot.reset(seed=0, instruction="go right")
    robot.send(RIGHT, RIGHT, RIGHT, RIGHT)
    wait_until(lambda: robot.step() == 4, "four steps")
    robot.send(RIGHT, RIGHT, RIGHT, RIGHT)
    wait_until(lambda: robot.statuses[-1].done, "the end")
    status = robot.statuses[-1]
    assert (status.success, status.waiting) == (True, False)
    assert status.progress > 1
    ended_at = status.step
    robot.send(RIGHT, step=ended_at, episode=1)
    assert robot.reset(seed=1, instruction="go left").episode == 2
    wait_until(lambda: robot.statuses[-1].episode == 2, "the next episode")
    assert max(status.step for status in robot.statuses) == ended_at
    assert robot.step() == 0


def test_the_last_step_ends_an_episode_without_success(loop: Loop) -> None:
    robot = Robot(loop, max_steps=3)
    robot.reset(seed=0, instruction="go left")
    robot.send(RIGHT, RIGHT, RIGHT, RIGHT)
    wait_until(lambda: robot.step() == 3, "three steps")
    status = robot.statuses[-1]
    assert (status.done, status.success, status.waiting) == (True, False, False)


def test_a_sampled_instruction_and_the_list_of_all(robot: Robot) -> None:
    answer = robot.reset(seed=1, sample_instruction=True)
    assert answer.ok
    assert answer.instruction in INSTRUCTIONS
    assert tuple(robot.node.value("instructions")) == INSTRUCTIONS
    latched = robot.loop.listen(String, "instruction", qos.LATCHED)  # whoever joins late is told
    wait_until(lambda: latched, "the instruction")
    assert latched[0].data == answer.instruction


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"seed": 0, "instruction": ""}, "instruction: expected a sentence"),
        ({"seed": 0, "instruction": "  "}, "instruction: expected a sentence"),
        ({"seed": 0, "instruction": "make coffee"}, "found 'make coffee'"),
        ({"seed": -2, "instruction": "go left"}, "seed: expected 0 or more"),
        ({"seed": 0, "instruction": "go left", "sample_instruction": True}, "expected none with sample_instruction"),
    ],
)
def test_a_bad_reset_changes_nothing(robot: Robot, request_: dict[str, Any], reason: str) -> None:
    robot.reset(seed=0, instruction="go right")
    answer = robot.reset(**request_)
    assert not answer.ok
    assert reason in answer.message
    robot.send(RIGHT, episode=1)
    wait_until(lambda: robot.step() == 1, "the running episode to go on")
    assert robot.statuses[-1].instruction == "go right"


@pytest.mark.parametrize("name", ["way", "dott"])  # one number, and a word that is misspelt
def test_an_effector_without_a_pose_is_told_at_every_reset(loop: Loop, name: str) -> None:
    robot = Robot(loop, effector_state=name)
    for _ in range(2):
        answer = robot.reset(seed=0, instruction="go right")
        assert (answer.ok, answer.episode) == (False, 0)
        assert answer.message == f"effector_state: expected a state of 3, 4 or 7 numbers: dot; found {name!r}"
    assert not robot.statuses


def broken(actions: list[float], horizon: int, action_dim: int) -> ActionChunk:
    return ActionChunk(actions=actions, horizon=horizon, action_dim=action_dim)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (broken([math.nan, 0.0, 0.0], 1, 3), "expected finite actions"),
        (broken([0.0] * 4, 1, 4), "expected 3 components per action, found 4"),
        (broken([0.0] * 5, 2, 3), "expected 2 x 3 = 6 values"),
        (broken([2.0, 0.0, 0.0], 1, 3), "expected actions in [-1, 1], found up to 2"),
        (broken([], 0, 0), "at least one, found 0"),
    ],
)
def test_a_bad_chunk_is_refused_and_the_robot_holds(robot: Robot, message: ActionChunk, reason: str) -> None:
    robot.reset(seed=0, instruction="go right")
    wait_until(lambda: robot.health().level == DiagnosticStatus.OK, "good health")
    robot.send_raw(message)
    robot.send_raw(message)
    wait_until(lambda: reason in robot.health().message, "the refusal in the diagnostics")
    assert robot.health().level == DiagnosticStatus.ERROR
    assert robot.step() == 0
    robot.send(RIGHT)
    wait_until(lambda: robot.step() == 1, "the robot to go on with a good chunk")
    wait_until(lambda: robot.health().level == DiagnosticStatus.OK, "good health")


def test_repeated_overtaken_and_foreign_chunks_are_ignored(robot: Robot) -> None:
    robot.reset(seed=0, instruction="go right")
    robot.send(RIGHT, episode=7)  # another episode
    robot.send(RIGHT, step=3, episode=1)  # from a step that was not reached
    robot.send(RIGHT, RIGHT, episode=1)
    robot.send(RIGHT, RIGHT, episode=1)  # repeated
    robot.send(RIGHT, step=2, episode=1)
    robot.send(RIGHT, step=1, episode=1)  # overtaken
    wait_until(lambda: robot.step() == 3, "three steps")
    robot.send(RIGHT, step=3, episode=1)
    wait_until(lambda: robot.step() == 4, "the fourth step")
    assert values(robot.executed, "step") == [0, 1, 2, 3]


def test_a_waiting_robot_repeats_frame_and_status(loop: Loop) -> None:
    robot = Robot(loop, repeat_period=0.05)
    robot.reset(seed=0, instruction="go right")
    wait_until(lambda: len(robot.statuses) >= 4 and len(robot.images) >= 4, "repetitions")
    assert {status.step for status in robot.statuses} == {0}
    assert len({(image.header.stamp.sec, image.header.stamp.nanosec) for image in robot.images}) == 1


def test_watchdog_reports_and_simulated_time_stands_still(loop: Loop) -> None:
    robot = Robot(loop, repeat_period=0.05, action_timeout=0.2)
    robot.reset(seed=0, instruction="go right")
    wait_until(lambda: robot.diagnostics and robot.health().level == DiagnosticStatus.WARN, "the watchdog")
    assert "no chunk for more than 0.2 s" in robot.health().message
    assert robot.step() == 0
    robot.send(RIGHT)
    wait_until(lambda: robot.step() == 1, "a step")


@pytest.mark.parametrize("mode", ["none", "zeros", "hold"])
def test_safety_modes_at_a_rate(loop: Loop, mode: str) -> None:
    robot = Robot(
        loop, rate_hz=50.0, action_timeout=0.2, safety_mode=mode, level_component=2, max_steps=10_000, repeat_period=0.1
    )
    robot.reset(seed=0, instruction="go left")
    robot.send((0.5, 0.0, 0.7))
    wait_until(lambda: robot.executed, "the first action")
    if mode == "none":
        count = len(robot.diagnostics)
        wait_until(lambda: len(robot.diagnostics) > count + 4, "time to pass")
        assert robot.step() == 1
        return
    wait_until(lambda: robot.step() >= 6, "safe actions")
    safe = np.array([chunk.actions for chunk in robot.executed[1:]])
    np.testing.assert_allclose(safe, np.broadcast_to((0.0, 0.0, 0.7 if mode == "hold" else 0.0), safe.shape), atol=1e-6)


def test_lifecycle(loop: Loop) -> None:
    node = loop.add(partial(RobotSimNode, make_dot_env), autostart=False)
    node.start()

    def change(transition: int) -> str:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert loop.call(ChangeState, "robot_sim/change_state", request).success
        return loop.call(GetState, "robot_sim/get_state", GetState.Request()).current_state.label

    for _ in range(2):  # what a cleanup takes away, the next configure makes anew, once
        assert change(Transition.TRANSITION_CONFIGURE) == "inactive"
        reset = ResetEpisode.Request(seed=0, instruction="go left")
        answer = loop.call(ResetEpisode, "reset", reset)
        assert "expected an active node" in answer.message
        assert change(Transition.TRANSITION_ACTIVATE) == "active"
        assert loop.call(ResetEpisode, "reset", reset).ok
        assert len(node.get_publishers_info_by_topic("camera/image_raw")) == 1
        assert change(Transition.TRANSITION_DEACTIVATE) == "inactive"
        assert change(Transition.TRANSITION_CLEANUP) == "unconfigured"
        assert not [
            service for service, _ in node.get_service_names_and_types_by_node("robot_sim", "/") if service == "/reset"
        ]
    assert change(Transition.TRANSITION_CONFIGURE) == "inactive"
    assert change(Transition.TRANSITION_INACTIVE_SHUTDOWN) == "finalized"


def test_an_environment_that_cannot_be_made(domain: int) -> None:
    def fail(name: str, size: int, max_steps: int) -> DotEnv:
        raise RoboAlignError(f"env: expected a known one, found {name!r}")

    with (
        Loop(domain) as loop,
        pytest.raises(RoboAlignError, match="robot_sim: env: expected a known one, found 'moon'"),
    ):
        loop.add(partial(RobotSimNode, fail), env="moon")


@pytest.mark.slow
def test_the_real_tabletop(loop: Loop) -> None:
    pytest.importorskip("mujoco", reason="needs the extra sim")
    node = loop.add(RobotSimNode)
    images = loop.listen(Image, "camera/image_raw", qos.CAMERA)
    statuses = loop.listen(RobotStatus, "status", qos.STATUS)
    chunks = loop.probe.create_publisher(ActionChunk, "action_chunk", qos.COMMAND)
    wait_until(lambda: chunks.get_subscription_count() == 1, "robot_sim")
    assert "push the red cube left" in node.value("instructions")
    answer = loop.call(ResetEpisode, "reset", ResetEpisode.Request(seed=1, instruction="push the red cube left"))
    assert answer.ok, answer.message
    wait_until(lambda: images, "the first frame")
    sent = spy_on_frames(node)
    chunks.publish(chunk_to_message(Chunk(np.full((8, 3), 0.5, np.float32), episode=1), Time()))
    wait_until(lambda: statuses and statuses[-1].step == 4, "four steps on the table")
    wait_until(lambda: images[-1].header.stamp == statuses[-1].header.stamp, "the last frame")
    frames = [message_to_image(image) for image in different([images[0], *sent])]
    assert len(frames) == 5
    assert {frame.shape for frame in frames} == {(64, 64, 3)}
    assert all((a != b).any() for a, b in pairwise(frames))
    assert 0 <= statuses[-1].progress <= 1
