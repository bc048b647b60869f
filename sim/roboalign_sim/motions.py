"""How a scripted finger moves on the table-top: to a place, behind an object, on as it pushes. Metres throughout."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from roboalign_sim.scene import CLEARANCE_Z, OBJECT_HALF, OBJECTS
from roboalign_sim.tabletop import STEP_METRES
from roboalign_sim.tasks import REACH_GAP, State, contact_distance, is_success, push_direction, task_of

Action = npt.NDArray[np.float32]
Vector = tuple[float, float]

PUSH_Z = 0.026  # m, the tip's height while it pushes
HIGH_Z = 0.088
_KEEP_OFF = 0.048  # m from an object's centre that a low tip keeps on its way elsewhere


def is_done(instruction: str, start: State, state: State) -> bool:
    """Success with a margin, so that the expert does not stop on the line."""
    task = task_of(instruction)
    if not is_success(instruction, start, state):
        return False
    if task.kind == "zone":
        return bool(np.linalg.norm(state[task.target][:2] - state["zone"]) < 0.025)
    if task.kind == "push":
        moved = (state[task.target] - start[task.target])[:2] @ np.array(task.direction)
        return bool(moved > 0.057)
    return True


def towards(instruction: str, state: State) -> npt.NDArray[np.float64]:
    """The next move in metres of one who fulfils the instruction."""
    task = task_of(instruction)
    if task.kind == "reach":
        return touch(state, task.target)
    return behind_and_push(state, task.target, push_direction(task, state))[1]


def touch(state: State, target: str) -> npt.NDArray[np.float64]:
    """The move in metres that brings the tip beside the object, on the side where it is."""
    finger, place = state["finger"], state[target][:2]
    x, y = (float(v) for v in place - finger[:2])
    length = math.hypot(x, y)
    direction = (x / length, y / length) if length > 1e-6 else (0.0, 1.0)
    reach = contact_distance(state, target, direction) + 0.4 * REACH_GAP
    return travel(state, (float(place[0]) - direction[0] * reach, float(place[1]) - direction[1] * reach))


def behind_and_push(
    state: State, target: str, direction: Vector, offset: float = 0.0, speed: float = 1.0, straight: bool = True
) -> tuple[bool, npt.NDArray[np.float64]]:
    """Whether the tip is behind the object now, and the next move in metres."""
    finger = state["finger"]
    ux, uy = direction
    x, y = (float(v) for v in finger[:2] - state[target][:2])
    along, sideways = x * ux + y * uy, -x * uy + y * ux
    contact = contact_distance(state, target, direction)
    error = offset - sideways
    is_behind = -(contact + 0.03) < along < -(contact - 0.015) and abs(error) < 0.014 and finger[2] < PUSH_Z + 0.012
    if is_behind:
        steer = 0.9 * error if straight else 0.0
        ahead = STEP_METRES * speed * max(1.0 - abs(steer) / 0.02, 0.25)
        return True, np.array([ux * ahead - uy * steer, uy * ahead + ux * steer, PUSH_Z - finger[2]])
    back = contact + 0.012
    place = state[target]
    goal = (float(place[0]) - ux * back - uy * offset, float(place[1]) - uy * back + ux * offset)
    return False, travel(state, goal)


def travel(state: State, goal: Vector) -> npt.NDArray[np.float64]:
    """The next move in metres to a low place: straight where the way is free, over the objects where it is not."""
    finger = state["finger"]
    way = np.array(goal) - finger[:2]
    low = PUSH_Z - float(finger[2])
    if float(np.linalg.norm(way)) < 0.012 or not _is_blocked(state, goal):
        return np.array([*way, low])
    rise = HIGH_Z - float(finger[2])
    if finger[2] < CLEARANCE_Z:
        return np.array([0.0, 0.0, rise])
    return np.array([*way, rise])


def _is_blocked(state: State, goal: Vector) -> bool:
    origin = state["finger"][:2]
    way = np.array(goal) - origin
    length = max(float(way @ way), 1e-9)
    for name in OBJECTS:
        place = state[name][:2]
        nearest = origin + np.clip(float((place - origin) @ way) / length, 0.0, 1.0) * way
        # The goal itself may be closer to its object than the tip keeps off elsewhere.
        allowed = min(_KEEP_OFF, float(np.linalg.norm(place - np.array(goal))) - 0.002)
        if float(np.linalg.norm(nearest - place)) < max(allowed, OBJECT_HALF):
            return True
    return False


def scaled(move: npt.NDArray[np.float64]) -> Action:
    """Metres to an action; a long way keeps its direction in the plane."""
    plane = move[:2] / STEP_METRES
    plane = plane / max(float(np.abs(plane).max()), 1.0)
    return np.array([*plane, np.clip(move[2] / STEP_METRES, -1.0, 1.0)], np.float32)
