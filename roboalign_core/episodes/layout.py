"""Where things lie in a store, and what ``meta/info.json`` says: the LeRobotDataset v3.0 layout.

Our own part of ``info.json`` is the key ``roboalign``; LeRobot ignores it. It lists the file groups that belong to the
store, and so makes ``info.json`` the commit point: what it does not list is not there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roboalign_core.episodes.spec import StoreSpec
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json

CODEBASE_VERSION = "v3.0"
STORE_VERSION = 1
GROUPS_PER_CHUNK = 1000
INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
DATA_TEMPLATE = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_TEMPLATE = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_TEMPLATE = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
KINDS = ("data", "video", "episodes")

_INDEX_COLUMNS = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def chunk_and_file(group: int) -> tuple[int, int]:
    """Chunk and file index of a group of files."""
    return divmod(group, GROUPS_PER_CHUNK)


def group_path(root: Path, kind: str, group: int, spec: StoreSpec) -> Path:
    """The file of a kind (see ``KINDS``) that belongs to a group."""
    template = {"data": DATA_TEMPLATE, "video": VIDEO_TEMPLATE, "episodes": EPISODES_TEMPLATE}[kind]
    chunk, file = chunk_and_file(group)
    return root / template.format(chunk_index=chunk, file_index=file, video_key=spec.video_key)


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and SHA-256 (hex) of a file."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Measure a file."""
        with path.open("rb") as handle:
            digest = hashlib.sha256()
            while block := handle.read(1 << 20):
                digest.update(block)
        return cls(path.stat().st_size, digest.hexdigest())


@dataclass(frozen=True)
class Group:
    """What one append wrote: numbers of episodes and frames, and a record of each file by kind."""

    episodes: int
    frames: int
    files: Mapping[str, FileRecord]


@dataclass(frozen=True)
class StoreInfo:
    """The content of ``info.json`` as far as it concerns us."""

    spec: StoreSpec
    groups: tuple[Group, ...] = ()
    tasks: int = 0

    @property
    def episodes(self) -> int:
        """Number of episodes in all groups."""
        return sum(group.episodes for group in self.groups)

    @property
    def frames(self) -> int:
        """Number of frames in all groups."""
        return sum(group.frames for group in self.groups)

    def to_json(self) -> dict[str, Any]:
        """The whole of ``info.json``."""
        spec = self.spec
        return {
            "codebase_version": CODEBASE_VERSION,
            "robot_type": None,
            "total_episodes": self.episodes,
            "total_frames": self.frames,
            "total_tasks": self.tasks,
            "chunks_size": GROUPS_PER_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": _rate(spec),
            "splits": {"train": f"0:{self.episodes}"},
            "data_path": DATA_TEMPLATE,
            "video_path": VIDEO_TEMPLATE,
            "features": features(spec),
            "roboalign": {
                "store_version": STORE_VERSION,
                "source": spec.source,
                "camera": spec.camera,
                "action_units": list(spec.action_units),
                "crf": spec.crf,
                "lossless": spec.lossless,
                "groups": [asdict(group) for group in self.groups],
            },
        }


def _rate(spec: StoreSpec) -> float:
    """Frames per second, without a fraction where there is none, as LeRobot writes them."""
    return int(spec.fps) if float(spec.fps).is_integer() else spec.fps


def features(spec: StoreSpec) -> dict[str, Any]:
    """The ``features`` of ``info.json``: every column and the video, with dtype, shape and names."""
    recorded = {
        key: {"dtype": "float32", "shape": [len(names)], "names": list(names)} for key, names in spec.columns.items()
    }
    video = {
        "dtype": "video",
        "shape": [spec.height, spec.width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": spec.height,
            "video.width": spec.width,
            "video.channels": 3,
            "video.codec": "h264",
            "video.pix_fmt": "gbrp" if spec.lossless else "yuv444p",
            "video.fps": _rate(spec),
            "video.is_depth_map": False,
            "has_audio": False,
        },
    }
    index = {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in _INDEX_COLUMNS.items()}
    done = {"dtype": "bool", "shape": [1], "names": None}
    return {spec.video_key: video, **recorded, "next.done": done, **index}


