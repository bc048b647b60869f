"""RT-1 (fractal20220817) as iVideoGPT prepares clips for prediction without actions: archives with ``image`` alone.

``image`` is (T, 256, 320, 3) uint8. There are no actions and no instructions: what such clips are good for is judging
videos and training a tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers.archives import ArrayForm, array_names, read_arrays
from roboalign_core.episodes.readers.base import ActionColumn, ActionKind, ActionMeaning, Recording
from roboalign_core.episodes.readers.folders import files_below

FPS = 3.0  # of the robot's control (Brohan et al. 2022, arXiv 2212.06817)
CAMERA = "head"

_ACTION = ActionMeaning((ActionColumn("none", "not recorded", ActionKind.UNUSED),))
_FORMS = {"image": ArrayForm(("T", "H", "W", 3), "uint8")}


@dataclass(frozen=True)
class Rt1Reader:
    """Reads folders of archives, also in folders below."""

    name: str = "rt1"

    def detect(self, path: Path) -> bool:
        """Whether there is an archive with images and nothing else."""
        return any(array_names(file) == _FORMS.keys() for file in files_below(path, "*.npz"))

    def recordings(self, path: Path) -> Iterator[Recording]:
        """One recording for each archive."""
        for file in sorted(files_below(path, "*.npz")):
            yield Recording(str(file), CAMERA, _ACTION, partial(self._read, file))

    def _read(self, file: Path) -> Episode:
        frames = read_arrays(file, _FORMS)["image"]
        actions = np.zeros((len(frames), len(_ACTION.columns)), np.float32)
        return Episode(frames, actions, instruction="", success=None, fps=FPS, source=self.name, camera=CAMERA)
