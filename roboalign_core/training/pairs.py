"""Benchmarks as training data: one or several, behind one face."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from roboalign_core.benchmark import Benchmark, Pair, Split
from roboalign_core.errors import RoboAlignError


class PairData:
    """The pairs to train on, of one or more benchmarks. Videos are decoded when they are asked for.

    Attributes:
        pairs: of the split ``train``, with the benchmark that holds each.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        if not folders:
            raise RoboAlignError("data: expected at least one folder of a benchmark, found none")
        self.benchmarks = [Benchmark.open(folder) for folder in folders]
        for benchmark in self.benchmarks:
            benchmark.verify()
        self.pairs: list[tuple[Benchmark, Pair]] = [
            (benchmark, pair) for benchmark in self.benchmarks for pair in benchmark.subset(Split.TRAIN)
        ]
        if not self.pairs:
            raise RoboAlignError(f"data: expected pairs of the split train, found none in {', '.join(folders)}")

    @property
    def episodes(self) -> int:
        """Videos to train on."""
        return len(self.pairs)

    @property
    def identity(self) -> list[Any]:
        """What a resumed run must find again: the checksums of each benchmark."""
        return [benchmark.info["sha256"] for benchmark in self.benchmarks]
