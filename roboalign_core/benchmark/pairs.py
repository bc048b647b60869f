"""One pair of RobotWorldBench (RoboAlign-R1, section on the benchmark), and the table that holds all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import atomic_path
from roboalign_core.rubric import KEYS, Scores


class Split(str, Enum):
    """Which pairs are for what. All pairs of one recorded episode are in one split."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Origin(str, Enum):
    """Where a video comes from."""

    RECORDED = "recorded"  # as the camera or the simulator's renderer saw it
    DEGRADED = "degraded"  # recorded, then damaged on purpose
    GENERATED = "generated"  # a world model's rollout


@dataclass(frozen=True, slots=True)
class Applied:
    """One degradation that was applied: its name, how strongly (0 to 1), and the seed of its draws."""

    name: str
    strength: float
    seed: int


@dataclass(frozen=True, slots=True)
class Pair:
    """One video with one instruction and its scores.

    Attributes:
        number: place in the benchmark.
        split: what it is for.
        instruction: that the video is judged by; not always the one that its robot was given.
        store: the store below ``stores/`` that holds the video.
        episode: its number in that store.
        source: of the recording, e.g. ``"tabletop"``, ``"bridge"``.
        parent: the recorded episode that it was made from, the same text for everything made from it.
        origin: recorded, degraded or generated.
        degradations: in the order of their application.
        scores: the six, in the order of ``DIMENSIONS``.
        labeller: who scored it: ``"rule"``, ``"oracle"``, ``"judge:NAME"`` or ``"human"``.
        provenance: of a generated video: which model, which settings; else empty.
    """

    number: int
    split: Split
    instruction: str
    store: str
    episode: int
    source: str
    parent: str
    origin: Origin
    degradations: tuple[Applied, ...]
    scores: tuple[float, ...]
    labeller: str
    provenance: str = ""

    def __post_init__(self) -> None:
        Scores(np.array([self.scores], np.float32))


def scores_of(pairs: Sequence[Pair]) -> Scores:
    """The scores of B pairs."""
    return Scores(np.array([pair.scores for pair in pairs], np.float32).reshape(-1, len(KEYS)))


_APPLIED = pa.struct([("name", pa.string()), ("strength", pa.float64()), ("seed", pa.int64())])
_SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("split", pa.string()),
        ("instruction", pa.string()),
        ("store", pa.string()),
        ("episode", pa.int64()),
        ("source", pa.string()),
        ("parent", pa.string()),
        ("origin", pa.string()),
        ("degradations", pa.list_(_APPLIED)),
        *((key, pa.float32()) for key in KEYS),
        ("labeller", pa.string()),
        ("provenance", pa.string()),
    ]
)


def write_pairs(path: Path, pairs: Sequence[Pair]) -> None:
    """Write the table, whole or not at all."""
    rows = [_row(pair) for pair in pairs]
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), temporary, compression="snappy")


def read_pairs(path: Path) -> list[Pair]:
    """Read the table.

    Raises:
        RoboAlignError: it is absent or damaged, a column is missing or of another type, or a row makes no sense.
    """
    if not path.is_file():
        raise RoboAlignError(f"{path}: expected a table of pairs, found nothing there")
    try:
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RoboAlignError(f"{path}: expected a readable parquet file, found: {error}") from error
    for field in _SCHEMA:
        found = table.schema.field(field.name).type if field.name in table.column_names else "no such column"
        if found != field.type:
            raise RoboAlignError(f"{path}: column {field.name}: expected {field.type}, found {found}")
        if table.column(field.name).null_count:
            raise RoboAlignError(f"{path}: column {field.name}: expected no empty cells, found some")
    return [_pair(path, number, row) for number, row in enumerate(table.to_pylist())]


def _row(pair: Pair) -> dict[str, Any]:
    return {
        "number": pair.number,
        "split": pair.split.value,
        "instruction": pair.instruction,
        "store": pair.store,
        "episode": pair.episode,
        "source": pair.source,
        "parent": pair.parent,
        "origin": pair.origin.value,
        "degradations": [{"name": a.name, "strength": a.strength, "seed": a.seed} for a in pair.degradations],
        **dict(zip(KEYS, pair.scores, strict=True)),
        "labeller": pair.labeller,
        "provenance": pair.provenance,
    }


def _pair(path: Path, number: int, row: dict[str, Any]) -> Pair:
    try:
        if row["number"] != number:
            raise ValueError(f"number: expected {number}, found {row['number']}")
        return Pair(
            number=number,
            split=Split(row["split"]),
            instruction=row["instruction"],
            store=row["store"],
            episode=row["episode"],
            source=row["source"],
            parent=row["parent"],
            origin=Origin(row["origin"]),
            degradations=tuple(Applied(**applied) for applied in row["degradations"]),
            scores=tuple(row[key] for key in KEYS),
            labeller=row["labeller"],
            provenance=row["provenance"],
        )
    except (ValueError, TypeError, RoboAlignError) as error:
        raise RoboAlignError(f"{path}: row {number}: {error}") from error


def provenance(**facts: Any) -> str:
    """Facts about a generated video as one line of JSON, keys sorted."""
    return json.dumps(facts, sort_keys=True)
