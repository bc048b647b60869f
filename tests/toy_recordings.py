"""Recorded episodes of a square that moves along a line, with where it is, and an oracle that says how far it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec
from roboalign_core.rubric import HIGHEST

TELLS: Mapping[str, int] = {"move it right": 1, "move it left": -1, "move it far right": 3}
COLUMNS = ("thing.x",)
_LENGTH, _STATE, _ENOUGH = 12, "observation.state", 3.0  # frames; pixels


@dataclass(frozen=True)
class ToyOracle:
    """Full marks but for how far the square came, in pixels, where it was told to go."""

    source: str = "toy"
    columns: tuple[str, ...] = COLUMNS
    instructions: tuple[str, ...] = tuple(TELLS)

    def outcome(self, places: NDArray[Any], instruction: str) -> NDArray[np.float32]:
        """(6,) scores of places (T,)."""
        scores, way = HIGHEST.astype(np.float32).copy(), TELLS[instruction]
        if (places[-1] - places[0]) * np.sign(way) < _ENOUGH * abs(way):
            scores[:2] = 0
        return scores

    def score(self, episode: Episode, instruction: str) -> NDArray[np.float32]:
        """Of a whole episode."""
        return self.outcome(episode.extras[_STATE][:, 0], instruction)

    def score_states(self, states: NDArray[Any], actions: NDArray[Any], instruction: str) -> NDArray[np.float32]:
        """Of states (T, 1)."""
        assert len(states) == len(actions)
        return self.outcome(states[:, 0], instruction)


def patch_oracle(monkeypatch: pytest.MonkeyPatch) -> ToyOracle:
    """The oracle of episodes of the source ``toy``."""
    oracle = ToyOracle()
    monkeypatch.setattr("roboalign_core.benchmark.sources.load_oracle", lambda source: oracle)
    return oracle


def make_recordings(folder: Path, episodes: int, columns: Sequence[str] = COLUMNS, seed: int = 0) -> Path:
    """A store of episodes; every column but the first is 0."""
    random = np.random.default_rng(seed)
    made = [_episode(random, len(columns)) for _ in range(episodes)]
    spec = StoreSpec.like(made[0], lossless=True, extras={_STATE: tuple(columns)})
    EpisodeStore.create(folder, spec).append(made)
    return folder


def _episode(random: np.random.Generator, columns: int) -> Episode:
    first, speed = random.uniform(8, 20), random.uniform(-0.5, 0.9)
    places = np.rint(first + speed * np.arange(_LENGTH))
    frames = np.full((_LENGTH, 32, 32, 3), 90, np.uint8) + random.integers(0, 8, (1, 32, 32, 1), dtype=np.uint8)
    for frame, place in zip(frames, places.astype(int), strict=True):
        frame[13:20, place - 3 : place + 4] = (220, 50, 40)
    state = np.zeros((_LENGTH, columns), np.float32)
    state[:, 0] = places
    return Episode(
        frames=frames,
        actions=random.uniform(-1, 1, (_LENGTH, 2)).astype(np.float32),
        instruction="move it right",
        success=bool(places[-1] - places[0] >= _ENOUGH),
        fps=5.0,
        source="toy",
        camera="top",
        extras={_STATE: state},
    )
