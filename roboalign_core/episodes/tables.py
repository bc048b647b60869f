"""The parquet files of a store: frames, episodes and tasks, with LeRobot's column names and types."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.layout import chunk_and_file
from roboalign_core.episodes.spec import StoreSpec
from roboalign_core.episodes.stats import Stats
from roboalign_core.errors import RoboAlignError


def frame_columns(
    episode: Episode, spec: StoreSpec, episode_index: int, first_row: int, task: int
) -> dict[str, NDArray[Any]]:
    """The columns of the data file for one episode, as arrays over its T frames."""
    length = len(episode)
    steps = np.arange(length, dtype=np.int64)
    recorded = {key: episode.actions if key == "action" else episode.extras[key] for key in spec.columns}
    return {
        **recorded,
        "next.done": steps == length - 1,
        "timestamp": (steps / spec.fps).astype(np.float32),
        "frame_index": steps,
        "episode_index": np.full(length, episode_index, np.int64),
        "index": first_row + steps,
        "task_index": np.full(length, task, np.int64),
    }


def data_schema(spec: StoreSpec) -> pa.Schema:
    """The schema of the data file; like LeRobot, columns of width 1 are scalars and wider ones fixed-size lists."""
    recorded = [
        pa.field(key, pa.float32() if len(names) == 1 else pa.list_(pa.float32(), len(names)))
        for key, names in spec.columns.items()
    ]
    index = [pa.field(key, pa.int64()) for key in ("frame_index", "episode_index", "index", "task_index")]
    return pa.schema([*recorded, pa.field("next.done", pa.bool_()), pa.field("timestamp", pa.float32()), *index])


def write_data(path: Path, spec: StoreSpec, episodes: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Write the data file; every episode is a row group of its own, so that it is read alone."""
    schema = data_schema(spec)
    with pq.ParquetWriter(path, schema, compression="snappy") as writer:
        for columns in episodes:
            arrays = [_arrow(columns[field.name], field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def read_data(path: Path, spec: StoreSpec, row_group: int | None = None) -> dict[str, NDArray[Any]]:
    """Read the recorded columns, each (N, K) float32, and ``index`` (N,), of one row group or of the whole file.

    Raises:
        RoboAlignError: the file is damaged or its columns are not those of the store.
    """
    wanted = [*spec.columns, "index"]
    try:
        file = pq.ParquetFile(path)
        table = file.read(wanted) if row_group is None else file.read_row_group(row_group, wanted)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RoboAlignError(f"{path}: expected a readable parquet file, found: {error}") from error
    schema = data_schema(spec)
    out: dict[str, NDArray[Any]] = {}
    for key in wanted:
        if key not in table.column_names or table.schema.field(key).type != schema.field(key).type:
            found = table.schema.field(key).type if key in table.column_names else "no such column"
            raise RoboAlignError(f"{path}: column {key}: expected {schema.field(key).type}, found {found}")
        column = table.column(key).combine_chunks()
        if column.null_count:
            raise RoboAlignError(f"{path}: column {key}: expected no empty cells, found {column.null_count}")
        flat = column.flatten() if pa.types.is_fixed_size_list(column.type) else column
        values = flat.to_numpy(zero_copy_only=False)
        out[key] = values if key == "index" else values.reshape(len(table), len(spec.columns[key]))
    return out


def episode_row(
    episode: Episode,
    spec: StoreSpec,
    group: int,
    episode_index: int,
    first_row: int,
    first_in_group: int,
    stats: Mapping[str, Stats],
) -> dict[str, Any]:
    """One row of the episodes file."""
    chunk, file = chunk_and_file(group)
    length = len(episode)
    row: dict[str, Any] = {
        "episode_index": episode_index,
        "tasks": [episode.instruction],
        "length": length,
        "dataset_from_index": first_row,
        "dataset_to_index": first_row + length,
        "data/chunk_index": chunk,
        "data/file_index": file,
        f"videos/{spec.video_key}/chunk_index": chunk,
        f"videos/{spec.video_key}/file_index": file,
        f"videos/{spec.video_key}/from_timestamp": first_in_group / spec.fps,
        f"videos/{spec.video_key}/to_timestamp": (first_in_group + length) / spec.fps,
        "meta/episodes/chunk_index": chunk,
        "meta/episodes/file_index": file,
        "success": None if episode.success is None else bool(episode.success),
    }
    for feature, values in stats.items():
        for key, value in values.items():
            row[f"stats/{feature}/{key}"] = value.tolist()
    return row


def write_episodes(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the episodes file."""
    arrays = {key: pa.array([row[key] for row in rows], type=_EPISODE_TYPES.get(key)) for key in rows[0]}
    pq.write_table(pa.table(arrays), path, compression="snappy")


def read_episodes(path: Path) -> list[dict[str, Any]]:
    """Read what the store needs of each episode: episode_index, tasks, length, dataset_from_index, success.

    Raises:
        RoboAlignError: the file is absent or damaged, or a column is missing, of another type, or has empty cells.
    """
    rows = _read_rows(path, _EPISODE_TYPES)
    for number, row in enumerate(rows):
        empty = [key for key, value in row.items() if value is None and key != "success"]
        if empty or len(row["tasks"]) != 1 or row["tasks"][0] is None or row["length"] < 1:
            raise RoboAlignError(f"{path}: row {number}: expected a length, one task and no empty cell, found {row}")
    return rows


def read_episode_stats(path: Path) -> Iterator[dict[str, Stats]]:
    """The statistics of each episode of a file, by feature."""
    for row in _read_rows(path, None):
        stats: dict[str, Stats] = {}
        for key, value in row.items():
            if key.startswith("stats/"):
                _, feature, statistic = key.split("/")
                stats.setdefault(feature, {})[statistic] = np.array(value)
        yield stats


def write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """Write the tasks file as pandas writes a frame with the index ``task``, which is how LeRobot reads it."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})
    metadata = {b"pandas": json.dumps(_pandas_metadata()).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path, compression="snappy")


def read_tasks(path: Path) -> list[str]:
    """Read the tasks, in the order of their index.

    Raises:
        RoboAlignError: the file is absent, damaged, or not numbered from 0.
    """
    rows = _read_rows(path, _TASK_TYPES)
    if [row["task_index"] for row in rows] != list(range(len(rows))):
        raise RoboAlignError(f"{path}: task_index: expected 0 to {len(rows) - 1} in order, found otherwise")
    return [row["task"] for row in rows]


_EPISODE_TYPES = {
    "episode_index": pa.int64(),
    "tasks": pa.list_(pa.string()),
    "length": pa.int64(),
    "dataset_from_index": pa.int64(),
    "success": pa.bool_(),
}
_TASK_TYPES = {"task_index": pa.int64(), "task": pa.string()}


def _read_rows(path: Path, columns: Mapping[str, pa.DataType] | None) -> list[dict[str, Any]]:
    if not path.is_file():
        raise RoboAlignError(f"{path}: expected a parquet file, found nothing there")
    try:
        file = pq.ParquetFile(path)
        for key, kind in (columns or {}).items():
            found = file.schema_arrow.field(key).type if key in file.schema_arrow.names else "no such column"
            if found != kind:
                raise RoboAlignError(f"{path}: column {key}: expected {kind}, found {found}")
        rows: list[dict[str, Any]] = file.read(list(columns) if columns else None).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RoboAlignError(f"{path}: expected a readable parquet file, found: {error}") from error
    return rows


def _arrow(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    return flat.cast(kind)


def _pandas_metadata() -> dict[str, Any]:
    def column(name: str, kind: str, numpy_kind: str) -> dict[str, Any]:
        return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}

    return {
        "index_columns": ["task"],
        "column_indexes": [
            {
                "name": None,
                "field_name": None,
                "pandas_type": "unicode",
                "numpy_type": "object",
                "metadata": {"encoding": "UTF-8"},
            }
        ],
        "columns": [column("task_index", "int64", "int64"), column("task", "unicode", "object")],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.2.0",
    }
