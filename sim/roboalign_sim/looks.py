"""How the table-top looks to its camera, where that is not what policies and models are trained on.

The scene and its tasks stay the same: what is learned from one look can be tried under another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError
from roboalign_sim import scene
from roboalign_sim.rendering import mujoco

_MOST_DEGREES = 90.0


@dataclass
class Looks:
    """What differs from the standard look; the defaults are that look.

    Attributes:
        colours: a scheme of ``scene.COLOURS``; instructions name the objects accordingly.
        camera_shift: metres by which a reset moves the camera along each axis of the world, drawn from
            [-``camera_shift``, ``camera_shift``].
        camera_turn: degrees by which it then turns the camera about each of its own axes, drawn alike.
    """

    colours: str = "standard"
    camera_shift: float = 0.0
    camera_turn: float = 0.0

    def __post_init__(self) -> None:
        if self.colours not in scene.COLOURS:
            known = ", ".join(scene.COLOURS)
            raise RoboAlignError(f"looks.colours: expected one of {known}, found {self.colours!r}")
        if not 0 <= self.camera_shift < math.inf:
            raise RoboAlignError(f"looks.camera_shift: expected 0 metres or more, found {self.camera_shift}")
        if not 0 <= self.camera_turn <= _MOST_DEGREES:
            raise RoboAlignError(
                f"looks.camera_turn: expected 0 to {_MOST_DEGREES:g} degrees, found {self.camera_turn}"
            )

    @property
    def moves_camera(self) -> bool:
        """Whether every episode is seen from a place of its own."""
        return self.camera_shift > 0 or self.camera_turn > 0


def source_of(colours: str) -> str:
    """What episodes under a scheme of colours carry as ``source``: their oracle knows other instructions."""
    return "tabletop" if colours == "standard" else f"tabletop_{colours}"


def moved_camera(pose: npt.NDArray[np.float64], looks: Looks, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A camera's pose (7,), position in metres and unit quaternion w, x, y, z, after the move that ``looks`` asks for.

    Draws nothing where ``looks`` leaves the camera in its place.
    """
    if not looks.moves_camera:
        return pose
    shift = rng.uniform(-looks.camera_shift, looks.camera_shift, 3)
    turn = np.radians(rng.uniform(-looks.camera_turn, looks.camera_turn, 3))
    angle = float(np.linalg.norm(turn))
    rotation, turned = np.empty(4), np.empty(4)
    mujoco.mju_axisAngle2Quat(rotation, turn / max(angle, 1e-12), angle)
    mujoco.mju_mulQuat(turned, pose[3:], rotation)
    return np.concatenate([pose[:3] + shift, turned])
