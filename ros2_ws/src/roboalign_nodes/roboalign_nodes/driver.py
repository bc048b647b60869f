"""The demo's own node: resets the robot, follows the loop from outside and records it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.msg import ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from roboalign_interfaces.msg import ImaginedPlan, RobotStatus
from roboalign_interfaces.srv import ResetEpisode
from sensor_msgs.msg import Image

from roboalign_core.errors import RoboAlignError
from roboalign_nodes import qos
from roboalign_nodes.conversions import message_to_image, time_to_ns
from roboalign_nodes.frame_feed import FrameFeed, StepKey
from roboalign_nodes.lifecycle import ERROR
from roboalign_nodes.recording import EpisodeRecord, PlanRecord
from roboalign_nodes.service_calls import call

NODES = ("robot_sim", "world_model", "planner")
_CALL_TIMEOUT = 30.0  # seconds for services that answer at once
_LAST_FRAME = 3.0  # seconds to wait for the last frame of an episode
_POLL = 0.2  # seconds between two looks at the processes
_FAILING = 5  # diagnostics in a row: a single lost message heals sooner


class LoopDriver:
    """Drives the three nodes from outside, inside a ``with`` block.

    Args:
        domain_id: the ROS domain.
        check: called while waiting; raises if a node has ended.
    """

    def __init__(self, domain_id: int, check: Callable[[], None]) -> None:
        self._domain_id, self._check = domain_id, check
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._change = threading.Condition()  # guards what the callbacks fill
        self._feed = FrameFeed(capacity=100_000)
        self._plans: dict[int, list[PlanRecord]] = {}
        self._statuses: dict[int, RobotStatus] = {}  # newest by episode
        self._health: dict[str, dict[str, str]] = {}
        self._health_count: dict[str, int] = {}
        self._failing: dict[str, int] = {}  # diagnostics in a row that report an error
        self._message: dict[str, str] = {}

    def __enter__(self) -> LoopDriver:
        self._context = Context()
        self._context.init(args=[], domain_id=self._domain_id)
        try:
            self._node = Node("demo", context=self._context, start_parameter_services=False)
            self._connect()
            self._executor = SingleThreadedExecutor(context=self._context)
            self._executor.add_node(self._node)
        except BaseException:
            self._context.try_shutdown()
            raise
        self._thread = threading.Thread(target=self._spin, name="demo-spin")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()  # a thread that still spins at exit would abort the process
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    # -- what the demo asks for --------------------------------------------------------------------------------------

    def wait_ready(self, timeout: float) -> None:
        """Wait until every node is active.

        Raises:
            RoboAlignError: a node ended, or is not active in time.
        """
        deadline = time.monotonic() + timeout
        for name in NODES:
            while self._state_of(name, deadline) != State.PRIMARY_STATE_ACTIVE:
                if time.monotonic() > deadline:
                    raise RoboAlignError(f"node {name}: expected it to be active within {timeout:g} s, found it is not")
                self._look_after()
                with self._change:
                    self._change.wait(_POLL)
        # Sensor data that is sent before a subscription is known is lost for it.
        for topic in ("camera/image_raw", "status", "imagined_plan", "action_chunk"):
            self._wait(partial(self._connected, topic), _CALL_TIMEOUT, f"a connection on {topic}")

    def instructions(self) -> list[str]:
        """What the robot can be asked to do, as far as it says so."""
        return [text for text in self._parameter("robot_sim", "instructions").string_array_value if text]

    def policy(self) -> str:
        """How the planner chooses chunks now."""
        return str(self._parameter("planner", "policy").string_value)

    def set_policy(self, policy: str) -> None:
        """Switch the planner.

        Raises:
            RoboAlignError: the planner refuses.
        """
        value = Parameter("policy", Parameter.Type.STRING, policy).to_parameter_msg()
        parameters: list[ParameterMessage] = [value]
        result = self._call(self._set_parameters, SetParameters.Request(parameters=parameters)).results[0]
        if not result.successful:
            raise RoboAlignError(f"planner: parameter policy: {result.reason}")

    def run_episode(self, seed: int, instruction: str, policy: str, timeout: float) -> EpisodeRecord:
        """Reset the robot, let the loop run until the episode is over, and return what was seen.

        Args:
            seed: of the scene.
            instruction: what to do; empty lets the robot draw one by the seed.
            policy: for the record.
            timeout: seconds that the loop may stand still.

        Raises:
            RoboAlignError: the robot refuses, a node ended, or the loop stands still.
        """
        start = time.monotonic()
        request = ResetEpisode.Request(seed=seed, instruction=instruction, sample_instruction=not instruction)
        answer = self._call(self._reset, request)
        if not answer.ok:
            raise RoboAlignError(f"reset: {answer.message}")
        status = self._wait_until_over(int(answer.episode), timeout)
        final = StepKey(int(status.episode), int(status.step))
        with self._change:
            if not self._change.wait_for(lambda: self._feed.newest == final, _LAST_FRAME):
                self._feed.expired(final)
            seen = self._feed.take()
            plans = self._plans.pop(final.episode, [])
        return EpisodeRecord(
            episode=final.episode,
            instruction=answer.instruction,
            policy=policy,
            seed=seed,
            success=bool(status.success),
            steps=final.step,
            progress=float(status.progress),
            seconds=time.monotonic() - start,
            frames={item.key.step: item.frame for item in seen if item.key.episode == final.episode},
            plans=plans,
        )

    def health(self, node: str) -> Mapping[str, str]:
        """What a node says on /diagnostics, not older than this call.

        Raises:
            RoboAlignError: it says nothing for too long, or has ended.
        """
        with self._change:
            count = self._health_count.get(node, 0)
        self._wait(lambda: self._health_count.get(node, 0) >= count + 2, _CALL_TIMEOUT, f"diagnostics of {node}")
        return self._health[node]

    @property
    def frames_dropped(self) -> int:
        """Frames that did not reach this recorder."""
        return self._feed.dropped

    # -- inside ------------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        node = self._node
        self._reset = node.create_client(ResetEpisode, "reset")
        self._get_parameters = {
            name: node.create_client(GetParameters, f"{name}/get_parameters") for name in ("robot_sim", "planner")
        }
        self._set_parameters = node.create_client(SetParameters, "planner/set_parameters")
        self._states = {name: node.create_client(GetState, f"{name}/get_state") for name in NODES}
        node.create_subscription(Image, "camera/image_raw", self._on_image, qos.CAMERA)
        node.create_subscription(RobotStatus, "status", self._on_status, qos.STATUS)
        node.create_subscription(ImaginedPlan, "imagined_plan", self._on_plan, qos.COMMAND)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _spin(self) -> None:
        try:
            while not self._stop.is_set():
                self._executor.spin_once(timeout_sec=_POLL)
        except Exception as error:  # told by the thread that waits
            self._error = error

    def _connected(self, topic: str) -> bool:
        return self._node.count_publishers(topic) > 0 and self._node.count_subscribers(topic) > 0

    def _state_of(self, name: str, deadline: float) -> int:
        timeout = max(deadline - time.monotonic(), _POLL)
        return int(call(self._states[name], GetState.Request(), timeout, self._look_after).current_state.id)

    def _call(self, client: Any, request: Any) -> Any:
        return call(client, request, _CALL_TIMEOUT, self._look_after)

    def _parameter(self, node: str, name: str) -> ParameterValue:
        """A parameter's value, not set where the node has no such parameter."""
        values = self._call(self._get_parameters[node], GetParameters.Request(names=[name])).values
        return values[0] if values else ParameterValue()

    def _look_after(self) -> None:
        self._check()
        if self._error is not None:
            raise RoboAlignError(f"demo: the recorder failed: {self._error}") from self._error
        with self._change:
            for name, count in self._failing.items():
                if count >= _FAILING:
                    raise RoboAlignError(f"node {name}: {self._message[name]}")

    def _wait(self, predicate: Callable[[], bool], timeout: float, what: str) -> None:
        deadline = time.monotonic() + timeout
        while True:
            self._look_after()  # even if there is nothing to wait for: a loop that runs well is looked after, too
            with self._change:
                if self._change.wait_for(predicate, _POLL):
                    return
            if time.monotonic() > deadline:
                raise RoboAlignError(f"expected {what} within {timeout:g} s, found none")

    def _wait_until_over(self, episode: int, timeout: float) -> RobotStatus:
        step = -1
        while True:
            before = step

            def moved(before: int = before) -> bool:
                status = self._statuses.get(episode)
                return status is not None and (status.done or status.step > before)

            self._wait(moved, timeout, f"the robot to move on from step {max(step, 0)} of episode {episode}")
            with self._change:
                status = self._statuses[episode]
            step = int(status.step)
            if status.done:
                return status

    # -- callbacks ---------------------------------------------------------------------------------------------------

    def _on_image(self, message: Image) -> None:
        frame = message_to_image(message)
        with self._change:
            self._feed.add(frame, time_to_ns(message.header.stamp))
            self._change.notify_all()

    def _on_status(self, message: RobotStatus) -> None:
        key = StepKey(int(message.episode), int(message.step))
        with self._change:
            self._statuses[key.episode] = message
            self._feed.announce(key, time_to_ns(message.header.stamp))
            self._change.notify_all()

    def _on_plan(self, message: ImaginedPlan) -> None:
        frames = [message_to_image(image) for image in message.frames]
        record = PlanRecord(
            step=int(message.chunk.step),
            frames=np.stack(frames) if frames else np.zeros((0, 1, 1, 3), np.uint8),
            score=float(message.scores.total) if message.scores.names else float("nan"),
            replan_ms=float(message.replan_ms),
        )
        with self._change:
            self._plans.setdefault(int(message.chunk.episode), []).append(record)
            self._change.notify_all()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        with self._change:
            for status in message.status:
                name = status.name.rsplit("/", 1)[-1]
                self._failing[name] = self._failing.get(name, 0) + 1 if status.level == ERROR else 0
                self._message[name] = status.message
                self._health[name] = {pair.key: pair.value for pair in status.values}
                self._health_count[name] = self._health_count.get(name, 0) + 1
            self._change.notify_all()
