"""``RoboAlign/Tabletop-v0``: a finger on a gantry pushes a cube and a cylinder, seen by one camera."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from roboalign_core.errors import RoboAlignError
from roboalign_sim import scene
from roboalign_sim.actions import checked_action
from roboalign_sim.looks import Looks, moved_camera
from roboalign_sim.rendering import Camera, mujoco
from roboalign_sim.tasks import Task, instructions_of, is_success, progress, progress_all, task_of

FPS = 5.0  # control steps per second
STEP_METRES = 0.03  # an action of 1 moves the tip by this
ACTION_NAMES = ("x", "y", "z")
STATE_NAMES = (
    *(f"finger.{axis}" for axis in "xyz"),
    *(f"{name}.{axis}" for name in scene.OBJECTS for axis in ("x", "y", "z", "yaw")),
    "zone.x",
    "zone.y",
)

_SUBSTEPS = round(1.0 / FPS / scene.TIMESTEP)
_CHUNK = 4  # substeps between two targets on the way
_CHUNKS = _SUBSTEPS // _CHUNK
_MOVING_CHUNKS = _CHUNKS - 2  # the rest lets the actuators settle
_MAX_DRAWS = 10_000


@dataclass(frozen=True, slots=True)
class SimState:
    """Everything that :meth:`TabletopEnv.set_state` needs to continue from a moment: physics, task, time, looks."""

    physics: npt.NDArray[np.float64]
    instruction: str
    start: dict[str, npt.NDArray[np.float64]]
    steps: int
    last_progress: float
    table_rgb: npt.NDArray[np.float32]
    light: npt.NDArray[np.float32]
    camera: npt.NDArray[np.float64]


def state_vector(state: dict[str, npt.NDArray[np.float64]]) -> npt.NDArray[np.float32]:
    """The state as one row, (13,) float32 in the order of ``STATE_NAMES``; metres and radians."""
    return np.concatenate([state["finger"], *(state[name] for name in scene.OBJECTS), state["zone"]]).astype(np.float32)


def state_from_vector(vector: npt.NDArray[np.floating]) -> dict[str, npt.NDArray[np.float64]]:
    """The inverse of :func:`state_vector`.

    Raises:
        RoboAlignError: the vector is not of the shape ``(13,)``.
    """
    if np.shape(vector) != (len(STATE_NAMES),):
        raise RoboAlignError(f"state vector: expected shape ({len(STATE_NAMES)},), found {np.shape(vector)}")
    v = np.asarray(vector, np.float64)
    return {"finger": v[:3], "red_cube": v[3:7], "blue_cylinder": v[7:11], "zone": v[11:]}


class TabletopEnv(gym.Env[npt.NDArray[np.uint8], npt.NDArray[np.float32]]):
    """A 40 x 40 cm table seen almost full-frame by the camera ``front``.

    Observation: (size, size, 3) uint8. Action: (3,) float32 in [-1, 1], the tip's way in x, y, z in units of 3 cm, at
    5 Hz. The tip stays in its workspace: the gantry stops where it ends. Reward: what
    :func:`~roboalign_sim.tasks.progress` gained in the step. ``info`` holds ``instruction``, ``success``, ``state``
    (metres and radians; see :mod:`roboalign_sim.tasks`), ``progress``, and with ``masks=True`` ``masks``: boolean
    (size, size) images of the finger, the objects and the zone, as far as they are visible.

    Args:
        size: the image's height and width in pixels.
        max_steps: steps after which an episode is truncated.
        terminate_on_success: whether success ends the episode.
        randomise_appearance: whether a reset draws the table's tint and the light.
        masks: whether ``info`` has the masks (costs a second rendering).
        instructions: the instructions that a reset draws from; all of them by default.
        looks: colours of the objects, and how far a reset moves the camera; the standard look by default.

    Raises:
        RoboAlignError: an argument, an instruction or an action is not one that the table-top knows.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": int(FPS)}  # noqa: RUF012 - as gymnasium declares it

    def __init__(
        self,
        size: int = 64,
        max_steps: int = 30,
        terminate_on_success: bool = True,
        randomise_appearance: bool = True,
        masks: bool = False,
        instructions: tuple[str, ...] | None = None,
        render_mode: str | None = "rgb_array",
        looks: Looks | None = None,
    ) -> None:
        if size < 16 or max_steps < 1:
            raise RoboAlignError(f"tabletop: expected size >= 16 and max_steps >= 1, found {size} and {max_steps}")
        if render_mode not in (None, "rgb_array"):
            raise RoboAlignError(f'tabletop: expected render_mode "rgb_array" or None, found {render_mode!r}')
        self.looks = looks or Looks()
        chosen = instructions_of(self.looks.colours) if instructions is None else instructions
        if not chosen:
            raise RoboAlignError("tabletop: expected at least one instruction, found none")
        self.instructions = tuple(self._task(instruction).instruction for instruction in chosen)
        self.size, self.max_steps = size, max_steps
        self.terminate_on_success = terminate_on_success
        self.randomise_appearance = randomise_appearance
        self.masks = masks
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (len(ACTION_NAMES),), np.float32)

        self._model = mujoco.MjModel.from_xml_string(scene.build_xml(size, size, self.looks.colours))
        self._data = mujoco.MjData(self._model)
        self._signature = mujoco.mjtState.mjSTATE_INTEGRATION
        self._camera = Camera(self._model, "front", size)
        self._table = self._model.geom("table").id
        self._camera_id = self._model.camera("front").id
        self._front = self._camera_pose()
        self._ready = False
        self._instruction = self.instructions[0]
        self._start: dict[str, npt.NDArray[np.float64]] = {}
        self._steps = 0
        self._last_progress = 0.0

    # -- gymnasium

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
        """Draw a new scene. ``options={"instruction": ...}`` chooses the task; otherwise it is drawn, too."""
        super().reset(seed=seed)
        options = dict(options or {})
        drawn = self.instructions[int(self.np_random.integers(len(self.instructions)))]
        task = self._task(options.pop("instruction", drawn))
        if options:
            raise RoboAlignError(f'tabletop reset: expected options with "instruction" only, found {sorted(options)}')
        self._instruction = task.instruction
        self._place(_draw_layout(self.np_random, task))
        self._set_appearance(*self._draw_appearance(), moved_camera(self._front, self.looks, self.np_random))
        self._start = self.state()
        self._steps = 0
        self._last_progress = progress(self._instruction, self._start, self._start)
        self._ready = True
        return self.render(), self._info()

    def step(self, action: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Move the tip by ``action`` * 3 cm within 0.2 s."""
        before = self._last_progress
        self.advance(action)
        info = self._info()
        self._last_progress = info["progress"]
        terminated = self.terminate_on_success and info["success"]
        return self.render(), info["progress"] - before, terminated, self._steps >= self.max_steps, info

    def render(self) -> npt.NDArray[np.uint8]:
        """The camera's image, (size, size, 3) uint8."""
        return self._camera.image(self._data)

    def close(self) -> None:
        """Free the rendering context."""
        self._camera.close()

    # -- beyond gymnasium: planning with the simulator itself, paired experiments

    def advance(self, action: npt.NDArray[np.float32]) -> None:
        """One control step of physics alone: no image, no reward."""
        if not self._ready:
            raise RoboAlignError("tabletop: expected a reset before the first step, found none")
        move = checked_action(action, len(ACTION_NAMES)) * STEP_METRES
        model, data = self._model, self._data
        origin = data.qpos[self._finger_qpos()].copy()
        low, high = model.actuator_ctrlrange[:, 0], model.actuator_ctrlrange[:, 1]
        goal = np.clip(origin + move, low, high)  # the gantry's ends
        for chunk in range(1, _CHUNKS + 1):
            data.ctrl[:] = origin + (goal - origin) * min(chunk / _MOVING_CHUNKS, 1.0)
            mujoco.mj_step(model, data, _CHUNK)
        mujoco.mj_kinematics(model, data)
        self._steps += 1

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """Where everything is now; see :mod:`roboalign_sim.tasks`."""
        data = self._data
        found = {"finger": data.geom("finger").xpos.copy()}
        for name in scene.OBJECTS:
            yaw = math.remainder(float(data.joint(f"{name}_yaw").qpos[0]), 2 * math.pi)
            found[name] = np.append(data.body(name).xpos, yaw)
        found["zone"] = data.mocap_pos[0, :2].copy()
        return found

    @property
    def instruction(self) -> str:
        """The current instruction."""
        return self._instruction

    def progress_all(self) -> npt.NDArray[np.float32]:
        """Progress since the reset for every instruction, (K,) in the order of ``tasks.instructions_of``."""
        return progress_all(self._start, self.state())

    def get_state(self) -> SimState:
        """A snapshot of everything, for :meth:`set_state`."""
        physics = np.empty(mujoco.mj_stateSize(self._model, self._signature))
        mujoco.mj_getState(self._model, self._data, physics, self._signature)
        return SimState(
            physics,
            self._instruction,
            {name: value.copy() for name, value in self._start.items()},
            self._steps,
            self._last_progress,
            self._model.geom_rgba[self._table, :3].copy(),
            self._model.light_diffuse[0].copy(),
            self._camera_pose(),
        )

    def set_state(self, state: SimState) -> None:
        """Continue from a snapshot, of this environment or of another one of its kind."""
        mujoco.mj_setState(self._model, self._data, state.physics, self._signature)
        mujoco.mj_forward(self._model, self._data)
        self._instruction = self._task(state.instruction).instruction
        self._start = {name: value.copy() for name, value in state.start.items()}
        self._steps, self._last_progress = state.steps, state.last_progress
        self._set_appearance(state.table_rgb, state.light, state.camera)
        self._ready = True

    # -- inside

    def _task(self, instruction: str) -> Task:
        return task_of(instruction, self.looks.colours)

    def _info(self) -> dict[str, Any]:
        state = self.state()
        info: dict[str, Any] = {
            "instruction": self._instruction,
            "success": is_success(self._instruction, self._start, state),
            "state": state,
            "progress": progress(self._instruction, self._start, state),
        }
        if self.masks:
            info["masks"] = self._render_masks()
        return info

    def _render_masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        ids = self._camera.geom_ids(self._data)
        masks = {name: ids == self._model.geom(name).id for name in scene.MASKED}
        masks["finger"] |= ids == self._model.geom("stem").id
        return masks

    def _finger_qpos(self) -> list[int]:
        return [int(self._model.joint(f"finger_{axis}").qposadr[0]) for axis in ACTION_NAMES]

    def _place(self, layout: _Layout) -> None:
        data = self._data
        mujoco.mj_resetData(self._model, data)
        for name, place in layout.objects.items():
            for axis, value in zip(("x", "y", "yaw"), place, strict=True):
                data.joint(f"{name}_{axis}").qpos[0] = value
        data.qpos[self._finger_qpos()] = layout.finger
        data.ctrl[:] = layout.finger
        data.mocap_pos[0] = (*layout.zone, 0.0)
        mujoco.mj_forward(self._model, data)

    def _draw_appearance(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        table, light = np.array(scene.TABLE_RGB), np.full(3, scene.LIGHT_STRENGTH)
        tint, strength = self.np_random.uniform(-0.05, 0.05, 3), self.np_random.uniform(0.85, 1.15)
        if self.randomise_appearance:
            table, light = table + tint, light * strength
        return table.astype(np.float32), light.astype(np.float32)

    def _set_appearance(
        self, table_rgb: npt.NDArray[np.float32], light: npt.NDArray[np.float32], camera: npt.NDArray[np.float64]
    ) -> None:
        model, number = self._model, self._camera_id
        model.geom_rgba[self._table, :3] = table_rgb
        model.light_diffuse[0] = light
        model.cam_pos[number], model.cam_quat[number] = camera[:3], camera[3:]
        mujoco.mj_camlight(model, self._data)

    def _camera_pose(self) -> npt.NDArray[np.float64]:
        """Position in metres and quaternion, (7,)."""
        return np.concatenate([self._model.cam_pos[self._camera_id], self._model.cam_quat[self._camera_id]])


@dataclass(frozen=True, slots=True)
class _Layout:
    objects: dict[str, npt.NDArray[np.float64]]  # x, y, yaw
    zone: npt.NDArray[np.float64]
    finger: npt.NDArray[np.float64]


_OBJECT_RANGE = 0.105  # m: from here every push of 6 cm, and the place behind the object, is inside
_ZONE_RANGE = 0.115
_FINGER_RANGE = 0.165


def _draw_layout(rng: np.random.Generator, task: Task) -> _Layout:
    """Draw places until the task is open and nothing stands in its way."""
    for _ in range(_MAX_DRAWS):
        cube, cylinder = rng.uniform(-_OBJECT_RANGE, _OBJECT_RANGE, (2, 2))
        zone = rng.uniform(-_ZONE_RANGE, _ZONE_RANGE, 2)
        finger = np.append(rng.uniform(-_FINGER_RANGE, _FINGER_RANGE, 2), rng.uniform(*scene.FINGER_Z_RANGE))
        yaw = rng.uniform(-math.pi / 4, math.pi / 4)
        places = {"red_cube": cube, "blue_cylinder": cylinder}
        if _is_open(places, zone, finger) and _way_is_free(places, zone, task):
            turned = {"red_cube": np.append(cube, yaw), "blue_cylinder": np.append(cylinder, 0.0)}
            return _Layout(turned, zone, finger)
    raise RoboAlignError(f"tabletop reset: found no free layout for {task.instruction!r} in {_MAX_DRAWS} draws")


def _is_open(
    places: dict[str, npt.NDArray[np.float64]], zone: npt.NDArray[np.float64], finger: npt.NDArray[np.float64]
) -> bool:
    distance = np.linalg.norm
    return bool(
        distance(places["red_cube"] - places["blue_cylinder"]) >= 0.085
        and all(0.085 <= distance(place - zone) <= 0.20 for place in places.values())
        and all(distance(place - finger[:2]) >= 0.07 for place in places.values())
    )


def _way_is_free(places: dict[str, npt.NDArray[np.float64]], zone: npt.NDArray[np.float64], task: Task) -> bool:
    if task.kind == "reach":
        return True
    place = places[task.target]
    other = next(value for name, value in places.items() if name != task.target)
    way = zone - place if task.direction is None else np.array(task.direction) * 0.06
    direction = way / np.linalg.norm(way)
    first, last = place - direction * 0.055, place + way
    along = np.clip((other - first) @ (last - first) / np.sum((last - first) ** 2), 0.0, 1.0)
    return bool(np.linalg.norm(first + along * (last - first) - other) >= 0.065)
