"""Recorded episodes of simulators, as pairs that are drawn afresh: any part of one, under any instruction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roboalign_core.benchmark.oracles import StateOracle
from roboalign_core.benchmark.sources import Source, open_sources, train_rows
from roboalign_core.episodes.cache import FrameCache
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.held_out import STATE
from roboalign_core.rubric import HIGHEST

Array = NDArray[np.float32]

_WHOLE = 0.5  # parts that are the whole episode
_OWN = 0.4  # parts that are judged by the instruction that the robot was given


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some frames of a recording under an instruction.

    Attributes:
        episode: which recording, counted through all of them.
        frames: (T, H, W, 3) uint8, without a copy.
        instruction: that it is judged by.
        scores: (6,) float32, normalised, by the oracle.
        positions: (T, K) float32, standardised; NaN for columns that its store does not record.
    """

    episode: int
    frames: NDArray[np.uint8]
    instruction: str
    scores: Array
    positions: Array


@dataclass(frozen=True)
class _Recorded:
    """A store's episodes that may be learned from."""

    cache: FrameCache
    oracle: StateOracle
    rows: NDArray[np.int64]
    state: NDArray[np.int64]  # columns that the oracle reads
    columns: NDArray[np.int64]  # columns of the positions; -1 where there is none


class Recordings:
    """What stores of simulated episodes hold for training: frames, states, and an oracle to judge any part by.

    A benchmark holds each recording once or twice; here every part of it can be had, under every instruction that its
    oracle knows, and where things were. Episodes that the benchmark has for validation or test are left out.

    Attributes:
        count: of the episodes.
        mean, std: (K,) of the positions over these episodes.
        identity: what a resumed run must find again: source, episodes and frames of each store.
    """

    def __init__(
        self,
        folders: Sequence[str],
        size: tuple[int, int],
        positions: Sequence[str],
        splits: Mapping[str, float],
        seed: int,
    ) -> None:
        """Open stores.

        Args:
            folders: of episode stores that record ``observation.state``.
            size: (H, W) of the frames.
            positions: names of columns of the state.
            splits: shares of the benchmark that is learned from beside these, see :func:`split_of`.
            seed: of that benchmark.

        Raises:
            RoboAlignError: a store is absent or damaged, has no oracle or no state, or no store has one of the columns.
        """
        sources = [source for folder in folders for source in open_sources(Path(folder))]
        self._stores = [_recorded(source, size, positions, splits, seed) for source in sources]
        absent = [name for k, name in enumerate(positions) if all(one.columns[k] < 0 for one in self._stores)]
        if absent:
            raise RoboAlignError(
                f"reward_model.positions: expected columns of {STATE}, found {absent[0]!r} in no store"
            )
        self._ends = np.cumsum([len(one.rows) for one in self._stores])
        self.count = int(self._ends[-1])
        self.mean, self.std = _range(self._stores)
        self.identity = [[source.store.spec.source, len(source.store), source.store.frames] for source in sources]

    @property
    def instructions(self) -> list[str]:
        """All that parts may be judged by."""
        return sorted({text for one in self._stores for text in one.oracle.instructions})

    @property
    def shortest(self) -> int:
        """Frames of the shortest episode."""
        return min(int(one.cache.lengths[one.rows].min()) for one in self._stores)

    def draw(self, random: np.random.Generator, shortest: int) -> Part:
        """A part of at least ``shortest`` frames, or a whole episode that has fewer."""
        number = int(random.integers(self.count))
        place = int(np.searchsorted(self._ends, number, side="right"))
        one = self._stores[place]
        row = int(one.rows[number - self._ends[place]])  # counted from the end of its store
        part = some_frames(int(one.cache.lengths[row]), shortest, random)
        states = one.cache.episode_extra(STATE, row)[part]
        instruction = one.cache.instructions[row]
        if random.random() >= _OWN or instruction not in one.oracle.instructions:
            instruction = str(random.choice(one.oracle.instructions))
        actions = one.cache.episode_actions(row)[part]
        scores = one.oracle.score_states(states[:, one.state], actions, instruction)
        there = np.where(one.columns >= 0, states[:, one.columns], np.nan)
        return Part(
            episode=number,
            frames=one.cache.episode_frames(row)[part],
            instruction=instruction,
            scores=scores / HIGHEST,
            positions=((there - self.mean) / self.std).astype(np.float32),
        )


def _recorded(
    source: Source, size: tuple[int, int], positions: Sequence[str], splits: Mapping[str, float], seed: int
) -> _Recorded:
    if source.oracle is None:
        raise RoboAlignError(
            f"{source.store.path}: expected episodes that an oracle can judge, found those of {source.name!r}"
        )
    check_judged(source)
    where, columns = source.store.path, source.store.spec.extras.get(STATE, ())
    rows = train_rows(source, seed, splits)
    if not rows:
        raise RoboAlignError(f"{where}: expected episodes of the split train, found none among {len(source.store)}")
    return _Recorded(
        FrameCache.open_or_build(source.store, size=size),
        source.oracle,
        np.array(rows),
        np.array([columns.index(name) for name in source.oracle.columns]),
        np.array([columns.index(name) if name in columns else -1 for name in positions], np.int64),
    )


def check_judged(source: Source) -> None:
    """Raise RoboAlignError unless a store records what its source's oracle, which there is, reads."""
    columns = source.store.spec.extras.get(STATE, ())
    for name in source.oracle.columns if source.oracle else ():
        if name not in columns:
            raise RoboAlignError(
                f"{source.store.path}: {STATE}: expected the column {name}, found {', '.join(columns) or 'none'}"
            )


def _range(stores: Sequence[_Recorded]) -> tuple[Array, Array]:
    """Mean and standard deviation (K,) of every position, over the stores that have it."""
    mean, std = [], []
    states = [np.concatenate([one.cache.episode_extra(STATE, int(row)) for row in one.rows]) for one in stores]
    for k in range(len(stores[0].columns)):
        known = [(rows, one.columns[k]) for rows, one in zip(states, stores, strict=True) if one.columns[k] >= 0]
        values = np.concatenate([rows[:, column] for rows, column in known])
        mean.append(values.mean(dtype=np.float64))
        std.append(max(float(values.std(dtype=np.float64)), 1e-6))
    return np.array(mean, np.float32), np.array(std, np.float32)


def some_frames(length: int, shortest: int, random: np.random.Generator) -> slice:
    """All frames of an episode, or a part of at least ``shortest``."""
    if length <= shortest or random.random() < _WHOLE:
        return slice(0, length)
    count = int(random.integers(shortest, length + 1))
    start = int(random.integers(0, length - count + 1))
    return slice(start, start + count)
