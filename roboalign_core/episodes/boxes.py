"""Bounding boxes: where in an image the robot and the objects are seen.

A store keeps them as the per-frame extra ``observation.boxes``: for each name four columns, fractions of the image's
width and height from its upper left corner. What is not seen has a box of zeros. The robot's box is the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.errors import RoboAlignError

BOXES = "observation.boxes"
SIDES = ("left", "top", "right", "bottom")


def box_columns(names: Sequence[str]) -> tuple[str, ...]:
    """Column names of the boxes of ``names``."""
    return tuple(f"{name}.{side}" for name in names for side in SIDES)


def boxes_of(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float32]:
    """Boolean images (H, W), one for each name → one row (4 · names,) float32."""
    return np.concatenate([_box(mask) for mask in masks]).astype(np.float32)


def region(
    boxes: NDArray[np.floating[Any]], columns: Sequence[str], names: Sequence[str], size: tuple[int, int]
) -> NDArray[np.bool_]:
    """The pixels whose centre lies in the box of one of ``names``.

    Args:
        boxes: (..., K), rows as recorded.
        columns: names of the K columns.
        names: whose boxes.
        size: (H, W) of the frames.

    Returns:
        bool (..., H, W).

    Raises:
        RoboAlignError: no box of that name.
    """
    height, width = size
    across, down = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    found = np.zeros((*boxes.shape[:-1], height, width), bool)
    for name in names:
        missing = [column for column in box_columns([name]) if column not in columns]
        if missing:
            known = sorted({column.rsplit(".", 1)[0] for column in columns})
            raise RoboAlignError(f"boxes: expected one of {', '.join(known) or 'none'}, found {name!r}")
        left, top, right, bottom = (boxes[..., list(columns).index(column), None] for column in box_columns([name]))
        inside_x, inside_y = (left <= across) & (across < right), (top <= down) & (down < bottom)
        found |= inside_y[..., :, None] & inside_x[..., None, :]
    return found


def _box(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not mask.any():
        return np.zeros(4)
    (rows,), (columns,) = np.nonzero(mask.any(1)), np.nonzero(mask.any(0))
    height, width = mask.shape
    return np.array([columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height])
