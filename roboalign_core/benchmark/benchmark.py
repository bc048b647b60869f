"""A benchmark on disk: the pairs in one table, their videos in stores beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.benchmark.pairs import Pair, Split, read_pairs, write_pairs
from roboalign_core.episodes import Episode, EpisodeStore
from roboalign_core.episodes.layout import FileRecord
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json

VERSION = 1
INFO = "benchmark.json"
PAIRS = "pairs.parquet"
STORES = "stores"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")  # store names become folders


class Benchmark:
    """A folder of pairs.

    ``benchmark.json`` is written last and names the checksums of the table and of every store's ``info.json`` (which
    names those of the store's files): a folder without it is not finished.

    Attributes:
        path: the folder.
        info: what ``benchmark.json`` says.
        pairs: all pairs, in the order of their numbers.
    """

    def __init__(self, path: Path, info: Mapping[str, Any], pairs: list[Pair]) -> None:
        """Use `open`."""
        self.path, self.info, self.pairs = path, info, pairs
        self.store = cache(self._open_store)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Benchmark:
        """Open a finished benchmark.

        Raises:
            RoboAlignError: there is none, it is unfinished, damaged, or of another version.
        """
        root = Path(path)
        if not (root / INFO).is_file():
            raise RoboAlignError(f"{root}: expected a finished benchmark, found no {INFO}")
        info = read_json(root / INFO)
        if not isinstance(info, dict) or info.get("version") != VERSION:
            found = info.get("version") if isinstance(info, dict) else type(info).__name__
            raise RoboAlignError(f"{root / INFO}: version: expected {VERSION}, found {found}")
        pairs = read_pairs(root / PAIRS)
        if len(pairs) != info.get("pairs"):
            raise RoboAlignError(f"{root / PAIRS}: expected {info.get('pairs')} pairs, found {len(pairs)}")
        benchmark = cls(root, info, pairs)
        benchmark._check_places()
        return benchmark

    def subset(self, split: Split) -> list[Pair]:
        """The pairs of a split."""
        return [pair for pair in self.pairs if pair.split is split]

    def episode(self, pair: Pair) -> Episode:
        """The video of a pair as an episode, decoded; its instruction is that of the recording."""
        return self.store(pair.store)[pair.episode]

    def frames(self, pair: Pair) -> NDArray[np.uint8]:
        """The video of a pair, (T, H, W, 3) uint8."""
        return self.episode(pair).frames

    def verify(self, deep: bool = False) -> None:
        """Check checksums, stores, and that no episode is in two splits.

        Args:
            deep: also compare the checksums of all videos and decode them.

        Raises:
            RoboAlignError: the first thing that is wrong.
        """
        for name, expected in self._checksums().items():
            found = FileRecord.of(self.path / name).sha256
            if found != expected:
                raise RoboAlignError(f"{self.path / name}: expected SHA-256 {expected}, found {found}")
        check_splits(self.pairs)
        for name in self.info["stores"]:
            self.store(name).verify(deep)

    def _checksums(self) -> Mapping[str, str]:
        checksums: Mapping[str, str] = self.info["sha256"]
        return checksums

    def _open_store(self, name: str) -> EpisodeStore:
        return EpisodeStore.open(self.path / STORES / name)

    def _check_places(self) -> None:
        """Every store is a plain name that the benchmark lists, and holds the episodes that the pairs name."""
        stores = self.info.get("stores")
        if not isinstance(stores, dict) or not all(_NAME.fullmatch(str(name)) for name in stores):
            raise RoboAlignError(f"{self.path / INFO}: stores: expected plain names, found {stores!r}")
        for pair in self.pairs:
            if not 0 <= pair.episode < stores.get(pair.store, 0):
                raise RoboAlignError(
                    f"{self.path / PAIRS}: row {pair.number}: expected an episode of {stores}, "
                    f"found {pair.episode} of {pair.store!r}"
                )


def check_splits(pairs: Sequence[Pair]) -> None:
    """Refuse pairs of one recorded episode in two splits.

    Raises:
        RoboAlignError: naming the first such episode.
    """
    splits: dict[str, Split] = {}
    for pair in pairs:
        if splits.setdefault(pair.parent, pair.split) is not pair.split:
            expected = splits[pair.parent].value
            raise RoboAlignError(
                f"pair {pair.number}: {pair.parent}: expected in {expected} alone, found in {pair.split.value}, too"
            )


def finish(path: Path, pairs: Sequence[Pair], settings: Mapping[str, Any]) -> Benchmark:
    """Write the table and then ``benchmark.json`` beside stores that are whole already.

    Args:
        path: the folder, with its stores below ``stores/``.
        pairs: all pairs; ``number`` counts from 0.
        settings: what the benchmark was made with, kept as it is.
    """
    check_splits(pairs)
    write_pairs(path / PAIRS, pairs)
    stores = {folder.name: len(EpisodeStore.open(folder)) for folder in sorted((path / STORES).iterdir())}
    files = [PAIRS, *(f"{STORES}/{name}/meta/info.json" for name in stores)]
    info = {
        "version": VERSION,
        "pairs": len(pairs),
        "stores": stores,
        "sha256": {name: FileRecord.of(path / name).sha256 for name in files},
        "settings": dict(settings),
    }
    write_json(path / INFO, info)
    return Benchmark.open(path)
