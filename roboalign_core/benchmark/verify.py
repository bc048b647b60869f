"""``roboalign benchmark verify``: is everything in a benchmark, or in a store, as it was written?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from roboalign_core.benchmark.benchmark import INFO, Benchmark
from roboalign_core.episodes import EpisodeStore
from roboalign_core.verb import Verb


@dataclass
class VerifyConfig:
    """What to look at, and how closely.

    Attributes:
        path: a benchmark's folder, or a store's.
        deep: also compare all checksums and decode every video.
    """

    path: str = MISSING
    deep: bool = True


def verify(config: VerifyConfig) -> Mapping[str, Any]:
    """Check a benchmark or a store.

    Returns:
        what was found whole: stores, episodes, frames, and pairs of a benchmark.

    Raises:
        RoboAlignError: the first thing that is wrong, naming the file, what was expected and what was found.
    """
    root = Path(config.path)
    if not (root / INFO).is_file():
        store = EpisodeStore.open(root)
        store.verify(config.deep)
        return {"stores": 1, "episodes": len(store), "frames": store.frames}
    benchmark = Benchmark.open(root)
    benchmark.verify(config.deep)
    stores = [benchmark.store(name) for name in benchmark.info["stores"]]
    return {
        "pairs": len(benchmark.pairs),
        "stores": len(stores),
        "episodes": sum(len(store) for store in stores),
        "frames": sum(store.frames for store in stores),
    }


VERB = Verb("benchmark verify", "check the files of a benchmark or of a store", VerifyConfig, verify, positional="path")
