"""A benchmark on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from roboalign_core.benchmark import Benchmark, Pair, Split
from roboalign_core.benchmark.benchmark import finish
from roboalign_core.benchmark.pairs import read_pairs, scores_of, write_pairs
from roboalign_core.episodes import EpisodeStore
from roboalign_core.errors import RoboAlignError

MakePair = Callable[..., Pair]


def test_pairs_and_videos_come_back(folder: Path, make_pair: MakePair) -> None:
    benchmark = Benchmark.open(folder)
    benchmark.verify(deep=True)
    assert benchmark.info["settings"] == {"seed": 3}
    assert [p.number for p in benchmark.subset(Split.TEST)] == [2]
    assert benchmark.pairs[1] == make_pair(1)
    expected = EpisodeStore.open(folder / "stores" / "toy")[1].frames
    np.testing.assert_array_equal(benchmark.frames(benchmark.pairs[1]), expected)
    np.testing.assert_array_equal(scores_of(benchmark.pairs).total, [7, 7, 7])


def test_an_episode_in_two_splits_is_refused(folder: Path, make_pair: MakePair) -> None:
    pairs = [make_pair(0), make_pair(1, parent="toy:0", split=Split.TEST)]
    with pytest.raises(RoboAlignError, match="pair 1: toy:0: expected in train alone, found in test, too"):
        finish(folder, pairs, {})


def test_an_unfinished_or_foreign_folder_is_refused(folder: Path) -> None:
    info = json.loads((folder / "benchmark.json").read_text())
    (folder / "benchmark.json").write_text(json.dumps({**info, "version": 9}))
    with pytest.raises(RoboAlignError, match="version: expected 1, found 9"):
        Benchmark.open(folder)
    (folder / "benchmark.json").unlink()
    with pytest.raises(RoboAlignError, match=r"expected a finished benchmark, found no benchmark\.json"):
        Benchmark.open(folder)


def test_a_changed_table_is_noticed(folder: Path, make_pair: MakePair) -> None:
    write_pairs(
        folder / "pairs.parquet", [make_pair(0), make_pair(1), make_pair(2, split=Split.TEST, instruction="other")]
    )
    with pytest.raises(RoboAlignError, match=r"pairs\.parquet: expected SHA-256"):
        Benchmark.open(folder).verify()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode": 3}, "row 1: expected an episode of"),
        ({"store": "../toy"}, "row 1: expected an episode of"),
        ({"episode": -1}, "row 1: expected an episode of"),
    ],
)
def test_a_pair_without_its_video_is_refused(
    folder: Path, make_pair: MakePair, changes: dict[str, object], message: str
) -> None:
    write_pairs(folder / "pairs.parquet", [make_pair(0), make_pair(1, **changes), make_pair(2)])
    with pytest.raises(RoboAlignError, match=message):
        Benchmark.open(folder)


def test_stores_are_plain_names(folder: Path) -> None:
    info = json.loads((folder / "benchmark.json").read_text())
    (folder / "benchmark.json").write_text(json.dumps({**info, "stores": {"../x": 3}}))
    with pytest.raises(RoboAlignError, match="stores: expected plain names"):
        Benchmark.open(folder)


def test_a_damaged_table_is_refused(folder: Path) -> None:
    path = folder / "pairs.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop(["labeller"]), path)
    with pytest.raises(RoboAlignError, match="column labeller: expected string, found no such column"):
        read_pairs(path)
    position = table.column_names.index("split")
    pq.write_table(table.set_column(position, "split", [["train", "dev", "test"]]), path)
    with pytest.raises(RoboAlignError, match="row 1: 'dev' is not a valid Split"):
        read_pairs(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(RoboAlignError, match="expected a readable parquet file"):
        read_pairs(path)
