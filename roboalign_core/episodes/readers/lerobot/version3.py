"""Version 3.0: lists in parquet files; an episode is a part of a parquet file and of a video."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa

from roboalign_core.episodes.readers.documents import short
from roboalign_core.episodes.readers.folders import files_below
from roboalign_core.episodes.readers.lerobot.entries import Entry, VideoSpan, check_counts
from roboalign_core.episodes.readers.lerobot.info import DatasetInfo, count
from roboalign_core.episodes.readers.lerobot.rows import open_table, read_columns
from roboalign_core.errors import RoboAlignError

_MOST_SECONDS = 1e7  # of a video: keeps times exact enough
_SPARE_FRAMES = 1.1  # some writers leave the last frame's duration out of to_timestamp


def read_entries(info: DatasetInfo) -> list[Entry]:
    """The episodes of ``meta/episodes``, by their number.

    Raises:
        RoboAlignError: the list is absent or damaged, or contradicts ``info.json``.
    """
    folder = info.root / "meta/episodes"
    entries = [entry for path in sorted(files_below(folder, "*.parquet")) for entry in _entries_of(info, path)]
    check_counts(info, str(folder), entries)
    return sorted(entries, key=lambda entry: entry.index)


def read_tasks(info: DatasetInfo) -> dict[int, str]:
    """The instructions of ``meta/tasks.parquet`` by their number.

    Raises:
        RoboAlignError: the list is absent or damaged.
    """
    path = info.root / "meta/tasks.parquet"
    schema = open_table(path).schema_arrow
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    # pandas writes the index without a name as __index_level_0__: LeRobot takes whatever it is called
    key = "task" if "task" in texts else next(iter(texts), "task")
    rows = read_columns(path, ["task_index", key]).to_pylist()
    tasks = {count(f"{path}: task_index", row["task_index"]): row[key] for row in rows}
    if len(tasks) < len(rows) or not all(isinstance(task, str) for task in tasks.values()):
        raise RoboAlignError(f"{path}: expected each task once with its text, found otherwise")
    return tasks


def _entries_of(info: DatasetInfo, path: Path) -> list[Entry]:
    columns = ["episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index"]
    columns += ["data/chunk_index", "data/file_index"]
    for camera in info.cameras:
        if camera.is_video:
            columns += [f"videos/{camera.key}/{part}" for part in ("chunk_index", "file_index")]
            columns += [f"videos/{camera.key}/{part}" for part in ("from_timestamp", "to_timestamp")]
    schema = open_table(path).schema_arrow
    if "success" in schema.names and pa.types.is_boolean(schema.field("success").type):
        columns.append("success")
    rows = read_columns(path, columns).to_pylist()
    return [_entry(info, f"{path}: row {number}", row) for number, row in enumerate(rows)]


def _entry(info: DatasetInfo, where: str, row: dict[str, Any]) -> Entry:
    numbers = {key: count(f"{where}: {key}", value) for key, value in row.items() if key.endswith(("_index", "length"))}
    length, first, end = numbers["length"], numbers["dataset_from_index"], numbers["dataset_to_index"]
    if end - first != length:
        raise RoboAlignError(f"{where}: expected {length} rows (length), found {first} to {end}")
    tasks = row["tasks"]
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise RoboAlignError(f"{where}: tasks: expected a list of texts, found {short(tasks)}")
    return Entry(
        index=numbers["episode_index"],
        length=length,
        tasks=tuple(tasks),
        success=row.get("success"),
        data=info.data_path.path(info.root, **_place(numbers, "data")),
        videos={camera.key: _span(info, where, row, camera.key) for camera in info.cameras if camera.is_video},
    )


def _span(info: DatasetInfo, where: str, row: dict[str, Any], key: str) -> VideoSpan:
    prefix = f"videos/{key}"
    start, end = row[f"{prefix}/from_timestamp"], row[f"{prefix}/to_timestamp"]
    for name, time in (("from_timestamp", start), ("to_timestamp", end)):
        if not isinstance(time, (int, float)) or not math.isfinite(time) or not 0 <= time <= _MOST_SECONDS:
            raise RoboAlignError(f"{where}: {prefix}/{name}: expected a time in seconds, found {short(time)}")
    if abs((end - start) * info.fps - row["length"]) > _SPARE_FRAMES:
        raise RoboAlignError(
            f"{where}: {prefix}: expected {row['length']} frames at {info.fps:g} per second, found {start} to {end} s"
        )
    return VideoSpan(info.video(key, **_place(row, prefix)), float(start), is_whole=False)


def _place(row: dict[str, Any], prefix: str) -> dict[str, int]:
    return {part: row[f"{prefix}/{part}"] for part in ("chunk_index", "file_index")}
