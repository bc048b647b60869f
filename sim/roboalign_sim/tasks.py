"""The table-top's instructions: what each means, when it is done, and how near a state is to done.

A *state* is a mapping with ``finger`` (3,), ``red_cube`` (4,) and ``blue_cylinder`` (4,) as x, y, z, yaw, and ``zone``
(2,); metres and radians in the frame of :mod:`roboalign_sim.scene`. Objects are called so whatever their paint; the
words of an instruction follow the paint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError
from roboalign_sim.scene import CLEARANCE_Z, COLOURS, FINGER_RADIUS, OBJECT_HALF, OBJECTS, ZONE_RADIUS, words

State = Mapping[str, npt.NDArray[np.float64]]

DIRECTIONS: dict[str, tuple[float, float]] = {
    "left": (-1.0, 0.0),
    "right": (1.0, 0.0),
    "forward": (0.0, 1.0),
    "back": (0.0, -1.0),
}
REACH_GAP = 0.012  # m between the tip and the object's surface
REACH_Z = 0.045  # m
PUSH_DISTANCE = 0.05  # m that count as pushed
LOW_Z = 0.035  # m, from here down the tip meets the objects' sides

_PUSH_TARGET = 0.06  # m, a little past PUSH_DISTANCE so that a planner does not stop on the line
_ZONE_TARGET = 0.02  # m from the zone's centre, likewise
_REACH_SCALE = 0.40  # m of way left that count as no progress at all
_GOAL_WEIGHT, _FINGER_WEIGHT = 0.65, 0.35
_WRONG_WAY = 0.25  # what an untouched object is worth, so that pushing it the wrong way can cost something


@dataclass(frozen=True, slots=True)
class Task:
    """One instruction, taken apart."""

    instruction: str
    kind: Literal["reach", "push", "zone"]
    target: str
    direction: tuple[float, float] | None = None


def _all_tasks(colours: str) -> dict[str, Task]:
    tasks: list[Task] = []
    for target in OBJECTS:
        name = words(target, colours)
        tasks.append(Task(f"reach the {name}", "reach", target))
        tasks += [Task(f"push the {name} {word}", "push", target, vector) for word, vector in DIRECTIONS.items()]
        tasks.append(Task(f"push the {name} to the green zone", "zone", target))
    return {task.instruction: task for task in tasks}


_TASKS: dict[str, dict[str, Task]] = {colours: _all_tasks(colours) for colours in COLOURS}
_EVERY_TASK: dict[str, Task] = {name: task for tasks in _TASKS.values() for name, task in tasks.items()}
INSTRUCTIONS: tuple[str, ...] = tuple(_TASKS["standard"])


def instructions_of(colours: str) -> tuple[str, ...]:
    """The instructions under a scheme of ``scene.COLOURS``: the same tasks in the same order, in other words."""
    return tuple(_TASKS[colours])


def task_of(instruction: str, colours: str | None = None) -> Task:
    """The task of an instruction.

    Args:
        instruction: in words.
        colours: the scheme whose words are known; None for those of all.

    Raises:
        RoboAlignError: the table-top does not know the instruction.
    """
    tasks = _EVERY_TASK if colours is None else _TASKS[colours]
    try:
        return tasks[instruction]
    except (KeyError, TypeError):
        known = "; ".join(tasks)
        raise RoboAlignError(f"instruction: expected one of [{known}], found {instruction!r}") from None


def with_other_object(task: Task) -> Task:
    """The same task with the other object."""
    return next(
        other
        for other in _TASKS["standard"].values()
        if (other.kind, other.direction) == (task.kind, task.direction) and other.target != task.target
    )


def surface_gap(state: State, target: str) -> float:
    """Horizontal distance in metres between the tip's side and the object's; negative where one is over the other."""
    x, y = _relative(state, target)
    if target == "blue_cylinder":
        return math.hypot(x, y) - OBJECT_HALF - FINGER_RADIUS
    yaw = float(state[target][3])
    c, s = math.cos(yaw), math.sin(yaw)
    dx, dy = abs(c * x + s * y) - OBJECT_HALF, abs(c * y - s * x) - OBJECT_HALF
    outside = math.hypot(max(dx, 0.0), max(dy, 0.0))
    return outside + min(max(dx, dy), 0.0) - FINGER_RADIUS


def is_success(instruction: str, start: State, state: State) -> bool:
    """Whether ``state`` fulfils the instruction for an episode that began in ``start``."""
    task = task_of(instruction)
    if task.kind == "reach":
        return surface_gap(state, task.target) <= REACH_GAP and float(state["finger"][2]) <= REACH_Z
    if task.kind == "zone":
        return _zone_distance(state, task.target) <= ZONE_RADIUS
    along, sideways = _displacement(task, start, state)
    return along >= PUSH_DISTANCE and along > sideways


def progress(instruction: str, start: State, state: State) -> float:
    """How far the instruction is fulfilled, in [0, 1]: a dense potential, fit as a planner's objective.

    Reaching: the way that the tip has left, as a share of 40 cm. Pushing: 65 % for where the object is (displacement
    along the direction less half the sideways part, or the share of the way to the zone) and 35 % for the way that the
    tip has left to the place behind the object. That way leads around or over the object, never through it, and is zero
    while the tip follows the object it pushes; an object pushed the wrong way is worth less than one left alone.
    """
    task = task_of(instruction)
    if task.kind == "reach":
        return 1.0 - min(way_to_touch(state, task.target) / _REACH_SCALE, 1.0)
    if task.kind == "push":
        direction = push_direction(task, state)
        along, sideways = _displacement(task, start, state)
        goal = (along - 0.5 * sideways) / _PUSH_TARGET
        behind = 1.0 - min(way_behind(state, task.target, direction) / _REACH_SCALE, 1.0)
    else:
        distance = _zone_distance(state, task.target)
        left, first = max(distance - _ZONE_TARGET, 0.0), max(_zone_distance(start, task.target) - _ZONE_TARGET, 0.08)
        goal = 1.0 - left / first
        behind = 1.0 - min(way_behind(state, task.target, push_direction(task, state)) / _REACH_SCALE, 1.0)
        # In the zone the direction that is left to push has no meaning, so the finger's place loses its own.
        behind = 1.0 - (1.0 - behind) * min(left / (ZONE_RADIUS - _ZONE_TARGET), 1.0)
    goal = max(min(goal, 1.0), -_WRONG_WAY / _GOAL_WEIGHT)
    return (_WRONG_WAY + _GOAL_WEIGHT * goal + _FINGER_WEIGHT * behind) / (1.0 + _WRONG_WAY)


def progress_all(start: State, state: State) -> npt.NDArray[np.float32]:
    """:func:`progress` for every instruction: (K,) float32 in the order of ``instructions_of``, any scheme."""
    return np.array([progress(instruction, start, state) for instruction in INSTRUCTIONS], np.float32)


def push_direction(task: Task, state: State) -> tuple[float, float]:
    """Unit vector along which the object has to move now; for zone tasks from the object to the zone."""
    if task.direction is not None:
        return task.direction
    x, y = (float(v) for v in state["zone"] - state[task.target][:2])
    length = math.hypot(x, y)
    return (x / length, y / length) if length > 1e-6 else (0.0, 1.0)


def contact_distance(state: State, target: str, direction: tuple[float, float]) -> float:
    """Metres between the centres of tip and object when the tip touches it from behind, as seen along ``direction``."""
    if target == "blue_cylinder":
        return OBJECT_HALF + FINGER_RADIUS
    angle = math.atan2(direction[1], direction[0]) - float(state[target][3])
    return OBJECT_HALF / max(abs(math.cos(angle)), abs(math.sin(angle))) + FINGER_RADIUS


def way_behind(state: State, target: str, direction: tuple[float, float]) -> float:
    """Metres that the tip has to travel until it is low behind the object: around it at its height, or over it."""
    fx, fy = _relative(state, target)
    fz = float(state["finger"][2])
    ux, uy = direction
    contact = contact_distance(state, target, direction)
    back = min(max(-(fx * ux + fy * uy), contact - 0.004), contact + 0.012)
    qx, qy = -ux * back, -uy * back
    straight = math.hypot(fx - qx, fy - qy)
    around = _around(fx, fy, qx, qy, contact - 0.006) + max(fz - LOW_Z, 0.0)
    over = straight + max(CLEARANCE_Z - fz, 0.0) + max(fz, CLEARANCE_Z) - LOW_Z
    return min(around, over)


def way_to_touch(state: State, target: str) -> float:
    """Metres that the tip has to travel until it is low beside the object, near enough to have reached it."""
    gap = surface_gap(state, target)
    # Over the object the way leads out first, then down.
    return max(gap - 0.5 * REACH_GAP, -gap, 0.0) + max(float(state["finger"][2]) - LOW_Z, 0.0)


def _around(fx: float, fy: float, qx: float, qy: float, radius: float) -> float:
    """Length of the shortest way from f to q that stays out of the disc of ``radius`` around the origin."""
    vx, vy = qx - fx, qy - fy
    length = math.hypot(vx, vy)
    if length < 1e-9:
        return 0.0
    t = min(max(-(fx * vx + fy * vy) / length**2, 0.0), 1.0)
    if math.hypot(fx + t * vx, fy + t * vy) >= radius:
        return length
    f, q = math.hypot(fx, fy), math.hypot(qx, qy)
    inside, f = max(radius - f, 0.0), max(f, radius)
    angle = abs(math.remainder(math.atan2(fy, fx) - math.atan2(qy, qx), 2 * math.pi))
    arc = angle - math.acos(min(radius / f, 1.0)) - math.acos(min(radius / q, 1.0))
    tangents = math.sqrt(max(f * f - radius**2, 0.0)) + math.sqrt(max(q * q - radius**2, 0.0))
    return inside + tangents + radius * max(arc, 0.0)


def _relative(state: State, target: str) -> tuple[float, float]:
    finger, place = state["finger"], state[target]
    return float(finger[0] - place[0]), float(finger[1] - place[1])


def _zone_distance(state: State, target: str) -> float:
    place, zone = state[target], state["zone"]
    return math.hypot(float(place[0] - zone[0]), float(place[1] - zone[1]))


def _displacement(task: Task, start: State, state: State) -> tuple[float, float]:
    ux, uy = task.direction or (0.0, 0.0)
    dx, dy = (float(v) for v in state[task.target][:2] - start[task.target][:2])
    return dx * ux + dy * uy, abs(dx * uy - dy * ux)
