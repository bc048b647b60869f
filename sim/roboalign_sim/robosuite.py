"""``RoboAlign/Robosuite-Lift-v0``: robosuite's Panda lifts a cube, behind the interface of our other environments.

robosuite is imported when the environment is made, not before: it is slow to import, optional, and talks a lot.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from roboalign_core.errors import RoboAlignError, require
from roboalign_sim.actions import checked_action
from roboalign_sim.rendering import Camera, mujoco

INSTRUCTION = "lift the cube"
FPS = 5.0  # actions per second
ACTION_NAMES = ("x", "y", "z", "gripper")
MASKED = ("finger", "cube")
STATE_NAMES = ("finger.x", "finger.y", "finger.z", "cube.x", "cube.y", "cube.z", "cube.yaw", "gripper.opening")

_CONTROL_HZ = 20  # robosuite's own rate; an action is held for _CONTROL_HZ / FPS of its steps
_HOLD = round(_CONTROL_HZ / FPS)
_COLLISION_GROUP = 0  # robosuite's group for shapes that only collide
_LIFT_HEIGHT = 0.04  # m above the table, robosuite's definition of success
_REACH_SCALE = 0.30  # m from the cube that count as no progress


class RobosuiteLiftEnv(gym.Env[npt.NDArray[np.uint8], npt.NDArray[np.float32]]):
    """A Panda arm over a table with one cube.

    Observation: (size, size, 3) uint8 of a camera that frames gripper and cube. Action: (4,) float32 in [-1, 1]: the
    hand's way in x, y, z for robosuite's operational-space controller, held for 0.2 s, and the gripper (-1 opens, 1
    closes); the hand keeps its orientation. Reward: the gain in progress. ``info`` holds ``instruction``, ``success``,
    ``state`` with ``finger`` (3,), ``cube`` (4,) as x, y, z, yaw and ``gripper`` (1,) opening, metres and radians in
    robosuite's world frame (x away from the robot's base, z up), ``progress``, and with ``masks=True`` boolean images
    of ``finger`` (the gripper) and ``cube``.

    Args:
        size: the image's height and width in pixels.
        max_steps: steps after which an episode is truncated.
        terminate_on_success: whether success ends the episode.
        masks: whether ``info`` has the masks (costs a second rendering).

    Raises:
        MissingExtraError: robosuite is not installed.
        RoboAlignError: an argument or an action makes no sense.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(FPS)}  # noqa: RUF012 - as gymnasium declares it

    def __init__(
        self,
        size: int = 64,
        max_steps: int = 40,
        terminate_on_success: bool = True,
        masks: bool = False,
        render_mode: str | None = "rgb_array",
    ) -> None:
        if size < 16 or max_steps < 1:
            raise RoboAlignError(f"robosuite: expected size >= 16 and max_steps >= 1, found {size} and {max_steps}")
        if render_mode not in (None, "rgb_array"):
            raise RoboAlignError(f'robosuite: expected render_mode "rgb_array" or None, found {render_mode!r}')
        self.size, self.max_steps = size, max_steps
        self.terminate_on_success = terminate_on_success
        self.masks = masks
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (len(ACTION_NAMES),), np.float32)
        self._task = _make_lift()
        self._camera = Camera(self._task.sim.model._model, _viewpoint(self._task), size, (_COLLISION_GROUP,))
        self._geoms = _mask_geoms(self._task)
        self._steps = 0
        self._last_progress = 0.0
        self._ready = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """Put the cube somewhere else. ``options`` may name the one instruction that there is."""
        super().reset(seed=seed)
        if options and options != {"instruction": INSTRUCTION}:
            raise RoboAlignError(
                f'robosuite reset: expected instruction "{INSTRUCTION}" as the only option, found {options}'
            )
        # The generator is shared with robosuite's samplers, so it is re-seeded in place.
        fresh = np.random.default_rng(int(self.np_random.integers(2**31)))
        self._task.rng.bit_generator.state = fresh.bit_generator.state
        self._task.reset()
        self._steps, self._ready = 0, True
        info = self._info()
        self._last_progress = info["progress"]
        return self.render(), info

    def step(self, action: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Hold an action for 0.2 s."""
        if not self._ready:
            raise RoboAlignError("robosuite: expected a reset before the first step, found none")
        move = checked_action(action, len(ACTION_NAMES))
        command = np.concatenate([move[:3], np.zeros(3), move[3:]])
        for _ in range(_HOLD):
            self._task.step(command)
        self._steps += 1
        info = self._info()
        gain, self._last_progress = info["progress"] - self._last_progress, info["progress"]
        terminated = self.terminate_on_success and info["success"]
        return self.render(), gain, terminated, self._steps >= self.max_steps, info

    def render(self) -> npt.NDArray[np.uint8]:
        """The camera's image, (size, size, 3) uint8."""
        return self._camera.image(self._task.sim.data._data)

    def close(self) -> None:
        """Free the rendering context and robosuite's simulation."""
        self._camera.close()
        self._task.close()

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """Hand, cube and gripper now."""
        task, data = self._task, self._task.sim.data
        w, x, y, z = (float(v) for v in data.body_xquat[task.cube_body_id])
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        hand = task.robots[0]
        fingers = data.qpos[hand._ref_gripper_joint_pos_indexes["right"]]
        return {
            "finger": np.array(data.site_xpos[hand.eef_site_id["right"]]),
            "cube": np.append(data.body_xpos[task.cube_body_id], yaw),
            "gripper": np.array([float(np.abs(fingers).sum())]),
        }

    def _info(self) -> dict[str, Any]:
        state = self.state()
        info: dict[str, Any] = {
            "instruction": INSTRUCTION,
            "success": bool(self._task._check_success()),
            "state": state,
            "progress": self._progress(state),
        }
        if self.masks:
            ids = self._camera.geom_ids(self._task.sim.data._data)
            info["masks"] = {name: np.isin(ids, geoms) for name, geoms in self._geoms.items()}
        return info

    def _progress(self, state: Mapping[str, npt.NDArray[np.float64]]) -> float:
        """In [0, 1]: 45 % for nearing the cube, 10 % for holding it, 45 % for its height above the table."""
        task = self._task
        near = 1.0 - min(float(np.linalg.norm(state["finger"] - state["cube"][:3])) / _REACH_SCALE, 1.0)
        held = float(task._check_grasp(gripper=task.robots[0].gripper, object_geoms=task.cube))
        height = float(state["cube"][2] - task.model.mujoco_arena.table_offset[2]) - float(task.cube.size[2])
        return 0.45 * near + 0.10 * held + 0.45 * min(max(height / _LIFT_HEIGHT, 0.0), 1.0)


class LiftExpert:
    """Lifts the cube from the state in ``info``: above it, down, close, up; then holds still."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._closed = self._lifted = 0

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """The next action."""
        hand, cube = info["state"]["finger"], info["state"]["cube"][:3]
        way = cube - hand
        aside = float(np.linalg.norm(way[:2]))
        if self._closed >= 2:
            self._lifted += 1
            move = np.array([0.0, 0.0, 1.0 if self._lifted <= 2 else 0.0])
        elif self._closed or (aside < 0.01 and abs(way[2]) < 0.012):
            self._closed += 1
            move = np.zeros(3)
        else:
            height = way[2] if aside < 0.02 else way[2] + 0.06
            move = np.clip(np.array([way[0], way[1], height]) / _EXPERT_SCALE, -1.0, 1.0)
        return np.append(move, 1.0 if self._closed else -1.0).astype(np.float32)


_EXPERT_SCALE = 0.06  # m that an action of 1 moves the hand by, roughly


def state_vector(state: Mapping[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float32]:
    """The state as one row, (8,) float32 in the order of ``STATE_NAMES``."""
    return np.concatenate([state["finger"], state["cube"], state["gripper"]]).astype(np.float32)


def _make_lift() -> Any:
    with _quiet():
        suite = require("robosuite", "sim")
        controllers = require("robosuite.controllers", "sim")
        return suite.make(
            "Lift",
            robots="Panda",
            controller_configs=controllers.load_composite_controller_config(robot="Panda"),
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            use_object_obs=False,
            control_freq=_CONTROL_HZ,
            ignore_done=True,
            hard_reset=False,
            seed=0,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep robosuite from its hints about optional packages at import and at every make; errors come through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _viewpoint(task: Any) -> Any:
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.lookat[:] = task.model.mujoco_arena.table_offset
    camera.lookat[2] += 0.09
    camera.distance, camera.azimuth, camera.elevation = 0.52, 150.0, -30.0
    return camera


def _mask_geoms(task: Any) -> dict[str, list[int]]:
    model = task.sim.model
    gripper = task.robots[0].gripper["right"]
    names = {"finger": gripper.visual_geoms, "cube": task.cube.visual_geoms}
    return {name: [int(model.geom_name2id(geom)) for geom in geoms] for name, geoms in names.items()}
