"""Gaps in metres between round tips, boxes and cylinders that stand on a table; negative where they overlap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from roboalign_sim import scene

Array = npt.NDArray[np.float64]
_SAMPLES = np.linspace(0.0, 1.0, 9)  # between two frames; a tip moves at most 4 mm from one to the next


def to_box(points: Array, places: Array, half: tuple[float, float, float]) -> Array:
    """From points (N, 3) to the surface of boxes at places (N, 4), x, y, z, yaw: (N,)."""
    way, yaw = points - places[:, :3], places[:, 3]
    c, s = np.cos(yaw), np.sin(yaw)
    turned = np.stack([c * way[:, 0] + s * way[:, 1], c * way[:, 1] - s * way[:, 0], way[:, 2]], axis=1)
    return _outside(np.abs(turned) - half)


def to_cylinder(points: Array, places: Array, radius: float, half_height: float) -> Array:
    """From points (N, 3) to the surface of upright cylinders at places (N, 4): (N,)."""
    way = points - places[:, :3]
    return _outside(np.stack([np.hypot(way[:, 0], way[:, 1]) - radius, np.abs(way[:, 2]) - half_height], axis=1))


def tip_to_object(name: str, tips: Array, places: Array) -> Array:
    """From the surface of the table-top's tip at (N, 3) to that of an object at (N, 4): (N,)."""
    if name == "red_cube":
        half = (scene.OBJECT_HALF, scene.OBJECT_HALF, scene.CUBE_HEIGHT / 2)
        return to_box(tips, places, half) - scene.FINGER_RADIUS
    return to_cylinder(tips, places, scene.OBJECT_HALF, scene.CYLINDER_HEIGHT / 2) - scene.FINGER_RADIUS


def cube_to_cylinder(cubes: Array, cylinders: Array) -> Array:
    """From the surface of the table-top's cube to that of its cylinder, across the table: (N,)."""
    level = np.column_stack([cylinders[:, :2], cubes[:, 2]])
    return to_box(level, cubes, (scene.OBJECT_HALF, scene.OBJECT_HALF, np.inf)) - scene.OBJECT_HALF


def swept(gap: Callable[[Array, Array], Array], first: Array, second: Array) -> Array:
    """The smallest gap between two things on straight ways from each of T frames to the next: (T - 1,).

    Args:
        gap: from (N, .) and (N, .) to (N,).
        first: (T, .) places of the one; a fourth column is a yaw, which turns the short way.
        second: of the other.
    """
    gaps = [gap(_between(first, share), _between(second, share)) for share in _SAMPLES]
    lowest: Array = np.min(gaps, axis=0)
    return lowest


def _between(places: Array, share: float) -> Array:
    step = np.diff(places, axis=0)
    if places.shape[1] > 3:
        step[:, 3] = np.remainder(step[:, 3] + np.pi, 2 * np.pi) - np.pi
    return np.asarray(places[:-1] + share * step)


def _outside(excess: Array) -> Array:
    """Distance from how far a point is past a convex shape's half sizes, along each of its axes (N, .): (N,)."""
    return np.asarray(np.linalg.norm(np.maximum(excess, 0.0), axis=1) + np.minimum(excess.max(axis=1), 0.0))
