"""Single images and action files that a user hands in."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roboalign_core.errors import RoboAlignError


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """An 8-bit RGB image as (H, W, 3) uint8.

    Raises:
        RoboAlignError: the file is absent or no image, or its pixels are not 8-bit RGB (grey, palette, alpha, 16 bit).
    """
    if not Path(path).is_file():
        raise RoboAlignError(f"{path}: expected an image file, found nothing there")
    try:
        with Image.open(path) as image:
            if image.mode != "RGB":
                raise RoboAlignError(f"{path}: expected 8-bit RGB pixels, found mode {image.mode}")
            return np.asarray(image).copy()
    except RoboAlignError:
        raise
    except Exception as error:  # what was damaged decides
        raise RoboAlignError(f"{path}: expected a whole image file, found: {error}") from error


def read_actions(path: str | os.PathLike[str], width: int) -> NDArray[np.float32]:
    """Actions (T, A) of an ``.npy`` file.

    Raises:
        RoboAlignError: the file is absent, no plain array, of another width than ``width``, or not finite.
    """
    if not Path(path).is_file():
        raise RoboAlignError(f"{path}: expected an .npy file of actions, found nothing there")
    try:
        actions = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise RoboAlignError(f"{path}: expected an .npy file without pickled objects, found: {error}") from error
    shape = getattr(actions, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] < 1 or shape[1] != width or actions.dtype.kind not in "fiu":
        found = f"{shape} {actions.dtype}" if shape is not None else "an archive"
        raise RoboAlignError(f"{path}: expected numbers (frames, {width}), found {found}")
    if not np.isfinite(actions).all():
        raise RoboAlignError(f"{path}: expected finite actions, found NaN or infinity")
    return actions.astype(np.float32)
