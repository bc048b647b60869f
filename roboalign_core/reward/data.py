"""The videos of a benchmark, decoded once, and the labels that a student learns."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from roboalign_core.benchmark import Benchmark, Pair, Split
from roboalign_core.benchmark.benchmark import PAIRS
from roboalign_core.benchmark.pairs import scores_of
from roboalign_core.episodes.cache import FrameCache
from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.table import about_of
from roboalign_core.reward.damages import Damages
from roboalign_core.reward.recordings import Recordings
from roboalign_core.rubric import KEYS, Scores

Array = NDArray[np.float32]


class PairVideos:
    """Frames of a benchmark's pairs at one size, mapped from disk.

    Nothing is decoded before frames are asked for. Every store is then decoded once, into its own cache.
    """

    def __init__(self, benchmark: Benchmark, size: tuple[int, int]) -> None:
        self.benchmark, self.size = benchmark, size
        self._caches: dict[str, FrameCache] = {}

    def cache(self, store: str) -> FrameCache:
        """All videos of a store."""
        if store not in self._caches:
            self._caches[store] = FrameCache.open_or_build(self.benchmark.store(store), size=self.size)
        return self._caches[store]

    def frames(self, pair: Pair) -> NDArray[np.uint8]:
        """(T, H, W, 3) uint8, without a copy."""
        return self.cache(pair.store).episode_frames(pair.episode)

    def success(self, pair: Pair) -> float:
        """Whether the recorded episode succeeded: 1, 0, or NaN where that is unknown."""
        return float(self.cache(pair.store).success[pair.episode])

    def told(self, pair: Pair) -> str:
        """The instruction that the robot of the recording was given."""
        return self.cache(pair.store).instructions[pair.episode]


class RewardData:
    """What the student is trained on: pairs of the split ``train``, checked on those of ``validation``.

    Attributes:
        videos: where the frames come from.
        pairs: of each of the two splits.
        labels: their normalised scores (N, 6).
        recordings: of simulators, that parts are drawn from beside the pairs; None where no store is named.
        damages: recordings that are drawn with a damage each; None where no store is named.
    """

    def __init__(
        self,
        folder: str,
        size: tuple[int, int],
        judgements: str = "",
        labellers: Sequence[str] = (),
        recordings: Sequence[str] = (),
        positions: Sequence[str] = (),
        damaged: Sequence[str] = (),
        words: int = 64,
    ) -> None:
        """Open a benchmark, and stores.

        Args:
            folder: of the benchmark.
            size: (H, W) of the frames.
            judgements: a parquet table of other scores, see :func:`read_judgements`; pairs without one are left out.
            labellers: take only pairs that one of these scored; none: all.
            recordings: folders of stores of simulated episodes.
            positions: columns of their state, see :class:`Recordings`.
            damaged: folders of stores that are drawn from with damages, see :class:`Damages`.
            words: of the longest instruction that the student takes.

        Raises:
            RoboAlignError: the benchmark, the table or a store is damaged, one of the two splits has no pairs, or
                stores are named beside a benchmark that does not say which episodes it holds back.
        """
        benchmark = Benchmark.open(folder)
        benchmark.verify()
        self.videos = PairVideos(benchmark, size)
        self._judgements = Path(judgements) if judgements else None
        table = read_judgements(self._judgements, benchmark) if self._judgements else None
        self.pairs: dict[Split, list[Pair]] = {}
        self.labels: dict[Split, Array] = {}
        for split in (Split.TRAIN, Split.VALIDATION):
            found = [pair for pair in benchmark.subset(split) if not labellers or pair.labeller in labellers]
            kept = [pair for pair in found if table is None or pair.number in table]
            if not kept:
                why = f" by {', '.join(labellers)}" if labellers else ""
                why += f" with a row in {judgements}" if judgements else ""
                raise RoboAlignError(f"benchmark {folder}: expected pairs of the split {split.value}{why}, found none")
            scores = scores_of(kept) if table is None else _scores(table, kept)
            self.pairs[split], self.labels[split] = kept, scores.normalised
        self.recordings, self.damages = None, None
        if recordings or damaged:
            info = self._held_back(folder, [*recordings, *damaged])
            splits, number = info["splits"], info["seed"]
            if recordings:
                self.recordings = Recordings(recordings, size, positions, splits, number)
            if damaged:
                self.damages = Damages(damaged, size, info.get("instructions") or {}, splits, number, words)

    def _held_back(self, folder: str, stores: Sequence[str]) -> Mapping[str, Any]:
        """The settings of the benchmark, which say what it holds back."""
        settings: Mapping[str, Any] = self.videos.benchmark.info.get("settings", {})
        if not {"splits", "seed"} <= settings.keys():
            raise RoboAlignError(
                f"benchmark {folder}: expected the splits and the seed of `benchmark build`, to hold back the same "
                f"episodes of {', '.join(stores)}, found none"
            )
        return settings

    @cached_property
    def identity(self) -> list[Any]:
        """What a resumed run must find again: checksums of the benchmark and of the judgements, and the stores."""
        found: list[Any] = [dict(self.videos.benchmark.info["sha256"])]
        if self._judgements is not None:
            found.append(hashlib.sha256(self._judgements.read_bytes()).hexdigest())
        if self.recordings is not None:
            found.append(self.recordings.identity)
        if self.damages is not None:
            found.append(self.damages.identity)
        return found

    @property
    def episodes(self) -> int:
        """Different videos among the pairs of both splits."""
        return len({(pair.store, pair.episode) for pairs in self.pairs.values() for pair in pairs})


def read_judgements(path: Path, benchmark: Benchmark) -> dict[int, Array]:
    """Scores (6,) by the number of the pair: the mean where a pair was judged several times.

    Args:
        path: a parquet table with a column ``number`` (of the pair) and one for each key of the rubric.
        benchmark: whose pairs were judged.

    Raises:
        RoboAlignError: the table is absent or damaged, lacks a column, holds scores out of range, or says that it is
            of the pairs of another benchmark.
    """
    if not path.is_file():
        raise RoboAlignError(f"{path}: expected a table of judgements, found nothing there")
    try:
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RoboAlignError(f"{path}: expected a readable parquet file, found: {error}") from error
    _check_judged(path, table, benchmark)
    lacking = [name for name in ("number", *KEYS) if name not in table.column_names or table[name].null_count]
    if lacking:
        raise RoboAlignError(f"{path}: expected the column {lacking[0]} without empty cells, found none")
    try:
        numbers = table["number"].cast(pa.int64()).to_numpy()
        raw = np.stack([table[key].cast(pa.float64()).to_numpy() for key in KEYS], axis=1)
        Scores(raw.astype(np.float32))
    except (pa.ArrowException, RoboAlignError) as error:
        raise RoboAlignError(f"{path}: {error}") from error
    last = len(benchmark.pairs) - 1
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() <= last:
        raise RoboAlignError(f"{path}: number: expected 0 to {last}, found {numbers.min()} to {numbers.max()}")
    return {int(number): raw[numbers == number].mean(0).astype(np.float32) for number in np.unique(numbers)}


def _check_judged(path: Path, table: pa.Table, benchmark: Benchmark) -> None:
    """A table of ``benchmark annotate`` names the pairs that were judged; numbers alone fit any benchmark."""
    about = about_of(path, table)
    if about is None:
        return
    expected, found = benchmark.info["sha256"][PAIRS], about.get("pairs")
    if found != expected:
        raise RoboAlignError(
            f"{path}: expected judgements of the pairs of {benchmark.path} (SHA-256 {expected}), "
            f"found those of another benchmark ({found})"
        )


def _scores(table: Mapping[int, Array], pairs: Sequence[Pair]) -> Scores:
    return Scores(np.stack([table[pair.number] for pair in pairs]))
