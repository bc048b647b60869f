"""Node ``robot_sim``: a simulated robot that behaves like a real one: frames, poses, status out, actions in."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.parameter import Parameter
from roboalign_interfaces.msg import ActionChunk, RobotStatus
from roboalign_interfaces.srv import ResetEpisode
from sensor_msgs.msg import Image
from std_msgs.msg import String

from roboalign_core.errors import RoboAlignError, require
from roboalign_nodes import qos
from roboalign_nodes.conversions import Chunk, chunk_to_message, image_to_message, message_to_chunk, ns_to_time
from roboalign_nodes.env_host import EnvHost
from roboalign_nodes.lifecycle import ERROR, WARN, Health, ManagedNode, run_node
from roboalign_nodes.parameters import ParameterSpec
from roboalign_nodes.robot import Robot


def make_simulation(name: str, size: int, max_steps: int) -> Any:
    """The environment by its short name."""
    return require("roboalign_sim", "sim").make_env(name, size=size, max_steps=max_steps)


class RobotSimNode(ManagedNode):
    """The robot. Its topics and services are relative and remappable.

    - ``camera/image_raw`` (sensor_msgs/Image, sensor data), stamped with the acquisition time
    - ``effector_pose`` (geometry_msgs/PoseStamped), metres
    - ``status`` (RobotStatus, latched), same stamp as the frame; ``instruction`` (std_msgs/String, latched)
    - ``action_executed`` (ActionChunk of one action), same stamp as the frame that it led to
    - subscribes to ``action_chunk`` (ActionChunk); serves ``reset`` (ResetEpisode)

    With ``rate_hz`` 0 simulated time stands still while the robot waits for a chunk. With a rate it waits for at most
    ``action_timeout`` and then executes safe actions, as ``safety_mode`` says. While waiting, frame and status are
    repeated, so that a lost message costs time and nothing else.

    Args:
        make_env: called with the environment's name, the image size in pixels, and the number of steps of an episode.
    """

    PARAMETERS = (
        ParameterSpec("env", "tabletop", "name of the environment"),
        ParameterSpec("image_size", 64, "height and width of the images in pixels", 16, 4096),
        ParameterSpec("max_steps", 30, "control steps after which an episode is over", 1, 100_000),
        ParameterSpec("rate_hz", 0.0, "control steps per second; 0: as fast as possible", 0.0, 1000.0),
        ParameterSpec(
            "execute_steps", 4, "actions of a chunk that are executed before the next one is wanted", 1, 1000
        ),
        ParameterSpec("action_timeout", 10.0, "seconds without a chunk after which the robot holds", 0.01, 3600.0),
        ParameterSpec("repeat_period", 1.0, "seconds after which a waiting robot repeats frame and status", 0.05, 60.0),
        ParameterSpec(
            "safety_mode",
            "hold",
            "what a robot with a rate does without a chunk: nothing, zero actions, or hold its pose and gripper",
            choices=("none", "zeros", "hold"),
        ),
        ParameterSpec(
            "level_component", -1, "action component that is a level (a gripper), kept by hold; -1: none", -1, 99
        ),
        ParameterSpec(
            "effector_state",
            "",
            "name of the end effector among the environment's states; empty: the first that is a pose",
        ),
        ParameterSpec("camera_frame_id", "camera_optical_frame", "frame of the images (optical: z forward, x right)"),
        ParameterSpec("base_frame_id", "base_link", "frame of the poses"),
        ParameterSpec("instructions", [""], "what the environment knows; filled by the node when it is configured"),
    )

    def __init__(self, make_env: Callable[[str, int, int], Any] = make_simulation, **options: Any) -> None:
        super().__init__("robot_sim", **options)
        self._make_env = make_env
        self._host: EnvHost | None = None
        self._robot: Robot | None = None
        self._stamp_ns = 0
        self._messages: tuple[Image, RobotStatus] | None = None  # of the newest step, for repeating
        self._waiting_since_ns = 0
        self._holding = False
        self._refusal = ""
        self._refused = 0

    # -- lifecycle ---------------------------------------------------------------------------------------------------

    def configure(self) -> None:
        """Make the environment and the topics."""
        name, size, max_steps = self.value("env"), self.value("image_size"), self.value("max_steps")
        self._host = EnvHost(lambda: self._make_env(name, size, max_steps))
        settings = ("execute_steps", "level_component", "effector_state")
        self._robot = Robot(self._host, *(self.value(setting) for setting in settings))
        self.set_parameters([_string_array("instructions", self._host.instructions)])
        group = MutuallyExclusiveCallbackGroup()  # one thing at a time moves the robot
        publisher = self.create_lifecycle_publisher
        self._image_out = publisher(Image, "camera/image_raw", qos.CAMERA)
        self._pose_out = publisher(PoseStamped, "effector_pose", qos.COMMAND)
        self._status_out = publisher(RobotStatus, "status", qos.STATUS)
        self._instruction_out = publisher(String, "instruction", qos.LATCHED)
        self._executed_out = publisher(ActionChunk, "action_executed", qos.COMMAND)
        self.create_subscription(ActionChunk, "action_chunk", self._on_chunk, qos.COMMAND, callback_group=group)
        self.create_service(ResetEpisode, "reset", self._on_reset, callback_group=group)
        self.create_timer(self.value("repeat_period"), self._on_watch, callback_group=group)
        if self.value("rate_hz") > 0:
            self.create_timer(1.0 / self.value("rate_hz"), self._on_tick, callback_group=group)

    def release(self) -> None:
        """Close the environment."""
        if self._host is not None:
            self._host.close()
        self._host = self._robot = self._messages = None

    def health(self) -> Health:
        """Where the robot is, and whether it holds."""
        robot = self._robot
        if robot is None:
            return Health(WARN, "released")
        values = {
            "env": self.value("env"),
            "episode": robot.episode,
            "step": robot.step,
            "waiting": robot.waiting,
            "refused_chunks": self._refused,
        }
        if self._refusal:
            return Health(ERROR, f"holding, a chunk was refused: {self._refusal}", values)
        if self._holding:
            return Health(WARN, f"holding, no chunk for more than {self.value('action_timeout'):g} s", values)
        return Health(values=values)

    # -- inputs ------------------------------------------------------------------------------------------------------

    def _on_reset(self, request: ResetEpisode.Request, response: ResetEpisode.Response) -> ResetEpisode.Response:
        try:
            observation = self._ready().reset(*_reset_arguments(request))
        except RoboAlignError as error:
            self.get_logger().error(f"reset: {error}")
            response.message = str(error)
            return response
        self._refusal, self._holding = "", False
        self._waiting_since_ns = self.get_clock().now().nanoseconds
        self._instruction_out.publish(String(data=observation.instruction))
        self._report()
        response.ok = True
        response.episode = self._ready().episode
        response.instruction = observation.instruction
        return response

    def _on_chunk(self, message: ActionChunk) -> None:
        if not self.active:
            return
        robot = self._ready()
        try:
            accepted = robot.offer(message_to_chunk(message))
        except RoboAlignError as error:
            self._refuse(str(error))
            return
        if not accepted:
            self.get_logger().debug(f"plan {message.plan_id} for step {message.step} came too late, or twice")
            return
        self._refusal, self._holding = "", False
        while self.value("rate_hz") == 0 and robot.busy:
            self._advance()

    def _on_tick(self) -> None:
        robot = self._robot
        if not self.active or robot is None:
            return
        if robot.busy:
            self._advance()
        elif robot.waiting and self._is_late() and self.value("safety_mode") != "none":
            self._report(robot.hold(self.value("safety_mode")))

    def _on_watch(self) -> None:
        robot = self._robot
        if not self.active or robot is None or not robot.waiting or self._messages is None:
            return
        if self._is_late() and not self._holding:
            self._holding = True
            self.get_logger().warning(f"no chunk for {self.value('action_timeout'):g} s, holding")
        image, status = self._messages
        self._image_out.publish(image)
        self._status_out.publish(status)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        executed = self._ready().advance()
        self._waiting_since_ns = self.get_clock().now().nanoseconds
        self._report(executed)

    def _refuse(self, reason: str) -> None:
        self._refused += 1
        if reason != self._refusal:  # once, not at the rate at which a broken sender repeats itself
            self.get_logger().error(f"refused, holding: {reason}")
        self._refusal = reason

    def _report(self, executed: npt.NDArray[np.float32] | None = None) -> None:
        """Publish everything about the step that was just reached."""
        robot = self._ready()
        observation = robot.observation
        if observation is None:
            return
        stamp = self._next_stamp()
        image = image_to_message(observation.frame, stamp, self.value("camera_frame_id"))
        status = self._status(stamp)
        self._messages = (image, status)
        self._image_out.publish(image)
        if executed is not None:
            self._publish_executed(executed, stamp)
        self._publish_pose(stamp)
        self._status_out.publish(status)

    def _status(self, stamp: Time) -> RobotStatus:
        robot = self._ready()
        observation = robot.observation
        status = RobotStatus(episode=robot.episode, step=robot.step, waiting=robot.waiting, done=robot.done)
        status.header.stamp = stamp
        status.header.frame_id = self.value("base_frame_id")
        status.action_dim = self._host.action_dim if self._host is not None else 0
        if observation is not None:
            status.instruction = observation.instruction
            status.success = observation.success
            status.progress = observation.progress
        return status

    def _publish_executed(self, action: npt.NDArray[np.float32], stamp: Time) -> None:
        robot = self._ready()
        chunk = Chunk(action[None], step=robot.step - 1, episode=robot.episode, plan_id=robot.plan_id)
        self._executed_out.publish(chunk_to_message(chunk, stamp))

    def _publish_pose(self, stamp: Time) -> None:
        effector = self._ready().effector
        if effector is None:
            return
        numbers = [float(number) for number in effector]
        pose = PoseStamped()
        pose.header.stamp = stamp
        pose.header.frame_id = self.value("base_frame_id")
        pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = numbers[:3]
        if len(numbers) == 7:
            quaternion = pose.pose.orientation
            quaternion.x, quaternion.y, quaternion.z, quaternion.w = numbers[3:]
        self._pose_out.publish(pose)

    def _next_stamp(self) -> Time:
        # Frames and statuses are paired by stamp, so that two steps never share one, even where /clock stands still.
        self._stamp_ns = max(self.get_clock().now().nanoseconds, self._stamp_ns + 1)
        return ns_to_time(self._stamp_ns)

    def _is_late(self) -> bool:
        waited = (self.get_clock().now().nanoseconds - self._waiting_since_ns) * 1e-9
        return waited > self.value("action_timeout")

    def _ready(self) -> Robot:
        if self._robot is None or not self.active:
            raise RoboAlignError("robot_sim: expected an active node, found one that is not")
        return self._robot


def _reset_arguments(request: ResetEpisode.Request) -> tuple[int | None, str | None]:
    if request.seed < -1:
        raise RoboAlignError(f"seed: expected 0 or more, or -1 for none, found {request.seed}")
    if request.sample_instruction and request.instruction:
        raise RoboAlignError(f"instruction: expected none with sample_instruction, found {request.instruction!r}")
    if not request.sample_instruction and not request.instruction.strip():
        raise RoboAlignError("instruction: expected a sentence, or sample_instruction, found an empty one")
    return (None if request.seed < 0 else request.seed), (None if request.sample_instruction else request.instruction)


def _string_array(name: str, values: tuple[str, ...]) -> Parameter:
    return Parameter(name, Parameter.Type.STRING_ARRAY, list(values) or [""])


def main() -> int:
    """Entry point."""
    return run_node(RobotSimNode)


if __name__ == "__main__":
    sys.exit(main())
