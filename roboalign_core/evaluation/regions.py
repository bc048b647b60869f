"""Metrics on what matters: the pixels of the robot and of the objects, and whether the robot is drawn at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes.boxes import box_columns, region
from roboalign_core.evaluation.held_out import HeldOut
from roboalign_core.evaluation.metrics import unit_images
from roboalign_core.evaluation.positions import Array, has_moved

LOST = 0.5  # of the error that leaving it out would make
VISIBLE = 0.15  # difference of a channel from the background, in [0, 1], above which a pixel stands out


def masks(data: HeldOut, regions: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.bool_]]:
    """(E, T, H, W) bool by region, for the frames after the first; empty where the store records no boxes.

    Raises:
        RoboAlignError: a region names something that has no box.
    """
    if not data.box_columns:
        return {}
    size = (data.frames.shape[2], data.frames.shape[3])
    return {name: region(data.boxes[:, 1:], data.box_columns, parts, size) for name, parts in regions.items()}


def moved_objects(data: HeldOut, objects: Mapping[str, Sequence[str]], moved: float) -> NDArray[np.bool_]:
    """(E, T, H, W) bool: the boxes of objects that are further than ``moved`` metres from where they were at first.

    What rests is copied from the first frame, pixel by pixel: a mean over it says nothing about what was pushed.

    Args:
        data: the episodes, with boxes and states.
        objects: state columns of each object, in metres; those without a box are left out.
        moved: metres.
    """
    size = (data.frames.shape[2], data.frames.shape[3])
    found = np.zeros((*data.boxes[:, 1:].shape[:2], *size), bool)
    for name, columns in objects.items():
        if name not in without_box(data, objects):
            far = has_moved(data.state.astype(np.float64), data.columns, columns, moved)
            found |= region(data.boxes[:, 1:], data.box_columns, [name], size) & far[..., None, None]
    return found


def without_box(data: HeldOut, objects: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of the objects that the store records no box of."""
    return [name for name in objects if not set(box_columns([name])) <= set(data.box_columns)]


def lost(drawn: NDArray[np.uint8], real: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Array:
    """Whether what moves in a region is missing from drawn frames: 1 or 0.

    The background is the median of the real frames over time. Of the region's pixels those count that stand out from
    it; the region is lost where their squared error is more than half of the background's.

    Args:
        drawn: (E, T, H, W, 3) uint8.
        real: the same shape.
        mask: (E, T, H, W) bool.

    Returns:
        (E, T) float64; NaN where nothing in the region stands out: it is not seen, or at rest all the time.

    Raises:
        RoboAlignError: frames that are no images.
    """
    truth = unit_images(real)
    background = np.median(truth, axis=1, keepdims=True)
    mask = mask & (np.abs(truth - background) > VISIBLE).any(-1)
    error = _sum_in(np.square(unit_images(drawn) - truth), mask)
    without = _sum_in(np.square(background - truth), mask)
    return np.where(without > 0, (error > LOST * without).astype(np.float64), np.nan)


def _sum_in(values: Array, mask: NDArray[np.bool_]) -> Array:
    return np.asarray((values.sum(-1) * mask).sum((-2, -1)), np.float64)
