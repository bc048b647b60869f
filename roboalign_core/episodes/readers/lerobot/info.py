"""What ``meta/info.json`` of a LeRobotDataset says, as far as episodes need it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roboalign_core.episodes.readers.base import UNDECLARED, ActionColumn, ActionKind, ActionMeaning
from roboalign_core.episodes.readers.documents import read_document, short
from roboalign_core.episodes.readers.lerobot.template import PathTemplate
from roboalign_core.episodes.spec import RESERVED_COLUMNS
from roboalign_core.errors import RoboAlignError

ONE_FILE_AN_EPISODE = ("v2.0", "v2.1")
SHARED_FILES = ("v3.0",)

_FIELDS = {
    **dict.fromkeys(ONE_FILE_AN_EPISODE, ("episode_chunk", "episode_index")),
    **dict.fromkeys(SHARED_FILES, ("chunk_index", "file_index")),
}
_ACTION_KEYS = ("action", "actions")
_FLOATS = ("float16", "float32", "float64")
_SUCCESS = "next.success"
_LABEL = re.compile(rf"(.+) \(({'|'.join(kind.value for kind in ActionKind)})\)")
_MOST_PIXELS = 16384


@dataclass(frozen=True)
class Camera:
    """A feature that holds pictures: (height, width, 3), as a video or as images in the table."""

    key: str
    name: str
    height: int
    width: int
    is_video: bool


@dataclass(frozen=True)
class DatasetInfo:
    """The content of ``info.json``.

    Attributes:
        root: the data set's folder.
        version: one of ``ONE_FILE_AN_EPISODE`` or ``SHARED_FILES``.
        source: ``Episode.source``: of a store of ours what it says, otherwise the reader's name.
        fps: frames per second.
        episodes, frames: how many there are.
        chunk_size: episodes in a folder (versions 2).
        data_path, video_path: where files lie.
        cameras: those with three channels that are no depth maps.
        action_key: the feature that holds the actions.
        action: what its columns mean.
        vectors: the width of every feature that is a vector of floats, the actions among them.
        has_tasks, has_success: whether frames carry ``task_index`` and ``next.success``.
    """

    root: Path
    version: str
    source: str
    fps: float
    episodes: int
    frames: int
    chunk_size: int
    data_path: PathTemplate
    video_path: PathTemplate | None
    cameras: tuple[Camera, ...]
    action_key: str
    action: ActionMeaning
    vectors: Mapping[str, int]
    has_tasks: bool
    has_success: bool

    def video(self, camera: str, **place: int) -> Path:
        """The video with the pictures of a camera."""
        if self.video_path is None:
            raise ValueError(f"{camera}: no camera of this data set has videos")
        return self.video_path.path(self.root, **place, video_key=camera)


def load_info(root: Path, reader: str) -> DatasetInfo:
    """Read and check ``meta/info.json``.

    Raises:
        RoboAlignError: it is absent, damaged, of another version, leads out of the folder, or has no camera or action.
    """
    path = root / "meta/info.json"
    raw = read_document(path)
    version = raw.get("codebase_version")
    if version not in _FIELDS:
        raise RoboAlignError(f"{path}: codebase_version: expected {', '.join(_FIELDS)}, found {short(version)}")
    features = _features(path, raw.get("features"))
    cameras = _cameras(path, features)
    vectors = {key: feature["shape"][0] for key, feature in features.items() if _is_vector(key, feature)}
    action_key = next((key for key in _ACTION_KEYS if key in vectors), None)
    if action_key is None:
        raise RoboAlignError(f"{path}: features: expected action, a vector of floats, found {_listed(features)}")
    fields = _FIELDS[version]
    ours = raw["roboalign"] if isinstance(raw.get("roboalign"), dict) else {}
    return DatasetInfo(
        root=root,
        version=version,
        source=ours["source"] if isinstance(ours.get("source"), str) and ours["source"] else reader,
        fps=_rate(path, raw.get("fps")),
        episodes=count(f"{path}: total_episodes", raw.get("total_episodes")),
        frames=count(f"{path}: total_frames", raw.get("total_frames")),
        chunk_size=max(1, count(f"{path}: chunks_size", raw.get("chunks_size", 1000))),
        data_path=PathTemplate(f"{path}: data_path", raw.get("data_path", ""), fields),
        video_path=_video_path(path, raw, fields) if any(camera.is_video for camera in cameras) else None,
        cameras=cameras,
        action_key=action_key,
        action=_meaning(features[action_key], vectors[action_key], ours.get("action_units")),
        vectors=vectors,
        has_tasks=_is_scalar(features, "task_index", "int64"),
        has_success=_is_scalar(features, _SUCCESS, "bool"),
    )


def count(where: str, value: Any) -> int:
    """A number of things.

    Raises:
        RoboAlignError: it is no whole number from 0 to 2^53.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1 << 53:
        raise RoboAlignError(f"{where}: expected a count, found {short(value)}")
    return value


