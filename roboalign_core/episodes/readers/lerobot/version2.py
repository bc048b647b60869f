"""Versions 2.0 and 2.1: lists in JSON lines, a parquet file and a video for each episode."""

from __future__ import annotations

from typing import Any

from roboalign_core.episodes.readers.documents import read_lines, short
from roboalign_core.episodes.readers.lerobot.entries import Entry, VideoSpan, check_counts
from roboalign_core.episodes.readers.lerobot.info import DatasetInfo, count
from roboalign_core.errors import RoboAlignError


def read_entries(info: DatasetInfo) -> list[Entry]:
    """The episodes of ``meta/episodes.jsonl``, by their number.

    Raises:
        RoboAlignError: the list is absent or damaged, or contradicts ``info.json``.
    """
    path = info.root / "meta/episodes.jsonl"
    entries = [_entry(info, f"{path}: episode {number}", row) for number, row in enumerate(read_lines(path))]
    check_counts(info, str(path), entries)
    return sorted(entries, key=lambda entry: entry.index)


def read_tasks(info: DatasetInfo) -> dict[int, str]:
    """The instructions of ``meta/tasks.jsonl`` by their number.

    Raises:
        RoboAlignError: the list is absent or damaged.
    """
    path = info.root / "meta/tasks.jsonl"
    tasks: dict[int, str] = {}
    for row in read_lines(path):
        task = row.get("task")
        number = count(f"{path}: task_index", row.get("task_index"))
        if not isinstance(task, str) or number in tasks:
            raise RoboAlignError(f"{path}: task {number}: expected one text, found {short(task)}")
        tasks[number] = task
    return tasks


def _entry(info: DatasetInfo, where: str, row: dict[str, Any]) -> Entry:
    index = count(f"{where}: episode_index", row.get("episode_index"))
    tasks = row.get("tasks", [])
    if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        raise RoboAlignError(f"{where}: tasks: expected a list of texts, found {short(tasks)}")
    place = {"episode_chunk": index // info.chunk_size, "episode_index": index}
    success = row.get("success")
    videos = {
        camera.key: VideoSpan(info.video(camera.key, **place), 0.0, is_whole=True)
        for camera in info.cameras
        if camera.is_video
    }
    return Entry(
        index=index,
        length=count(f"{where}: length", row.get("length")),
        tasks=tuple(tasks),
        success=success if isinstance(success, bool) else None,
        data=info.data_path.path(info.root, **place),
        videos=videos,
    )