def load_info(root: Path) -> StoreInfo:
    """Read and check ``info.json``.

    Raises:
        RoboAlignError: it is absent, damaged, of another layout or version, or contradicts itself.
    """
    path = root / INFO_PATH
    raw = read_json(path)
    _expect(path, "content", dict, raw)
    _equal(path, "codebase_version", CODEBASE_VERSION, raw.get("codebase_version"))
    # The templates are fixed: a file that names others could point anywhere on the disk.
    _equal(path, "data_path", DATA_TEMPLATE, raw.get("data_path"))
    _equal(path, "video_path", VIDEO_TEMPLATE, raw.get("video_path"))
    _equal(path, "chunks_size", GROUPS_PER_CHUNK, raw.get("chunks_size"))
    ours = raw.get("roboalign")
    if not isinstance(ours, dict):
        raise RoboAlignError(
            f"{path}: expected the key 'roboalign' of a store written by this package, found none; "
            "bring other data sets in with: roboalign convert SRC out=..."
        )
    _equal(path, "roboalign.store_version", STORE_VERSION, ours.get("store_version"))
    spec = _spec(path, raw, ours)
    _expect(path, "roboalign.groups", list, ours.get("groups"))
    groups = tuple(_group(path, number, value) for number, value in enumerate(ours["groups"]))
    info = StoreInfo(spec, groups, _count(path, "total_tasks", raw.get("total_tasks")))
    _equal(path, "total_episodes (sum over the groups)", info.episodes, raw.get("total_episodes"))
    _equal(path, "total_frames (sum over the groups)", info.frames, raw.get("total_frames"))
    _equal(path, "features", features(spec), raw.get("features"))
    return info


def _spec(path: Path, raw: dict[str, Any], ours: dict[str, Any]) -> StoreSpec:
    _expect(path, "features", dict, raw.get("features"))
    columns: dict[str, tuple[str, ...]] = {}
    size: list[int] = []
    for key, feature in raw["features"].items():
        _expect(path, f"features.{key}", dict, feature)
        if feature.get("dtype") == "video":
            _expect(path, f"features.{key}.shape", list, feature.get("shape"))
            size = feature["shape"]
        elif key not in _INDEX_COLUMNS and key != "next.done":
            _expect(path, f"features.{key}.names", list, feature.get("names"))
            columns[key] = tuple(feature["names"])
    if len(size) != 3 or "action" not in columns:
        raise RoboAlignError(
            f"{path}: features: expected a video of shape [H, W, 3] and an action, found {_short(columns)}"
        )
    _expect(path, "roboalign.lossless", bool, ours.get("lossless"))
    _expect(path, "roboalign.source", str, ours.get("source"))
    _expect(path, "roboalign.action_units", list, ours.get("action_units"))
    try:
        return StoreSpec(
            fps=raw.get("fps", 0),
            height=size[0],
            width=size[1],
            action_names=columns.pop("action"),
            source=ours["source"],
            camera=ours.get("camera", ""),
            extras=columns,
            action_units=tuple(ours["action_units"]),
            crf=ours.get("crf", -1),
            lossless=ours["lossless"],
        )
    except RoboAlignError as error:
        raise RoboAlignError(f"{path}: {error}") from error


def _group(path: Path, number: int, value: Any) -> Group:
    where = f"roboalign.groups[{number}]"
    _expect(path, where, dict, value)
    _expect(path, f"{where}.files", dict, value.get("files"))
    files = {}
    for kind in KINDS:
        record = value["files"].get(kind)
        _expect(path, f"{where}.files.{kind}", dict, record)
        _expect(path, f"{where}.files.{kind}.sha256", str, record.get("sha256"))
        files[kind] = FileRecord(_count(path, f"{where}.files.{kind}.bytes", record.get("bytes")), record["sha256"])
    episodes = _count(path, f"{where}.episodes", value.get("episodes"))
    return Group(episodes, _count(path, f"{where}.frames", value.get("frames")), files)


def _expect(path: Path, key: str, kind: type, value: Any) -> None:
    if not isinstance(value, kind):
        raise RoboAlignError(f"{path}: {key}: expected {kind.__name__}, found {_short(value)}")


def _equal(path: Path, key: str, expected: Any, found: Any) -> None:
    if expected != found:
        raise RoboAlignError(f"{path}: {key}: expected {_short(expected)}, found {_short(found)}")


def _count(path: Path, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RoboAlignError(f"{path}: {key}: expected a count, found {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."
