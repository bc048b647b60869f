"""Helpers of the ROS tests: a spinning executor, and doubles of the environment and of the imagination."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from rclpy.context import Context
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import ObjectiveConfig
from roboalign_nodes.lifecycle import ManagedNode
from roboalign_nodes.service_calls import call

LIMIT = 60.0  # seconds; reached on a very busy machine only, a failing condition fails no sooner
INSTRUCTIONS = ("go left", "go right")
REACH = 0.08  # way of an action of 1, in image widths
GOAL = 0.35  # image widths from the middle


class Loop:
    """Spins nodes in a thread of its own inside a ``with`` block; the node ``probe`` is there to talk to them."""

    def __init__(self, domain_id: int) -> None:
        self._context = Context()
        self._context.init(args=[], domain_id=domain_id)
        self.probe = Node("probe", context=self._context)
        self._nodes: list[Node] = [self.probe]
        self._executor = MultiThreadedExecutor(8, context=self._context)
        self._executor.add_node(self.probe)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._spin)

    def __enter__(self) -> Loop:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._executor.shutdown(timeout_sec=LIMIT)
        for node in reversed(self._nodes):
            node.destroy_node()
        self._context.try_shutdown()

    def add(self, make: Callable[..., ManagedNode], start: bool = True, **parameters: Any) -> Any:
        """Make a node with these parameters, start it, and spin it."""
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        node = make(context=self._context, parameter_overrides=overrides, cli_args=[], use_global_arguments=False)
        self._nodes.append(node)
        if start:
            node.start()
        self._executor.add_node(node)
        return node

    def listen(self, kind: type, topic: str, qos: Any) -> list[Any]:
        """Messages of a topic, appended as they arrive."""
        messages: list[Any] = []
        self.probe.create_subscription(kind, topic, messages.append, qos)
        return messages

    def call(self, kind: type, name: str, request: Any) -> Any:
        """Call a service and return its response."""
        return call(self.probe.create_client(kind, name), request, LIMIT)

    def _spin(self) -> None:
        while not self._stop.is_set():
            self._executor.spin_once(timeout_sec=0.1)


def wait_until(condition: Callable[[], Any], what: str, limit: float = LIMIT) -> None:
    """Wait for a condition; fail with what was waited for."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {limit:g} s for {what}")
        time.sleep(0.01)


class DotEnv(gym.Env[Any, Any]):
    """A white dot on grey: actions (3,) move it in x and y, the third does nothing; done at the left or right side."""

    instructions = INSTRUCTIONS

    def __init__(self, size: int = 32, max_steps: int = 12) -> None:
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
        self._size, self._max_steps = size, max_steps
        self._place = np.zeros(2)
        self._instruction, self._steps = "", 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        instruction = (options or {}).get("instruction") or str(self.np_random.choice(self.instructions))
        if instruction not in self.instructions:
            raise RoboAlignError(f"instruction: expected one of {self.instructions}, found {instruction!r}")
        self._instruction, self._steps = instruction, 0
        self._place = self.np_random.uniform(-0.03, 0.03, 2)
        return self._observation()

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        self._place = np.clip(self._place + REACH * np.asarray(action, np.float64)[:2], -0.45, 0.45)
        frame, info = self._observation()
        return frame, 0.0, info["success"], self._steps >= self._max_steps, info

    def _observation(self) -> tuple[Any, dict[str, Any]]:
        way = float(self._place[0]) * direction(self._instruction)
        info = {
            "instruction": self._instruction,
            "success": way > GOAL,
            "progress": way / GOAL,
            "state": {"way": np.array([way]), "dot": np.append(self._place, 0.0)},
        }
        return draw(self._place, self._size), info


class DotImagination:
    """Knows how the dot moves; an imagined frame shows it where the actions lead."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._instruction = ""
        self._frame: np.ndarray | None = None

    def reset(self, reference_frame: np.ndarray, instruction: str) -> None:
        direction(instruction)
        self.calls.append("reset")
        self._instruction, self._frame = instruction, reference_frame

    def observe(self, frame: np.ndarray, follows: bool) -> None:
        self.calls.append("observe" if follows else "observe after a gap")
        self._frame = frame

    def score(self, actions: np.ndarray) -> np.ndarray:
        self._check(actions.shape[2])
        return (self._places(actions)[:, -1, 0] * direction(self._instruction)).astype(np.float32)

    def imagine(self, actions: np.ndarray) -> np.ndarray:
        self._check(actions.shape[1])
        frame = self._seen()
        return np.stack([draw(place, frame.shape[0]) for place in self._places(actions[None])[0]])

    def _places(self, actions: np.ndarray) -> np.ndarray:
        return locate(self._seen()) + REACH * np.cumsum(actions[..., :2], axis=1)

    def _seen(self) -> np.ndarray:
        if self._frame is None:
            raise RoboAlignError("imagination: expected a frame, found none")
        return self._frame

    def _check(self, width: int) -> None:
        if width != 3:
            raise RoboAlignError(f"actions: expected 3 components, found {width}")


def direction(instruction: str) -> float:
    """The sign of x that an instruction asks for."""
    if instruction not in INSTRUCTIONS:
        raise RoboAlignError(f"instruction: expected one of {INSTRUCTIONS}, found {instruction!r}")
    return -1.0 if instruction == "go left" else 1.0


def draw(place: np.ndarray, size: int) -> np.ndarray:
    """A frame with the dot at a place; x to the right, y up, the middle is (0, 0)."""
    frame = np.full((size, size, 3), 90, np.uint8)
    column, row = np.clip(np.round((np.asarray(place) * (1, -1) + 0.5) * size), 1, size - 2).astype(int)
    frame[row - 1 : row + 2, column - 1 : column + 2] = 255
    return frame


def locate(frame: np.ndarray) -> np.ndarray:
    """The inverse of :func:`draw`."""
    rows, columns = np.nonzero(frame[..., 0] == 255)
    size = frame.shape[0]
    return np.array([columns.mean() / size - 0.5, 0.5 - rows.mean() / size])


def make_dot_env(name: str, size: int, max_steps: int) -> DotEnv:
    """For ``RobotSimNode(make_env=...)``."""
    return DotEnv(size, max_steps)


def load_dots(model: str, objective: ObjectiveConfig, order: str, threads: int) -> DotImagination:
    """For ``WorldModelNode(load=...)``."""
    return DotImagination()


def values(messages: Sequence[Any], name: str) -> list[Any]:
    """One field of many messages."""
    return [getattr(message, name) for message in messages]
