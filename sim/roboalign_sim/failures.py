"""Scripted failures on the table-top, each of one kind, so that a score can be tested on what it should tell apart.

Every one is deterministic under the seed that its reset gets, and stands still once it has done what it does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from roboalign_sim.motions import HIGH_Z, PUSH_Z, Action, Vector, behind_and_push, is_done, scaled, touch, towards
from roboalign_sim.scene import FINGER_XY_LIMIT, OBJECT_LIMIT, OBJECTS, ZONE_RADIUS
from roboalign_sim.tabletop import STEP_METRES
from roboalign_sim.tasks import (
    DIRECTIONS,
    PUSH_DISTANCE,
    State,
    Task,
    contact_distance,
    push_direction,
    surface_gap,
    task_of,
    with_other_object,
)

_PUSH_WAY = 0.06  # m that a wrong push, or one that touches nothing, is meant to go
_CLEAR = 0.070  # m from an object's centre at which a low tip is sure not to touch it (5.5 cm at a corner)
_SHORT = 0.020  # m from the surface: no reach that stops half-way comes nearer, so that none succeeds
_ARRIVED = 0.004  # m


def other_object(target: str) -> str:
    """The object that an instruction does not mean."""
    return next(name for name in OBJECTS if name != target)


class WrongObject:
    """Does with the other object what the instruction asks for."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._start: State | None = None

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> Action:
        """The next action."""
        state = info["state"]
        self._start = self._start or state
        goal = with_other_object(task_of(info["instruction"])).instruction
        return _still() if is_done(goal, self._start, state) else scaled(towards(goal, state))


class WrongDirection:
    """Pushes the object that is meant another way, at least 90 degrees off; asked to reach it, goes away from it."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._rng = np.random.default_rng(seed)
        self._start: State | None = None

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> Action:
        """The next action."""
        state, task = info["state"], task_of(info["instruction"])
        if self._start is None:
            self._start, self._direction = state, self._draw(task, state)
        ux, uy = self._direction
        if task.kind == "reach":
            left = FINGER_XY_LIMIT - np.abs(state["finger"][:2] + STEP_METRES * np.array(self._direction)).max()
            return _still() if left < 0 else scaled(STEP_METRES * np.array([ux, uy, 0.0]))
        moved = (state[task.target] - self._start[task.target])[:2] @ np.array(self._direction)
        if moved > _PUSH_WAY:
            return _still()
        return scaled(behind_and_push(state, task.target, self._direction)[1])

    def _draw(self, task: Task, state: State) -> Vector:
        if task.kind == "reach":
            x, y = (float(v) for v in state["finger"][:2] - state[task.target][:2])
            return (x / math.hypot(x, y), y / math.hypot(x, y))
        asked = np.array(push_direction(task, state))
        wrong = [way for way in DIRECTIONS.values() if float(asked @ np.array(way)) < 0.05]
        place, other = state[task.target][:2], state[other_object(task.target)][:2]
        free = [way for way in wrong if _is_free(place, way, other)]
        choices = free or wrong
        return choices[int(self._rng.integers(len(choices)))]


class Incomplete:
    """Begins what the instruction asks for and stops half-way."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._share = float(np.random.default_rng(seed).uniform(0.4, 0.7))
        self._start: State | None = None

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> Action:
        """The next action."""
        state, task = info["state"], task_of(info["instruction"])
        self._start = self._start or state
        left = self._left(task, self._start, state)
        if left < 0.002:
            return _still()
        if task.kind == "reach":
            move = touch(state, task.target)
            plane = float(np.linalg.norm(move[:2]))
            return scaled(move * np.array([*(2 * [min(left / max(plane, 1e-9), 1.0)]), 1.0]))
        direction, speed = push_direction(task, state), min(left / STEP_METRES, 1.0)
        return scaled(behind_and_push(state, task.target, direction, speed=speed)[1])

    def _left(self, task: Task, start: State, state: State) -> float:
        """Metres that are left to where it stops."""
        target = task.target
        if task.kind == "reach":
            first = surface_gap(start, target)
            return surface_gap(state, target) - max((1 - self._share) * first, _SHORT)
        if task.direction is not None:
            moved = (state[target] - start[target])[:2] @ np.array(task.direction)
            return self._share * PUSH_DISTANCE - float(moved)
        first, now = (float(np.linalg.norm(at[target][:2] - at["zone"])) for at in (start, state))
        return self._share * (first - ZONE_RADIUS) - (first - now)


class NoContact:
    """Goes through the motion above the object or beside it, and touches nothing."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._rng = np.random.default_rng(seed)
        self._way: list[npt.NDArray[np.float64]] | None = None

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> Action:
        """The next action."""
        state = info["state"]
        if self._way is None:
            self._way = self._plan(task_of(info["instruction"]), state)
        finger = state["finger"]
        while self._way and float(np.abs(self._way[0] - finger).max()) < _ARRIVED:
            self._way.pop(0)
        return scaled(self._way[0] - finger) if self._way else _still()

    def _plan(self, task: Task, state: State) -> list[npt.NDArray[np.float64]]:
        """Points to pass: up, over to where the motion begins, on to where it ends."""
        place, up = state[task.target][:2], _at(state["finger"][:2], HIGH_Z)
        if task.kind == "reach":
            return [up, _at(place, HIGH_Z)]
        direction = push_direction(task, state)
        way = _PUSH_WAY if task.direction else float(np.linalg.norm(state["zone"] - place))
        back = contact_distance(state, task.target, direction) + 0.012
        ahead = np.array(direction)
        first, last = place - back * ahead, place + (way - back + 0.012) * ahead
        aside = _CLEAR * np.array([-direction[1], direction[0]]) * self._rng.choice([-1.0, 1.0])
        if self._rng.random() < 0.5 and _is_clear(first + aside, last + aside, state[other_object(task.target)][:2]):
            first, last = first + aside, last + aside
            return [up, _at(first, HIGH_Z), _at(first, PUSH_Z), _at(last, PUSH_Z)]
        return [up, _at(first, HIGH_Z), _at(last, HIGH_Z)]


def _still() -> Action:
    return np.zeros(3, np.float32)


def _at(place: npt.NDArray[np.float64], height: float) -> npt.NDArray[np.float64]:
    return np.array([*np.clip(place, -FINGER_XY_LIMIT, FINGER_XY_LIMIT), height])  # the gantry goes no further


def _is_free(place: npt.NDArray[np.float64], way: Vector, other: npt.NDArray[np.float64]) -> bool:
    """Whether an object can be pushed that way: it stays on the table, the tip fits behind, the other is not there."""
    first, last = place - np.array(way) * 0.055, place + np.array(way) * _PUSH_WAY
    inside = np.abs(first).max() <= FINGER_XY_LIMIT and np.abs(last).max() <= OBJECT_LIMIT
    return bool(inside and _distance(first, last, other) >= _CLEAR)


def _is_clear(first: npt.NDArray[np.float64], last: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> bool:
    """Whether a low tip can go from one place to the other."""
    inside = max(np.abs(first).max(), np.abs(last).max()) <= FINGER_XY_LIMIT
    return bool(inside and _distance(first, last, other) >= _CLEAR)


def _distance(first: npt.NDArray[np.float64], last: npt.NDArray[np.float64], point: npt.NDArray[np.float64]) -> float:
    """Metres between a point and the line from first to last."""
    share = np.clip((point - first) @ (last - first) / np.sum((last - first) ** 2), 0.0, 1.0)
    return float(np.linalg.norm(first + share * (last - first) - point))
