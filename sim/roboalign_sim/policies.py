"""Scripted behaviour on the table-top. Every policy is deterministic under the seed that its reset gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError
from roboalign_sim.scene import CLEARANCE_Z, FINGER_XY_LIMIT, OBJECT_HALF, OBJECT_LIMIT, OBJECTS
from roboalign_sim.tabletop import STEP_METRES
from roboalign_sim.tasks import INSTRUCTIONS, REACH_GAP, State, contact_distance, is_success, push_direction, task_of

Action = npt.NDArray[np.float32]
Vector = tuple[float, float]

_PUSH_Z = 0.026  # m, the tip's height while it pushes
_HIGH_Z = 0.088
_KEEP_OFF = 0.048  # m from an object's centre that a low tip keeps on its way elsewhere


class Policy(Protocol):
    """Something that acts: a script, a network, a planner."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> Action:
        """The action (A,) float32 in [-1, 1] for an image (H, W, 3) uint8 and the environment's ``info``."""


class RandomPolicy:
    """Smooth random motion: an autoregressive walk per axis, never looking at the image."""

    def __init__(self, width: int = 3, smoothness: float = 0.7) -> None:
        self._width, self._smoothness = width, smoothness

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._rng = np.random.default_rng(seed)
        self._move = self._rng.normal(0.0, 0.6, self._width)

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> Action:
        """The next action."""
        kick = self._rng.normal(0.0, 0.6, self._width)
        self._move = self._smoothness * self._move + math.sqrt(1 - self._smoothness**2) * kick
        return np.clip(self._move, -1.0, 1.0).astype(np.float32)


