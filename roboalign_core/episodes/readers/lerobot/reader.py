"""Episodes of LeRobotDatasets.

``actions[t]`` was given at frame t and leads to frame t+1, as in our own stores. The format names the columns of an
action but no units, and does not say whether they are changes or targets; only stores of ours do. Features that are
vectors of floats become extras, other features and depth maps are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers.base import Recording
from roboalign_core.episodes.readers.folders import files_below
from roboalign_core.episodes.readers.lerobot import version2, version3
from roboalign_core.episodes.readers.lerobot.entries import Entry
from roboalign_core.episodes.readers.lerobot.frames import SLACK, frames_of_images, frames_of_video
from roboalign_core.episodes.readers.lerobot.info import ONE_FILE_AN_EPISODE, Camera, DatasetInfo, load_info
from roboalign_core.episodes.readers.lerobot.rows import RowReader, encoded_images, floats, integers, truths
from roboalign_core.errors import RoboAlignError

_INFO = "info.json"


@dataclass(frozen=True)
class LerobotReader:
    """Reads data sets, also in folders below; every camera is an episode of its own."""

    name: str = "lerobot"

    def detect(self, path: Path) -> bool:
        """Whether there is a ``meta/info.json``."""
        return any(True for _ in _roots(path))

    def recordings(self, path: Path) -> Iterator[Recording]:
        """One recording for each episode and camera, in the order of the episodes' numbers."""
        for root in sorted(_roots(path)):
            info = load_info(root, self.name)
            version = version2 if info.version in ONE_FILE_AN_EPISODE else version3
            tasks = version.read_tasks(info) if info.has_tasks else {}
            read = partial(_read, info, tasks, RowReader())
            for entry in version.read_entries(info):
                for camera in info.cameras:
                    name = f"{info.root}: episode {entry.index}, {camera.key}"
                    yield Recording(name, camera.name, info.action, partial(read, entry, camera))


def _roots(path: Path) -> Iterator[Path]:
    return (file.parent.parent for file in files_below(path, Path(_INFO).name) if file.parent.name == "meta")


def _read(info: DatasetInfo, tasks: Mapping[int, str], reader: RowReader, entry: Entry, camera: Camera) -> Episode:
    path = entry.data
    columns = [*info.vectors, "frame_index", "timestamp"]
    columns += ["task_index"] if info.has_tasks else []
    columns += ["next.success"] if info.has_success else []
    rows = reader.read(path, columns if camera.is_video else [*columns, camera.key], entry.index, entry.length)
    _check_times(path, rows, info.fps)
    vectors = {key: floats(path, rows, key, width) for key, width in info.vectors.items()}
    if camera.is_video:
        frames = frames_of_video(entry.videos[camera.key], camera, entry.length, info.fps)
    else:
        images = encoded_images(path, rows, camera.key)
        frames = frames_of_images(f"{path}: column {camera.key}", images, camera, entry.length)
    return Episode(
        frames=frames,
        actions=vectors.pop(info.action_key),
        instruction=_instruction(path, rows, tasks) if info.has_tasks else _joined(entry.tasks),
        success=bool(truths(path, rows, "next.success").any()) if info.has_success else entry.success,
        fps=info.fps,
        source=info.source,
        camera=camera.name,
        extras=vectors,
    )


def _check_times(path: Path, rows: pa.Table, fps: float) -> None:
    """Frame t must be number t, and its time t / fps: then video, rows and rate agree."""
    steps = np.arange(len(rows))
    frames = integers(path, rows, "frame_index")
    if not np.array_equal(frames, steps):
        t = int(np.argmax(frames != steps))
        raise RoboAlignError(f"{path}: frame_index: expected {t} in row {t} of the episode, found {frames[t]}")
    times = floats(path, rows, "timestamp", 1)[:, 0].astype(np.float64)
    good = np.abs(times * fps - steps) <= SLACK  # false for what is not a number
    if not good.all():
        t = int(np.argmin(good))
        raise RoboAlignError(
            f"{path}: timestamp: expected {t / fps:.4f} s in row {t} of the episode, at {fps:g} frames per second, "
            f"found {times[t]:.4f}"
        )


def _instruction(path: Path, rows: pa.Table, tasks: Mapping[int, str]) -> str:
    numbers = list(dict.fromkeys(integers(path, rows, "task_index").tolist()))
    unknown = [number for number in numbers if number not in tasks]
    if unknown:
        raise RoboAlignError(f"{path}: task_index: expected one of the {len(tasks)} known tasks, found {unknown[0]}")
    return _joined(tuple(tasks[number] for number in numbers))


def _joined(tasks: tuple[str, ...]) -> str:
    """An episode with several tasks has all of them as its instruction, in their order."""
    return "; ".join(task for task in tasks if task.strip())
