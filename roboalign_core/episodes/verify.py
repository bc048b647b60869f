"""Is a store whole?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from roboalign_core.episodes import tables, video
from roboalign_core.episodes.layout import TASKS_PATH, FileRecord
from roboalign_core.errors import RoboAlignError

if TYPE_CHECKING:
    from roboalign_core.episodes.store import EpisodeStore


def verify(store: EpisodeStore, deep: bool = False) -> None:
    """Compare every file with the metadata; see `EpisodeStore.verify`."""
    tasks = tables.read_tasks(store.path / TASKS_PATH)[: store.info.tasks] if len(store) else []
    unknown = sorted(set(store.instructions) - set(tasks))
    if unknown:
        raise RoboAlignError(
            f"{store.path / TASKS_PATH}: expected every instruction, found none such as {unknown[0]!r}"
        )
    for group in range(len(store.info.groups)):
        store.check_sizes(group)
        _check_rows(store, group)
        _check_video(store, group)
        if deep:
            _check_sums(store, group)
    if deep:
        for _ in store:
            pass


def _check_rows(store: EpisodeStore, group: int) -> None:
    path, frames = store.file("data", group), store.info.groups[group].frames
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RoboAlignError(f"{path}: expected a readable parquet file, found: {error}") from error
    if rows != frames:
        raise RoboAlignError(f"{path}: expected {frames} rows, one per frame, found {rows}")


def _check_video(store: EpisodeStore, group: int) -> None:
    path, frames = store.file("video", group), store.info.groups[group].frames
    found = video.probe(path)
    if found.frames != frames:
        raise RoboAlignError(f"{path}: expected {frames} frames, found {found.frames}")
    if (found.height, found.width) != (store.spec.height, store.spec.width):
        expected = (store.spec.height, store.spec.width)
        raise RoboAlignError(f"{path}: expected frames of (H, W) = {expected}, found {(found.height, found.width)}")


def _check_sums(store: EpisodeStore, group: int) -> None:
    for kind, record in store.info.groups[group].files.items():
        path = store.file(kind, group)
        found = FileRecord.of(path)
        if found != record:
            raise RoboAlignError(f"{path}: expected SHA-256 {record.sha256}, found {found.sha256}")
