"""Scripted failures on robosuite's Lift, each of one kind; deterministic under the seed that its reset gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from roboalign_sim.robosuite import LiftExpert

_ASIDE = 0.10  # m beside the cube: open fingers reach 6 cm to the side, the cube 3 cm


class Miss(LiftExpert):
    """Goes down beside the cube, closes on nothing, and goes up."""

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        super().reset(seed)
        angle = np.random.default_rng(seed).uniform(-math.pi, math.pi)
        self._aside = _ASIDE * np.array([math.cos(angle), math.sin(angle), 0.0, 0.0])

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """The next action."""
        state = {**info["state"], "cube": info["state"]["cube"] + self._aside}
        return super().act(observation, {**info, "state": state})


class Drop(LiftExpert):
    """Lifts the cube a little, then opens the gripper and holds still."""

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """The next action."""
        if self._lifted:
            return np.array([0.0, 0.0, 0.0, -1.0], np.float32)
        return super().act(observation, info)
