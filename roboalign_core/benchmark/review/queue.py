"""Which pairs a rater sees, and in what order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from roboalign_core.benchmark.benchmark import Benchmark
from roboalign_core.benchmark.pairs import Split
from roboalign_core.errors import RoboAlignError

ALL = "all"


def chosen(benchmark: Benchmark, split: str = ALL, limit: int = 0, seed: int = 0) -> list[int]:
    """Numbers of the pairs to review, the same for every rater; a larger limit adds to a smaller one's.

    Args:
        benchmark: with the pairs.
        split: ``"all"``, or the split's name.
        limit: how many, drawn at random; 0: all of them.
        seed: of the draw.

    Raises:
        RoboAlignError: no such split, no pairs in it, or a limit that it does not have.
    """
    splits = [ALL, *(one.value for one in Split)]
    if split not in splits:
        raise RoboAlignError(f"split: expected one of {', '.join(splits)}, found {split!r}")
    numbers = [pair.number for pair in benchmark.pairs if split in (ALL, pair.split.value)]
    if not numbers:
        raise RoboAlignError(f"split: expected pairs to review, found none in {split!r} of {benchmark.path}")
    if not 0 <= limit <= len(numbers):
        raise RoboAlignError(f"limit: expected 0 (all) to {len(numbers)}, found {limit}")
    drawn = shuffled(numbers, f"{seed} subset")
    return drawn[:limit] if limit else drawn


def queue(numbers: Iterable[int], judged: Sequence[int], rater: str, seed: int = 0) -> list[int]:
    """A rater's pairs: those judged already, in the order of their first judgement, then the others, shuffled.

    Args:
        numbers: of the pairs to review.
        judged: numbers of judged pairs, oldest first; may repeat, and may name others.
        rater: whose order.
        seed: of all orders.
    """
    wanted = set(numbers)
    done = [number for number in dict.fromkeys(judged) if number in wanted]
    return done + shuffled(wanted.difference(done), f"{seed} rater {rater}")


def shuffled(numbers: Iterable[int], seed: str) -> list[int]:
    """Numbers in an order in which any two stand alike, whatever other numbers there are."""
    return sorted(numbers, key=lambda number: hashlib.sha256(f"{seed} {number}".encode()).digest())
