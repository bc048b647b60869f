"""The border check of actions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError


def checked_action(action: object, width: int) -> npt.NDArray[np.float64]:
    """An action as (width,) float64.

    Raises:
        RoboAlignError: it is not an array of floats of this width, all finite and in [-1, 1].
    """
    array = np.asarray(action)
    if array.dtype.kind != "f":
        raise RoboAlignError(f"action: expected floats, found dtype {array.dtype}")
    if array.shape != (width,):
        raise RoboAlignError(f"action: expected shape ({width},), found {array.shape}")
    if not np.isfinite(array).all():
        raise RoboAlignError(f"action: expected finite numbers, found {array.tolist()}")
    if np.abs(array).max() > 1.0 + 1e-6:
        raise RoboAlignError(f"action: expected values in [-1, 1], found {array.tolist()}")
    return np.clip(array.astype(np.float64), -1.0, 1.0)
