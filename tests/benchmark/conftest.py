"""A small benchmark, written by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from roboalign_core.benchmark import Applied, Origin, Pair, Split
from roboalign_core.benchmark.benchmark import finish
from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec

MakePair = Callable[..., Pair]


@pytest.fixture(scope="session")
def make_pair() -> MakePair:
    def make(number: int, **changes: object) -> Pair:
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

    return make


@pytest.fixture
def folder(tmp_path: Path, make_pair: MakePair) -> Path:
    """Three pairs of noise."""
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
    root = tmp_path / "benchmark"
    EpisodeStore.create(root / "stores" / "toy", StoreSpec.like(episodes[0], lossless=True)).append(episodes)
    finish(root, [make_pair(0), make_pair(1), make_pair(2, split=Split.TEST)], {"seed": 3})
    return root
