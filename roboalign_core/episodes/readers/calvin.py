"""CALVIN's folders of frames: ``episode_0000000.npz`` and so on, one file a frame, recorded at 30 Hz.

A file holds ``rgb_static`` (200, 200, 3) and ``rgb_gripper`` (84, 84, 3) uint8, ``rel_actions`` (7), ``actions`` (7),
``robot_obs`` (15) and ``scene_obs`` (24). ``rel_actions[t]`` is the commanded pose at frame t minus the measured one,
position × 50 (m) and Euler angles × 20 (rad), both clipped to [-1, 1] by the source, and the gripper, -1 to close and
1 to open; so it leads to frame t+1. (https://github.com/mees/calvin/blob/main/dataset/README.md)

Play was recorded for hours. ``lang_annotations/auto_lang_ann.npy`` names the stretches in which the simulator saw a
task solved, and instructions for them: these become the episodes. Without that file the stretches of
``ep_start_end_ids.npy`` do. Both name the last frame, too. Annotations are a pickle; see `pickles` for how it is read.
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
from roboalign_core.episodes.readers.archives import ArrayForm, array_names, read_array, read_arrays
from roboalign_core.episodes.readers.base import MOST_BYTES, ActionColumn, ActionKind, ActionMeaning, Recording
from roboalign_core.episodes.readers.folders import files_below
from roboalign_core.episodes.readers.pickles import contents, read_object, whole_number
from roboalign_core.errors import RoboAlignError

FPS = 30.0
CAMERAS = ("static", "gripper")
STRETCHES = "ep_start_end_ids.npy"
ANNOTATIONS = "lang_annotations/auto_lang_ann.npy"

_ACTION = ActionMeaning(
    (
        *(ActionColumn(name, "m x 50", ActionKind.DELTA) for name in ("dx", "dy", "dz")),
        *(ActionColumn(name, "rad x 20", ActionKind.DELTA) for name in ("droll", "dpitch", "dyaw")),
        ActionColumn("gripper", "-1 closed, 1 open", ActionKind.ABSOLUTE),
    )
)
_ACTIONS = "rel_actions"
_EXTRAS = {"robot_obs": "observation.state", "scene_obs": "observation.environment_state", "actions": "action.absolute"}
_WIDTHS = {_ACTIONS: 7, "robot_obs": 15, "scene_obs": 24, "actions": 7}
_LAST = 10**7 - 1  # names of files have seven digits


@dataclass(frozen=True)
class _Stretch:
    """Frames ``first`` to ``last``, both included, in which ``instruction`` was followed (or nothing is known)."""

    first: int
    last: int
    instruction: str


@dataclass(frozen=True)
class CalvinReader:
    """Reads folders of frames, also in folders below; both cameras of a stretch are episodes of their own."""

    name: str = "calvin"

    def detect(self, path: Path) -> bool:
        """Whether there is a list of stretches."""
        return any(True for _ in _folders(path))

    def recordings(self, path: Path) -> Iterator[Recording]:
        """One recording for each stretch and camera, in the order of the list."""
        for folder in sorted(set(_folders(path))):
            stretches = _stretches(folder)
            names = array_names(_file(folder, stretches[0].first)) if stretches else frozenset()
            cameras = [camera for camera in CAMERAS if f"rgb_{camera}" in names] or CAMERAS[:1]
            for number, stretch in enumerate(stretches):
                for camera in cameras:
                    name = f"{folder}: stretch {number}, frames {stretch.first} to {stretch.last}, {camera}"
                    yield Recording(name, camera, _ACTION, partial(self._read, folder, stretch, camera))

    def _read(self, folder: Path, stretch: _Stretch, camera: str) -> Episode:
        image = f"rgb_{camera}"
        forms = {key: ArrayForm((width,), "float32 or float64") for key, width in _WIDTHS.items()}
        forms[image] = ArrayForm(("H", "W", 3), "uint8")
        length = stretch.last - stretch.first + 1
        shape = read_arrays(_file(folder, stretch.first), {image: forms[image]})[image].shape
        forms[image] = ArrayForm(shape, "uint8")
        frames = _empty(folder, stretch, length, shape)
        columns = {key: np.empty((length, width), np.float32) for key, width in _WIDTHS.items()}
        for row in range(length):
            arrays = read_arrays(_file(folder, stretch.first + row), forms)
            frames[row] = arrays.pop(image)
            for key, values in arrays.items():
                columns[key][row] = values
        return Episode(
            frames=frames,
            actions=columns[_ACTIONS],
            instruction=stretch.instruction,
            success=None,
            fps=FPS,
            source=self.name,
            camera=camera,
            extras={name: columns[key] for key, name in _EXTRAS.items()},
        )


def _folders(path: Path) -> Iterator[Path]:
    for file in files_below(path, "*.npy"):
        if file.name == STRETCHES:
            yield file.parent
        elif file.name == Path(ANNOTATIONS).name and file.parent.name == Path(ANNOTATIONS).parent.name:
            yield file.parent.parent


def _file(folder: Path, number: int) -> Path:
    return folder / f"episode_{number:07d}.npz"


def _stretches(folder: Path) -> list[_Stretch]:
    annotations = folder / ANNOTATIONS
    if annotations.is_file():
        return _annotated(annotations)
    path = folder / STRETCHES
    rows = read_array(path, ArrayForm(("N", 2), "int64 or int32"))
    return [_stretch(f"{path}: row {number}", first, last, "") for number, (first, last) in enumerate(rows.tolist())]


def _annotated(path: Path) -> list[_Stretch]:
    value = read_object(path)
    try:
        limits = [_pair(pair) for pair in contents(_part(value, "info", "indx"))]
        texts = contents(_part(value, "language", "ann"))
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("an instruction that is no text")
        stretches = [(*pair, text) for pair, text in zip(limits, texts, strict=True)]
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        raise RoboAlignError(
            f"{path}: expected as many instructions (language, ann) as pairs of frames (info, indx), found: {error}"
        ) from error
    return [_stretch(f"{path}: annotation {number}", *stretch) for number, stretch in enumerate(stretches)]


def _pair(value: Any) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)):  # an array could be the same large one in every place
        raise ValueError(f"a {type(value).__name__} in place of a pair")
    first, last = value
    return whole_number(first), whole_number(last)


def _part(value: Any, *keys: str) -> Any:
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise ValueError(f"no {key}")
        value = value[key]
    return value


def _stretch(where: str, first: int, last: int, instruction: str) -> _Stretch:
    if not 0 <= first < last <= _LAST:
        raise RoboAlignError(f"{where}: expected a first and a later last frame up to {_LAST}, found {first}, {last}")
    return _Stretch(first, last, instruction.strip())


def _empty(folder: Path, stretch: _Stretch, length: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    most = MOST_BYTES // max(1, int(np.prod(shape)))
    if length > most:
        raise RoboAlignError(
            f"{folder}: frames {stretch.first} to {stretch.last}: expected at most {most} frames of this size in an "
            f"episode, found {length}; with {ANNOTATIONS} episodes are short"
        )
    return np.empty((length, *shape), np.uint8)
