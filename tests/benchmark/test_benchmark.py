"""A benchmark on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from roboalign_core.benchmark import Applied, Benchmark, Origin, Pair, Split
from roboalign_core.benchmark.benchmark import finish
from roboalign_core.benchmark.pairs import read_pairs, scores_of, write_pairs
from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec
from roboalign_core.errors import RoboAlignError


def pair(number: int, **changes: object) -> Pair:
    settled = Pair(
        number=number,
        split=Split.TRAIN,
        instruction="push the cube",
        store="toy",
        episode=number,
        source="toy",
        parent=f"toy:{number}",
        origin=Origin.DEGRADED,
        degradations=(Applied("freeze", 0.5, 7),),
        scores=(2.0, 1.0, 1.0, 0.0, 1.0, 2.0),
        labeller="rule",
    )
    return replace(settled, **changes)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            frames=rng.integers(256, size=(4, 16, 16, 3), dtype=np.uint8),
            actions=np.zeros((4, 2), np.float32),
            instruction="push the cube",
            success=True,
            fps=5.0,
            source="toy",
            camera="front",
        )
        for _ in range(3)
    ]
    EpisodeStore.create(tmp_path / "stores" / "toy", StoreSpec.like(episodes[0], lossless=True)).append(episodes)
    finish(tmp_path, [pair(0), pair(1), pair(2, split=Split.TEST)], {"seed": 3})
    return tmp_path


def test_pairs_and_videos_come_back(folder: Path) -> None:
    benchmark = Benchmark.open(folder)
    benchmark.verify(deep=True)
    assert benchmark.info["settings"] == {"seed": 3}
    assert [p.number for p in benchmark.subset(Split.TEST)] == [2]
    assert benchmark.pairs[1] == pair(1)
    expected = EpisodeStore.open(folder / "stores" / "toy")[1].frames
    np.testing.assert_array_equal(benchmark.frames(benchmark.pairs[1]), expected)
    np.testing.assert_array_equal(scores_of(benchmark.pairs).total, [7, 7, 7])


def test_an_episode_in_two_splits_is_refused(tmp_path: Path, folder: Path) -> None:
    pairs = [pair(0), pair(1, parent="toy:0", split=Split.TEST)]
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


def test_a_changed_table_is_noticed(folder: Path) -> None:
    write_pairs(folder / "pairs.parquet", [pair(0), pair(1), pair(2, split=Split.TEST, instruction="other")])
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
def test_a_pair_without_its_video_is_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    write_pairs(folder / "pairs.parquet", [pair(0), pair(1, **changes), pair(2)])
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
