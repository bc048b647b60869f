"""BAIR robot pushing as iVideoGPT prepares it: archives with ``image``, ``aux1_image`` and ``action``.

Two cameras look at a table with things that a Sawyer arm pushes at random. Images are (T, 64, 64, 3) int64, 0 to 255;
actions (T, 4) are commands that hold for two frames: a step of the gripper in the plane of the table, and for how many
steps it is lifted and closed. Row t belongs to frame t and leads to frame t+1. There are no instructions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers.archives import ArrayForm, array_names, read_arrays
from roboalign_core.episodes.readers.base import ActionColumn, ActionKind, ActionMeaning, Recording
from roboalign_core.episodes.readers.folders import files_below
from roboalign_core.errors import RoboAlignError

FPS = 2.0  # nominal: the files do not say
CAMERAS = {"image": "main", "aux1_image": "aux1"}

_IMAGES = ArrayForm(("T", "H", "W", 3), "int64")
_ACTION = ActionMeaning(
    (
        *(ActionColumn(name, "m", ActionKind.DELTA) for name in ("dx", "dy")),
        *(ActionColumn(name, "steps", ActionKind.ABSOLUTE) for name in ("lift", "close")),
    )
)


@dataclass(frozen=True)
class BairReader:
    """Reads folders of archives, also in folders below; every camera is an episode of its own."""

    name: str = "bair"

    def detect(self, path: Path) -> bool:
        """Whether there is an archive with both cameras and actions."""
        return any(_fits(file) for file in files_below(path, "*.npz"))

    def recordings(self, path: Path) -> Iterator[Recording]:
        """Two recordings for each archive."""
        for file in sorted(files_below(path, "*.npz")):
            for key, camera in CAMERAS.items():
                yield Recording(f"{file}: {key}", camera, _ACTION, partial(self._read, file, key))

    def _read(self, file: Path, key: str) -> Episode:
        width = len(_ACTION.columns)
        arrays = read_arrays(file, {key: _IMAGES, "action": ArrayForm(("T", width), "float64")})
        return Episode(
            frames=_bytes(file, key, arrays[key]),
            actions=arrays["action"].astype(np.float32),
            instruction="",
            success=None,
            fps=FPS,
            source=self.name,
            camera=CAMERAS[key],
        )


def _fits(file: Path) -> bool:
    return array_names(file) >= {*CAMERAS, "action"}


def _bytes(file: Path, key: str, images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.size and (images.min() < 0 or images.max() > 255):
        raise RoboAlignError(f"{file}: {key}: expected 0 to 255, found {images.min()} to {images.max()}")
    return images.astype(np.uint8)
