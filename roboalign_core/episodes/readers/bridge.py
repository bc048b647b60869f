"""BridgeData V2 as WorldGym prepares it: ``N.mp4`` beside ``N.npz`` with ``arr_0`` (T, 10) float32.

WorldGym maps the actions to the ranges of RT-1: position steps of +-0.05 m to +-1.75, rotation steps of +-0.25 rad to
+-1.4 (both clipped just inside), the gripper to -1 open and +1 closed, and appends the motion of a base, which this
robot does not have. The values stay as they are. Row t belongs to frame t and leads to frame t+1; the robot follows
about one frame late. The first row of an episode is zero in the original data too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers.archives import ArrayForm, read_arrays
from roboalign_core.episodes.readers.base import ActionColumn, ActionKind, ActionMeaning, Recording
from roboalign_core.episodes.readers.folders import files_below
from roboalign_core.episodes.video import read_all

# BridgeData V2 was recorded at 5 Hz; the 20 frames per second in the files only set the speed at which they play.
FPS = 5.0
CAMERA = "front"
_KEY = "arr_0"

_ACTION = ActionMeaning(
    (
        *(ActionColumn(name, "m x 35", ActionKind.DELTA) for name in ("dx", "dy", "dz")),
        *(ActionColumn(name, "rad x 5.6", ActionKind.DELTA) for name in ("droll", "dpitch", "dyaw")),
        ActionColumn("gripper", "-1 open, 1 closed", ActionKind.ABSOLUTE),
        *(ActionColumn(name, "m", ActionKind.UNUSED) for name in ("base_dx", "base_dy")),
        ActionColumn("base_dyaw", "rad", ActionKind.UNUSED),
    )
)


@dataclass(frozen=True)
class BridgeReader:
    """Reads folders of pairs ``N.mp4`` and ``N.npz``, also in folders below. There are no instructions."""

    name: str = "bridge"

    def detect(self, path: Path) -> bool:
        """Whether there is at least one pair."""
        return any(file.with_suffix(".mp4").is_file() for file in files_below(path, "*.npz"))

    def recordings(self, path: Path) -> Iterator[Recording]:
        """One recording for each name; a file without its partner is a damaged one."""
        stems = {file.with_suffix("") for file in files_below(path, "*.npz", "*.mp4")}
        for stem in sorted(stems):
            yield Recording(str(stem), CAMERA, _ACTION, partial(self._read, stem))

    def _read(self, stem: Path) -> Episode:
        width = len(_ACTION.columns)
        actions = read_arrays(stem.parent / f"{stem.name}.npz", {_KEY: ArrayForm(("T", width), "float32")})[_KEY]
        frames = read_all(stem.parent / f"{stem.name}.mp4", len(actions), f"one per row of {stem.name}.npz")
        return Episode(frames, actions, instruction="", success=None, fps=FPS, source=self.name, camera=CAMERA)
