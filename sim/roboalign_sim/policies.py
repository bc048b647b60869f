"""Scripted behaviour on the table-top. Every policy is deterministic under the seed that its reset gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError
from roboalign_sim.failures import Incomplete, NoContact, WrongDirection, WrongObject
from roboalign_sim.motions import Action, Vector, behind_and_push, is_done, scaled, towards
from roboalign_sim.scene import FINGER_XY_LIMIT, OBJECT_LIMIT, OBJECTS
from roboalign_sim.tabletop import STEP_METRES
from roboalign_sim.tasks import INSTRUCTIONS, State


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
        if is_done(info["instruction"], self._start, state):
            return np.zeros(3, np.float32)
        return scaled(towards(info["instruction"], state))


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
        elif is_done(self._goal, self._start, state):
            self._goal, self._start = self._any_instruction(), state
        self._drift = 0.7 * self._drift + self._rng.normal(0.0, 0.7 * self._scale, 3)
        move = np.array(scaled(towards(self._goal, state)), np.float64)
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
        pushing, move = behind_and_push(state, push.target, push.direction, push.offset, push.speed, push.straight)
        if pushing:
            self._left -= 1
            self._tried -= 1
        if pushing and self._left == 0 and self._rng.random() < 0.3:
            self._leaving, self._leave = int(self._rng.integers(1, 4)), self._rng.uniform(-1.0, 1.0, 3)
        return self._noised(scaled(move))

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
    "wrong_object": WrongObject,
    "no_contact": NoContact,
    "incomplete": Incomplete,
    "wrong_direction": WrongDirection,
}


def make_policy(name: str) -> Policy:
    """A table-top policy by name.

    Raises:
        RoboAlignError: the name is unknown.
    """
    if name not in POLICIES:
        raise RoboAlignError(f"policy: expected one of {sorted(POLICIES)}, found {name!r}")
    return POLICIES[name]()
