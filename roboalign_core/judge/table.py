"""Judgements of a benchmark's pairs on disk: parts while they are made, then one table."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import atomic_path, read_json, remove_leftovers, write_json
from roboalign_core.judge.cache import writable
from roboalign_core.judge.protocol import Judgement
from roboalign_core.rubric import KEYS, Scores

_ABOUT = b"roboalign.judge"
_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        *((key, pa.float32()) for key in KEYS),
        *((f"{key}_std", pa.float32()) for key in KEYS),
        ("replies", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, slots=True, eq=False)
class Judgements:
    """What a judge said about N pairs of a benchmark.

    Attributes:
        numbers: (N,) int64, which pairs, increasing.
        judgement: of these.
        about: the judge's description, and the checksum of the pairs that it saw.
    """

    numbers: npt.NDArray[np.int64]
    judgement: Judgement
    about: Mapping[str, Any]


def read_judgements(path: str | os.PathLike[str]) -> Judgements:
    """Read a table that ``roboalign benchmark annotate`` wrote.

    Raises:
        RoboAlignError: it is absent or damaged, or another kind of table.
    """
    if not Path(path).is_file():
        raise RoboAlignError(f"{path}: expected a table of judgements, found nothing there")
    try:
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RoboAlignError(f"{path}: expected a readable parquet file, found: {error}") from error
    about = about_of(path, table)
    if about is None or not table.schema.remove_metadata().equals(_SCHEMA):
        raise RoboAlignError(f"{path}: expected a table of judgements, found columns {', '.join(table.column_names)}")
    return _judgements(table.to_pylist(), about)


def about_of(path: str | os.PathLike[str], table: pa.Table) -> dict[str, Any] | None:
    """The judge's description in a table, and the checksum of the pairs that it saw; None where there is neither.

    Raises:
        RoboAlignError: it is no JSON object.
    """
    text = (table.schema.metadata or {}).get(_ABOUT)
    if text is None:
        return None
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RoboAlignError(f"{path}: {_ABOUT.decode()}: expected JSON, found: {error}") from error
    if not isinstance(about, dict):
        raise RoboAlignError(f"{path}: {_ABOUT.decode()}: expected an object, found {type(about).__name__}")
    return about


class JudgementTable:
    """A table that grows in parts, each of them whole or absent.

    Args:
        path: of the finished table; parts lie in ``<path>.parts/`` until there is one.
        about: the judge's description; parts and tables of another one are refused.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path, self.about = path, json.loads(json.dumps(about))
        self.parts = path.with_name(f"{path.name}.parts")
        self.rows: dict[int, dict[str, Any]] = {}

    def resume(self) -> None:
        """Read what is there.

        Raises:
            RoboAlignError: it is another judge's.
        """
        if self.path.is_file():
            found = read_judgements(self.path)
            self._check(self.path, found.about)
            self.rows = {row["number"]: row for row in rows_of(found.numbers.tolist(), found.judgement)}
        if self.parts.is_dir():
            remove_leftovers(self.parts)
        for part in sorted(self.parts.glob("*.json")):
            content = read_json(part)
            self._check(part, content["about"])
            self.rows |= {row["number"]: {**row, "replies": _texts(row["replies"])} for row in content["rows"]}

    def add(self, numbers: Sequence[int], judgement: Judgement) -> None:
        """Keep the judgement of so many pairs."""
        rows = rows_of(numbers, judgement)
        write_json(self.parts / f"{numbers[0]:08d}.json", {"about": self.about, "rows": rows})
        self.rows |= {row["number"]: row for row in rows}

    def finish(self) -> Judgements:
        """Write the table, and remove the parts."""
        rows = [self.rows[number] for number in sorted(self.rows)]
        schema = _SCHEMA.with_metadata({_ABOUT: json.dumps(self.about).encode()})
        with atomic_path(self.path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
        shutil.rmtree(self.parts, ignore_errors=True)
        return _judgements(rows, self.about)

    def _check(self, where: Path, found: Mapping[str, Any]) -> None:
        differs = sorted(key for key in self.about.keys() | found.keys() if self.about.get(key) != found.get(key))
        if differs:
            key = differs[0]
            raise RoboAlignError(
                f"{where}: expected judgements of the same judge with the same settings, found another {key}: "
                f"{found.get(key)!r} against {self.about.get(key)!r}; choose a new name= or remove the file"
            )


def rows_of(numbers: Sequence[int], judgement: Judgement) -> list[dict[str, Any]]:
    """One row of the table for each pair."""
    return [
        {
            "number": int(number),
            **scores,
            **{f"{key}_std": float(value) for key, value in zip(KEYS, std, strict=True)},
            "replies": _texts(replies),
        }
        for number, scores, std, replies in zip(
            numbers, judgement.scores.rows(), judgement.std, judgement.replies, strict=True
        )
    ]


def _texts(replies: Sequence[str]) -> list[str]:
    """As a table of UTF-8 holds them."""
    return [writable(reply) for reply in replies]


def _judgements(rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> Judgements:
    raw, std = (
        np.array([[row[f"{key}{suffix}"] for key in KEYS] for row in rows], np.float32).reshape(-1, len(KEYS))
        for suffix in ("", "_std")
    )
    replies = tuple(tuple(row["replies"]) for row in rows)
    numbers = np.array([row["number"] for row in rows], np.int64)
    return Judgements(numbers, Judgement(Scores(raw), std, replies), about)
