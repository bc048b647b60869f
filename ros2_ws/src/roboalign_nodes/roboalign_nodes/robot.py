"""The robot's side of the loop without ROS: which action is next, which chunk is accepted, when the episode is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError
from roboalign_nodes.conversions import Chunk
from roboalign_nodes.env_host import EnvHost, Observation

_POSES = ((3,), (4,), (7,))  # shapes of states that are poses: a place, with a yaw, or with a quaternion


class Robot:
    """Executes chunks of actions in an environment.

    Args:
        env: the environment.
        execute_steps: actions of a chunk that are executed before the next chunk is wanted.
        level: index of the action component that is a level and not a displacement (a gripper), which holding keeps;
            -1: none.
        effector_state: name of the end effector among the environment's states; empty: the first that is a pose.
    """

    def __init__(self, env: EnvHost, execute_steps: int, level: int = -1, effector_state: str = "") -> None:
        if level >= env.action_dim:
            raise RoboAlignError(f"robot: expected a level component below {env.action_dim}, found {level}")
        self._env = env
        self._execute_steps, self._level, self._effector_state = execute_steps, level, effector_state
        self._effector = ""  # name of its state; empty: the environment has none
        self._queue: deque[npt.NDArray[np.float32]] = deque()
        self._last_action = np.zeros(env.action_dim, np.float32)
        self._accepted_at = -1
        self.observation: Observation | None = None
        self.episode = 0
        self.step = 0
        self.plan_id = 0
        self.done = False

    @property
    def waiting(self) -> bool:
        """Whether a new chunk is wanted."""
        return self.episode > 0 and not self.done and not self._queue

    @property
    def busy(self) -> bool:
        """Whether an action is queued."""
        return bool(self._queue)

    @property
    def effector(self) -> npt.NDArray[np.floating] | None:
        """The end effector's state: x, y, z in metres, (3,), then a yaw, (4,), or a quaternion x, y, z, w, (7,).

        None where the environment has no pose, or before the first reset.
        """
        return self.observation.state[self._effector] if self.observation is not None and self._effector else None

    def reset(self, seed: int | None, instruction: str | None) -> Observation:
        """Start the next episode.

        Raises:
            RoboAlignError: the environment refuses the seed or the instruction, and the running episode goes on; or it
                has no such effector, and none ever runs.
        """
        observation = self._env.reset(seed, instruction)
        self._effector = _find_effector(observation.state, self._effector_state)
        self._queue.clear()
        self._last_action = np.zeros(self._env.action_dim, np.float32)
        self._accepted_at = -1
        self.observation = observation
        self.episode += 1
        self.step, self.plan_id = 0, 0
        self.done = False
        return observation

    def offer(self, chunk: Chunk) -> bool:
        """Take over a chunk; False if it is repeated, overtaken by a newer one, or of another episode.

        Raises:
            RoboAlignError: the actions have the wrong width.
        """
        if chunk.actions.shape[1] != self._env.action_dim:
            raise RoboAlignError(
                f"action chunk: expected {self._env.action_dim} components per action, found {chunk.actions.shape[1]}"
            )
        if self.episode == 0 or self.done:
            return False
        fits = chunk.episode == self.episode and self._accepted_at < chunk.step <= self.step
        if chunk.episode and not fits:
            return False
        self._accepted_at = self.step
        self.plan_id = chunk.plan_id
        self._queue = deque(chunk.actions[: self._execute_steps])
        return True

    def advance(self) -> npt.NDArray[np.float32]:
        """Execute the next queued action; returns it, (A,)."""
        return self._execute(self._queue.popleft())

    def hold(self, mode: str) -> npt.NDArray[np.float32]:
        """Execute a safe action: ``zeros``, or ``hold`` = no displacement, but the level of the last action."""
        action = np.zeros(self._env.action_dim, np.float32)
        if mode == "hold" and self._level >= 0:
            action[self._level] = self._last_action[self._level]
        return self._execute(action)

    def _execute(self, action: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        self.observation = self._env.step(action)
        self._last_action = action
        self.step += 1
        self.done = self.observation.over or self.observation.success
        if self.done:
            self._queue.clear()
        return action


def _find_effector(state: Mapping[str, npt.NDArray[np.floating]], wanted: str) -> str:
    poses = [name for name, numbers in state.items() if np.shape(numbers) in _POSES]
    if wanted and wanted not in poses:
        known = ", ".join(poses) or "none, the environment has no poses"
        raise RoboAlignError(f"effector_state: expected a state of 3, 4 or 7 numbers: {known}; found {wanted!r}")
    return wanted or next(iter(poses), "")