class ScriptedExpert:
    """Fulfils the instruction from the state in ``info``: down behind the target, push; then stands still."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._start: State | None = None

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> Action:
        """The next action."""
        state = info["state"]
        self._start = self._start or state
        if _is_done(info["instruction"], self._start, state):
            return np.zeros(3, np.float32)
        return _scaled(_towards(info["instruction"], state))


class NoisyExpert:
    """The expert with flaws: drifting noise, detours, now and then another instruction than the one given.

    What it pursues once fulfilled, it goes on with another instruction, so that episodes of fixed length stay busy.
    """

    def __init__(self, noise: float = 0.3, detour: float = 0.05, mistake: float = 0.2) -> None:
        self._noise, self._detour, self._mistake = noise, detour, mistake

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._rng = np.random.default_rng(seed)
        self._goal: str | None = None
        self._start: State | None = None
        self._drift = np.zeros(3)
        self._scale = self._rng.uniform(0.3, 1.7) * self._noise
        self._detour_left = 0
        self._detour_move = np.zeros(3)

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> Action:
        """The next action."""
        state = info["state"]
        if self._goal is None:
            wrong = self._rng.random() < self._mistake
            self._goal = self._any_instruction() if wrong else info["instruction"]
        if self._start is None:
            self._start = state
        elif _is_done(self._goal, self._start, state):
            self._goal, self._start = self._any_instruction(), state
        self._drift = 0.7 * self._drift + self._rng.normal(0.0, 0.7 * self._scale, 3)
        move = np.array(_scaled(_towards(self._goal, state)), np.float64)
        if self._detour_left == 0 and self._rng.random() < self._detour:
            self._detour_left, self._detour_move = int(self._rng.integers(2, 6)), self._rng.uniform(-1, 1, 3)
        if self._detour_left:
            self._detour_left -= 1
            move = self._detour_move
        return np.clip(move + self._drift, -1.0, 1.0).astype(np.float32)

    def _any_instruction(self) -> str:
        return INSTRUCTIONS[int(self._rng.integers(len(INSTRUCTIONS)))]


@dataclass(frozen=True, slots=True)
class _Push:
    target: str
    direction: Vector
    offset: float  # m beside the object's centre line
    steps: int  # pushing steps
    speed: float  # share of a full step
    straight: bool  # whether the tip corrects its way sideways while it pushes


class ContactPolicy:
    """Goes on pushing either object in random directions, off-centre as often as not, at random speeds.

    It is here for world models: contacts are what they find hardest, and what instructions alone show too narrowly.
    """

    def __init__(self, noise: float = 0.08, patience: int = 14) -> None:
        self._noise, self._patience = noise, patience

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._rng = np.random.default_rng(seed)
        self._push: _Push | None = None
        self._left = self._tried = 0
        self._leaving = 0
        self._leave = np.zeros(3)

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> Action:
        """The next action."""
        state = info["state"]
        if self._leaving:
            self._leaving -= 1
            return self._noised(self._leave)
        if self._push is None or self._left <= 0 or self._tried >= self._patience:
            self._push = self._draw(state)
            self._left, self._tried = self._push.steps, 0
        self._tried += 1
        push = self._push
        pushing, move = _behind_and_push(state, push.target, push.direction, push.offset, push.speed, push.straight)
        if pushing:
            self._left -= 1
            self._tried -= 1
        if pushing and self._left == 0 and self._rng.random() < 0.3:
            self._leaving, self._leave = int(self._rng.integers(1, 4)), self._rng.uniform(-1.0, 1.0, 3)
        return self._noised(_scaled(move))

    def _noised(self, move: npt.NDArray[Any]) -> Action:
        return np.clip(move + self._rng.normal(0.0, self._noise, 3), -1.0, 1.0).astype(np.float32)

    def _draw(self, state: State) -> _Push:
        rng = self._rng
        finger = state["finger"]
        for _ in range(50):
            # Mostly the nearer object, so that time goes into contact rather than travel.
            names = sorted(OBJECTS, key=lambda name: float(np.linalg.norm(state[name][:2] - finger[:2])))
            target = names[0] if rng.random() < 0.65 else names[1]
            ahead = state[target][:2] - finger[:2]
            if rng.random() < 0.6:  # away from where the tip is: the way there is short
                angle = math.atan2(ahead[1], ahead[0]) + rng.normal(0.0, 0.5)
            else:
                angle = rng.uniform(-math.pi, math.pi)
            direction = (math.cos(angle), math.sin(angle))
            offset = float(rng.uniform(-0.025, 0.025)) if rng.random() < 0.6 else 0.0
            steps = int(rng.integers(3, 9))
            speed = float(rng.uniform(0.3, 1.0))
            place = state[target][:2]
            end = place + np.array(direction) * STEP_METRES * steps * speed
            behind = place - np.array(direction) * 0.06
            if np.abs(behind).max() < FINGER_XY_LIMIT and np.abs(end).max() < OBJECT_LIMIT + 0.03:
                break
        return _Push(target, direction, offset, steps, speed, bool(rng.random() < 0.5))


POLICIES: dict[str, Callable[[], Policy]] = {
    "expert": ScriptedExpert,
    "noisy": NoisyExpert,
    "contact": ContactPolicy,
    "random": RandomPolicy,
}


def make_policy(name: str) -> Policy:
    """A table-top policy by name.

    Raises:
        RoboAlignError: the name is unknown.
    """
    if name not in POLICIES:
        raise RoboAlignError(f"policy: expected one of {sorted(POLICIES)}, found {name!r}")
    return POLICIES[name]()


def _is_done(instruction: str, start: State, state: State) -> bool:
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


def _towards(instruction: str, state: State) -> npt.NDArray[np.float64]:
    task = task_of(instruction)
    if task.kind == "reach":
        return _touch(state, task.target)
    return _behind_and_push(state, task.target, push_direction(task, state))[1]


def _touch(state: State, target: str) -> npt.NDArray[np.float64]:
    """The move in metres that brings the tip beside the object, on the side where it is."""
    finger, place = state["finger"], state[target][:2]
    x, y = (float(v) for v in place - finger[:2])
    length = math.hypot(x, y)
    direction = (x / length, y / length) if length > 1e-6 else (0.0, 1.0)
    reach = contact_distance(state, target, direction) + 0.4 * REACH_GAP
    return _travel(state, (float(place[0]) - direction[0] * reach, float(place[1]) - direction[1] * reach))


def _behind_and_push(
    state: State, target: str, direction: Vector, offset: float = 0.0, speed: float = 1.0, straight: bool = True
) -> tuple[bool, npt.NDArray[np.float64]]:
    """Whether the tip is behind the object now, and the next move in metres."""
    finger = state["finger"]
    ux, uy = direction
    x, y = (float(v) for v in finger[:2] - state[target][:2])
    along, sideways = x * ux + y * uy, -x * uy + y * ux
    contact = contact_distance(state, target, direction)
    error = offset - sideways
    is_behind = -(contact + 0.03) < along < -(contact - 0.015) and abs(error) < 0.014 and finger[2] < _PUSH_Z + 0.012
    if is_behind:
        steer = 0.9 * error if straight else 0.0
        ahead = STEP_METRES * speed * max(1.0 - abs(steer) / 0.02, 0.25)
        return True, np.array([ux * ahead - uy * steer, uy * ahead + ux * steer, _PUSH_Z - finger[2]])
    back = contact + 0.012
    place = state[target]
    goal = (float(place[0]) - ux * back - uy * offset, float(place[1]) - uy * back + ux * offset)
    return False, _travel(state, goal)


def _travel(state: State, goal: Vector) -> npt.NDArray[np.float64]:
    """The next move in metres to a low place: straight where the way is free, over the objects where it is not."""
    finger = state["finger"]
    way = np.array(goal) - finger[:2]
    low = _PUSH_Z - float(finger[2])
    if float(np.linalg.norm(way)) < 0.012 or not _is_blocked(state, goal):
        return np.array([*way, low])
    rise = _HIGH_Z - float(finger[2])
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


def _scaled(move: npt.NDArray[np.float64]) -> Action:
    """Metres to an action; a long way keeps its direction in the plane."""
    plane = move[:2] / STEP_METRES
    plane = plane / max(float(np.abs(plane).max()), 1.0)
    return np.array([*plane, np.clip(move[2] / STEP_METRES, -1.0, 1.0)], np.float32)