def _features(path: Path, value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise RoboAlignError(f"{path}: features: expected an object, found {short(value)}")
    for key, feature in value.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        if not isinstance(shape, list) or not isinstance(feature.get("dtype"), str):
            raise RoboAlignError(
                f"{path}: features: {short(key)}: expected a dtype and a shape, found {short(feature)}"
            )
        feature["shape"] = [count(f"{path}: features: {short(key)}: shape", length) for length in shape]
    return value


def _cameras(path: Path, features: dict[str, dict[str, Any]]) -> tuple[Camera, ...]:
    found = [key for key, feature in features.items() if feature["dtype"] in ("video", "image")]
    names = [key.removeprefix("observation.").removeprefix("images.") for key in found]
    if len(set(names)) < len(names):
        names = found
    cameras = []
    for key, name in zip(found, names, strict=True):
        size = _size(features[key])
        if size is not None:
            cameras.append(Camera(key, name, *size, is_video=features[key]["dtype"] == "video"))
    if not cameras:
        raise RoboAlignError(f"{path}: features: expected a camera of three channels, found {_listed(features)}")
    return tuple(cameras)


def _size(feature: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width; None for depth maps and whatever else has not three channels."""
    about = feature.get("info") or feature.get("video_info")
    if isinstance(about, dict) and (about.get("video.is_depth_map") or about.get("is_depth_map")):
        return None
    shape, names = feature["shape"], feature.get("names")
    first = names[0] if isinstance(names, list) and names else None
    if len(shape) == 3 and (str(first).startswith("channel") or (shape[0] == 3 and shape[2] != 3)):
        shape = [*shape[1:], shape[0]]
    if len(shape) != 3 or shape[2] != 3 or not all(0 < length <= _MOST_PIXELS for length in shape):
        return None
    return shape[0], shape[1]


def _is_vector(key: str, feature: dict[str, Any]) -> bool:
    is_ours = key in RESERVED_COLUMNS and key not in _ACTION_KEYS
    shape = feature["shape"]
    return not is_ours and feature["dtype"] in _FLOATS and len(shape) == 1 and 0 < shape[0] <= _MOST_PIXELS


def _is_scalar(features: dict[str, dict[str, Any]], key: str, dtype: str) -> bool:
    return key in features and features[key]["dtype"] == dtype and features[key]["shape"] == [1]


def _meaning(feature: dict[str, Any], width: int, labels: Any) -> ActionMeaning:
    """What the columns mean: LeRobot names them, and only stores of ours give units and kinds."""
    names = _flat(feature.get("names"))
    if len(names) != width or len(set(names)) != width or not all(isinstance(n, str) and n.strip() for n in names):
        names = ["action"] if width == 1 else [f"action_{index}" for index in range(width)]
    if not isinstance(labels, list) or len(labels) != width or not all(isinstance(label, str) for label in labels):
        labels = [""] * width
    return ActionMeaning(tuple(_column(name, label) for name, label in zip(names, labels, strict=True)))


def _column(name: str, label: str) -> ActionColumn:
    parts = _LABEL.fullmatch(label)
    if parts is None:
        return ActionColumn(name, label or UNDECLARED, ActionKind.UNKNOWN)
    return ActionColumn(name, parts[1], ActionKind(parts[2]))


def _flat(names: Any) -> list[Any]:
    """Names come as a list, as a list in a list, as {"motors": list} or as {name: place}."""
    if isinstance(names, dict):
        lists = [value for value in names.values() if isinstance(value, list)]
        are_places = all(type(value) is int for value in names.values())
        names = lists[0] if len(lists) == 1 else sorted(names, key=names.__getitem__) if are_places else []
    if isinstance(names, list) and len(names) == 1 and isinstance(names[0], list):
        names = names[0]
    return names if isinstance(names, list) else []


def _video_path(path: Path, raw: dict[str, Any], fields: tuple[str, ...]) -> PathTemplate:
    return PathTemplate(f"{path}: video_path", raw.get("video_path", ""), (*fields, "video_key"))


def _rate(path: Path, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1000 or math.isnan(value):
        raise RoboAlignError(f"{path}: fps: expected a rate above 0 and up to 1000, found {short(value)}")
    return float(value)


def _listed(features: Mapping[str, dict[str, Any]]) -> str:
    return short(", ".join(f"{key} ({feature['dtype']})" for key, feature in features.items()) or "none")
