"""robomimic's and LIBERO's HDF5 files: demonstrations in robosuite, several in a file.

``data/demo_N`` holds ``actions`` (T, 7) float, ``rewards`` (T,) where recorded, and under ``obs`` the cameras
(T, H, W, 3) uint8: ``NAME_image`` in robomimic, ``NAME_rgb`` in LIBERO, whose images are stored upside down. Actions
are commands of robosuite's OSC_POSE controller in [-1, 1]: row t belongs to frame t and leads to frame t+1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers.base import MOST_BYTES, ActionColumn, ActionKind, ActionMeaning, Recording
from roboalign_core.episodes.readers.folders import files_below
from roboalign_core.errors import RoboAlignError, require

FPS = 20.0  # robosuite's usual control rate, where the file does not say
SUFFIXES = (".hdf5", ".h5")
_CAMERA = re.compile(r"(.+)_(image|rgb)")
_UPSIDE_DOWN = "rgb"

_ACTION = ActionMeaning(
    (
        *(ActionColumn(name, "m / 0.05", ActionKind.DELTA) for name in ("dx", "dy", "dz")),
        *(ActionColumn(name, "rad / 0.5", ActionKind.DELTA) for name in ("droll", "dpitch", "dyaw")),
        ActionColumn("gripper", "-1 open, 1 closed", ActionKind.ABSOLUTE),
    )
)


@dataclass(frozen=True)
class Hdf5Reader:
    """Reads files, or folders of them; every camera is an episode of its own."""

    name: str = "hdf5"

    def detect(self, path: Path) -> bool:
        """Whether there is a file with the suffix."""
        return any(True for _ in _files(path))

    def recordings(self, path: Path) -> Iterator[Recording]:
        """One recording for each demonstration and camera, in the order of their numbers; one for a damaged file."""
        require("h5py", "hdf5")  # a package that is absent is no damage
        for file in sorted(_files(path)):
            try:
                found = _listed(file)
            except RoboAlignError as error:  # raised when it is loaded, where one damaged file does not stop the others
                yield Recording(str(file), None, _ACTION, partial(_refused, error))
                continue
            for demo, key in found:
                camera = _CAMERA.fullmatch(key)
                name = camera[1] if camera else key
                yield Recording(f"{file}: {demo}/obs/{key}", name, _ACTION, partial(self._read, file, demo, key, name))

    def _read(self, file: Path, demo: str, key: str, camera: str) -> Episode:
        with _opened(file) as content:
            data = _group(file, content, "data")
            frames = _array(file, content, f"data/{demo}/obs/{key}", (None, None, None, 3), "u1")
            actions = _array(file, content, f"data/{demo}/actions", (len(frames), len(_ACTION.columns)), "f4", "f8")
            rewards = None
            if "rewards" in data[demo]:
                rewards = _array(file, content, f"data/{demo}/rewards", (len(frames),), "f4", "f8", "u1", "i8")
            about = {name: _json(file, data.attrs, name) for name in ("env_args", "problem_info")}
        return Episode(
            frames=np.ascontiguousarray(frames[:, ::-1] if key.endswith(_UPSIDE_DOWN) else frames),
            actions=actions.astype(np.float32),
            instruction=str(about["problem_info"].get("language_instruction", "")).strip(' "'),
            success=_success(rewards),
            fps=_rate(about["env_args"]),
            source=self.name,
            camera=camera,
        )


def _files(path: Path) -> Iterator[Path]:
    if path.is_file() and path.suffix in SUFFIXES:
        yield path
    yield from files_below(path, *(f"*{suffix}" for suffix in SUFFIXES))


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    h5py = require("h5py", "hdf5")
    try:
        with h5py.File(file, "r") as content:
            yield content
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise RoboAlignError(f"{file}: expected a whole HDF5 file, found: {error}") from error


def _listed(file: Path) -> list[tuple[str, str]]:
    """The demonstrations of a file, each with each of its cameras."""
    with _opened(file) as content:
        return [(demo, key) for demo in _demos(file, content) for key in _cameras(file, content, demo)]


def _refused(error: RoboAlignError) -> NoReturn:
    raise error


def _group(file: Path, content: Any, name: str) -> Any:
    """A group that lies in the file itself: a link could lead anywhere."""
    link = content.get(name, getlink=True)
    if link is None or type(link).__name__ != "HardLink" or not hasattr(content[name], "keys"):
        raise RoboAlignError(f"{file}: {name}: expected a group, found {type(link).__name__ if link else 'nothing'}")
    return content[name]


def _demos(file: Path, content: Any) -> list[str]:
    names = [name for name in _group(file, content, "data") if re.fullmatch(r"demo_\d+", name)]
    return sorted(names, key=lambda name: int(name.removeprefix("demo_")))


def _cameras(file: Path, content: Any, demo: str) -> list[str]:
    observations = _group(file, _group(file, _group(file, content, "data"), demo), "obs")
    return sorted(key for key in observations if _CAMERA.fullmatch(key))


def _array(file: Path, content: Any, name: str, shape: tuple[int | None, ...], *kinds: str) -> NDArray[Any]:
    """A dataset of the shape (None: any length), stored in the file itself."""
    parent, _, last = name.rpartition("/")
    link = content[parent].get(last, getlink=True) if parent in content else None
    if link is None or type(link).__name__ != "HardLink" or not hasattr(content[name], "shape"):
        raise RoboAlignError(f"{file}: {name}: expected an array, found {type(link).__name__ if link else 'nothing'}")
    array = content[name]
    if array.external is not None or array.is_virtual:
        raise RoboAlignError(f"{file}: {name}: expected an array in the file itself, found a reference to others")
    fits = len(array.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.str[1:] not in kinds or array.size * array.dtype.itemsize > MOST_BYTES:
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise RoboAlignError(
            f"{file}: {name}: expected ({wanted}) {' or '.join(kinds)}, at most {MOST_BYTES} bytes, found "
            f"{array.shape} {array.dtype.str[1:]}"
        )
    found: NDArray[Any] = array[()]
    return found


def _json(file: Path, attributes: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An attribute that holds a JSON object; empty where there is none."""
    text = attributes.get(name, "{}")
    try:
        value = json.loads(text)
    except (TypeError, ValueError) as error:
        raise RoboAlignError(f"{file}: data, attribute {name}: expected JSON, found: {error}") from error
    if not isinstance(value, dict):
        raise RoboAlignError(f"{file}: data, attribute {name}: expected an object, found {value!r}")
    return value


def _rate(environment: Mapping[str, Any]) -> Any:
    """Frames a second, as the environment was made."""
    settings = environment.get("env_kwargs")
    return settings.get("control_freq", FPS) if isinstance(settings, dict) else FPS


def _success(rewards: NDArray[Any] | None) -> bool | None:
    """Whether the sparse reward of 1 came; None where there are no rewards, or dense ones."""
    if rewards is None or not np.isin(rewards, (0, 1)).all():
        return None
    return bool(rewards.any())
