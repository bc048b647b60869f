"""Rows of a LeRobotDataset's parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboalign_core.episodes.readers.base import MOST_BYTES
from roboalign_core.errors import RoboAlignError

_EPISODE = "episode_index"


class RowReader:
    """Reads the rows of an episode. What was unpacked last is kept, because neighbours lie in one piece."""

    def __init__(self) -> None:
        self._key: tuple[Path, tuple[int, ...], tuple[str, ...]] | None = None
        self._piece: pa.Table | None = None

    def read(self, path: Path, columns: Sequence[str], episode: int, length: int) -> pa.Table:
        """The rows of an episode with these columns and ``episode_index``.

        Raises:
            RoboAlignError: the file is absent or damaged, a column is missing or too large, or numbers of rows differ.
        """
        wanted = tuple(dict.fromkeys((*columns, _EPISODE)))
        groups = _groups(open_table(path).metadata, episode)
        if (path, groups, wanted) != self._key or self._piece is None:
            self._piece = read_columns(path, wanted, groups)
            self._key = (path, groups, wanted)
        rows = self._piece.filter(pa.array(integers(path, self._piece, _EPISODE) == episode))
        if len(rows) != length:
            raise RoboAlignError(f"{path}: expected {length} rows of episode {episode}, found {len(rows)}")
        return rows


def open_table(path: Path) -> pq.ParquetFile:
    """A parquet file whose header is whole.

    Raises:
        RoboAlignError: it is absent or damaged.
    """
    if not path.is_file():
        raise RoboAlignError(f"{path}: expected a parquet file, found nothing there")
    try:
        return pq.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RoboAlignError(f"{path}: expected a readable parquet file, found: {error}") from error


def read_columns(path: Path, columns: Sequence[str], groups: Sequence[int] | None = None) -> pa.Table:
    """These columns, of some row groups or of all.

    Raises:
        RoboAlignError: the file is absent or damaged, or a column is missing or too large.
    """
    file = open_table(path)
    for key in columns:
        if key not in file.schema_arrow.names:
            raise RoboAlignError(f"{path}: column {key}: expected it, found no such column")
    groups = range(file.metadata.num_row_groups) if groups is None else groups
    size = _unpacked_bytes(file.metadata, columns, groups)
    if size > MOST_BYTES:
        raise RoboAlignError(f"{path}: expected at most {MOST_BYTES} bytes of {', '.join(columns)}, found {size}")
    try:
        return file.read_row_groups(list(groups), columns=list(columns))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RoboAlignError(f"{path}: expected a readable parquet file, found: {error}") from error


def floats(path: Path, table: pa.Table, key: str, width: int) -> NDArray[np.float32]:
    """A column of vectors (T, width) as float32; what does not fit becomes infinite, which `Episode` refuses.

    Raises:
        RoboAlignError: the column has another type or width, or empty cells.
    """
    column = _column(path, table, key)
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lengths = set(pc.list_value_length(column).unique().to_pylist())
        column = column.flatten()
    else:
        lengths = {1}
    if not pa.types.is_floating(column.type) or column.null_count or lengths - {width}:
        found = f"{' or '.join(map(str, sorted(lengths)))} of {column.type}"
        raise RoboAlignError(f"{path}: column {key}: expected {width} floats in a row, none empty, found {found}")
    with np.errstate(over="ignore"):
        return column.to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(table), width)


def integers(path: Path, table: pa.Table, key: str) -> NDArray[np.int64]:
    """A column of whole numbers (T,).

    Raises:
        RoboAlignError: the column has another type, or empty cells.
    """
    column = _column(path, table, key)
    if not pa.types.is_integer(column.type):
        raise RoboAlignError(f"{path}: column {key}: expected whole numbers, found {column.type}")
    values: NDArray[np.int64] = column.to_numpy(zero_copy_only=False).astype(np.int64)
    return values


def truths(path: Path, table: pa.Table, key: str) -> NDArray[np.bool_]:
    """A column of true and false (T,).

    Raises:
        RoboAlignError: the column has another type, or empty cells.
    """
    column = _column(path, table, key)
    if not pa.types.is_boolean(column.type):
        raise RoboAlignError(f"{path}: column {key}: expected true or false, found {column.type}")
    values: NDArray[np.bool_] = column.to_numpy(zero_copy_only=False)
    return values


def encoded_images(path: Path, table: pa.Table, key: str) -> Iterator[bytes]:
    """A column of image files, as the bytes that stand in the table itself.

    Raises:
        RoboAlignError: the column has another type, or an image is not there.
    """
    column = table.column(key)
    parts = {field.name: field.type for field in column.type} if pa.types.is_struct(column.type) else {}
    if not any(parts.get("bytes") == kind for kind in (pa.binary(), pa.large_binary())):
        raise RoboAlignError(f"{path}: column {key}: expected images as bytes, found {column.type}")
    for chunk in column.chunks:
        images = chunk.field("bytes")
        if chunk.null_count or images.null_count:  # the image lies at a path instead, which could lead anywhere
            raise RoboAlignError(
                f"{path}: column {key}: expected every image in the file itself, found none in some rows"
            )
        for image in images:
            yield image.as_py()


def _groups(metadata: Any, episode: int) -> tuple[int, ...]:
    """The row groups that may hold rows of an episode."""
    names = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    groups = range(metadata.num_row_groups)
    if _EPISODE not in names:
        return tuple(groups)
    place = names.index(_EPISODE)
    limits = [metadata.row_group(number).column(place).statistics for number in groups]
    return tuple(
        number
        for number, limit in zip(groups, limits, strict=True)
        if limit is None or not limit.has_min_max or limit.min <= episode <= limit.max
    )


def _unpacked_bytes(metadata: Any, columns: Sequence[str], groups: Sequence[int]) -> int:
    names = [metadata.schema.column(place).path for place in range(metadata.num_columns)]
    # of nested columns the path goes on behind a dot
    places = [place for place, name in enumerate(names) if name.startswith(tuple(f"{key}." for key in columns))]
    places += [place for place, name in enumerate(names) if name in columns]
    return sum(
        metadata.row_group(number).column(place).total_uncompressed_size for number in groups for place in places
    )


def _column(path: Path, table: pa.Table, key: str) -> pa.Array:
    column = table.column(key).combine_chunks()
    if column.null_count:
        raise RoboAlignError(f"{path}: column {key}: expected no empty cells, found {column.null_count}")
    return column
