"""Meta-World as iVideoGPT records it: archives in a folder named by the task.

``observation`` (T, 9, 64, 64) uint8 holds three frames each, the newest last. ``action[t]`` (T, 4) LED TO
``observation[t]``; here it is moved one row up, so that it leads to the next frame. Commands beyond [-1, 1] are
clipped, as the simulator clips them. ``reward`` (T, 1) is kept as an extra.
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

FPS = 40.0  # the simulator steps at 80 Hz, an action holds for two steps
CAMERA = "corner"
_STACKED = 3

_ACTION = ActionMeaning(
    (
        *(ActionColumn(name, "of the largest step", ActionKind.DELTA) for name in ("dx", "dy", "dz")),
        ActionColumn("gripper", "-1 opening, 1 closing", ActionKind.ABSOLUTE),
    )
)
_FORMS = {
    "observation": ArrayForm(("T", 3 * _STACKED, "H", "W"), "uint8"),
    "action": ArrayForm(("T", len(_ACTION.columns)), "float32"),
    "reward": ArrayForm(("T", 1), "float32"),
}


@dataclass(frozen=True)
class MetaworldReader:
    """Reads folders of archives, also in folders below. The instruction is the task's name in words."""

    name: str = "metaworld"

    def detect(self, path: Path) -> bool:
        """Whether there is an archive with observations, actions and rewards."""
        return any(array_names(file) >= _FORMS.keys() for file in files_below(path, "*.npz"))

    def recordings(self, path: Path) -> Iterator[Recording]:
        """One recording for each archive."""
        for file in sorted(files_below(path, "*.npz")):
            yield Recording(str(file), CAMERA, _ACTION, partial(self._read, file))

    def _read(self, file: Path) -> Episode:
        arrays = read_arrays(file, _FORMS)
        actions = np.zeros_like(arrays["action"])
        actions[:-1] = arrays["action"][1:].clip(-1, 1)
        return Episode(
            frames=np.ascontiguousarray(arrays["observation"][:, -3:].transpose(0, 2, 3, 1)),
            actions=actions,
            instruction=file.resolve().parent.name.replace("-", " "),
            success=None,
            fps=FPS,
            source=self.name,
            camera=CAMERA,
            extras={"reward": arrays["reward"]},
        )
