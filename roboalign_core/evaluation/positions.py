"""Errors in centimetres: where the state probe sees things in frames, against where they were recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.probe import StateProbe

Array = NDArray[np.float64]
CENTIMETRES = 100.0


def check_columns(names: Sequence[str], groups: Mapping[str, Sequence[str]], recorded: Sequence[str]) -> None:
    """Raise unless the store's ``recorded`` columns are the probe's ``names``, and every group's are among them."""
    if list(recorded) != list(names):
        raise RoboAlignError(
            f"study.data: expected the state columns that the probe reads ({', '.join(names)}), "
            f"found {', '.join(recorded) or 'none'}"
        )
    for group, columns in groups.items():
        for column in columns:
            if column not in names:
                raise RoboAlignError(f"study.{group}: expected columns among {', '.join(names)}, found {column!r}")


def read_states(probe: StateProbe, frames: NDArray[np.uint8]) -> Array:
    """Frames (E, T, H, W, 3) → states (E, T, K) as the probe reads them, in the columns' units."""
    flat = probe.read(frames.reshape(-1, *frames.shape[2:]))
    return flat.reshape(*frames.shape[:2], -1).astype(np.float64)


def distance_cm(state: Array, truth: Array, names: Sequence[str], columns: Sequence[str]) -> Array:
    """Distance (E, T) in centimetres between states (E, T, K) in ``columns``, which are in metres."""
    index = [list(names).index(column) for column in columns]
    return np.linalg.norm(state[..., index] - truth[..., index], axis=-1) * CENTIMETRES


def has_moved(truth: Array, names: Sequence[str], columns: Sequence[str], moved: float) -> NDArray[np.bool_]:
    """Whether an object is further than ``moved`` metres from where it was in the first frame.

    Args:
        truth: (E, T + 1, K), the first frame included.
        names: of the K columns.
        columns: of the object, metres.
        moved: metres.

    Returns:
        (E, T) bool, of the frames after the first.
    """
    index = [list(names).index(column) for column in columns]
    return np.asarray(np.linalg.norm(truth[:, 1:, index] - truth[:, :1, index], axis=-1) > moved)


def moved_error_cm(
    state: Array, truth: Array, names: Sequence[str], objects: Mapping[str, Sequence[str]], moved: float
) -> Array:
    """Mean distance (E, T) in centimetres over the objects that have moved further than ``moved`` metres by then.

    Args:
        state: (E, T, K), of the frames after the first.
        truth: (E, T + 1, K), the first frame included.
        names: of the K columns.
        objects: columns of each object, metres.
        moved: metres.

    Returns:
        NaN where no object has moved.
    """
    total = np.zeros(state.shape[:2])
    count = np.zeros(state.shape[:2])
    for columns in objects.values():
        far = has_moved(truth, names, columns, moved)
        total += np.where(far, distance_cm(state, truth[:, 1:], names, columns), 0)
        count += far
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan)
