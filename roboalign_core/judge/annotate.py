"""``roboalign benchmark annotate``: what a judge says about the pairs of a benchmark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from omegaconf import MISSING

from roboalign_core.benchmark import Benchmark, Origin, Pair, Split
from roboalign_core.benchmark.pairs import scores_of
from roboalign_core.episodes.locking import exclusive
from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.choose import make_judge
from roboalign_core.judge.opinions import opinions
from roboalign_core.judge.parser import ReplyError
from roboalign_core.judge.protocol import Judge, Judgement, Video
from roboalign_core.judge.table import Judgements, JudgementTable
from roboalign_core.rubric import KEYS
from roboalign_core.verb import Verb

FOLDER = "judgements"  # in a benchmark; no part of it: checksums do not cover what judges say later
ALL = "all"


@dataclass
class AnnotateConfig:
    """Settings; ``configs/benchmark_annotate.yaml`` explains each."""

    path: str = MISSING
    judge: Any = MISSING
    name: str = ""
    split: str = ALL
    origin: str = ALL
    limit: int = 0
    chunk: int = 16
    unjudged: int = 0
    out: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("split", Split), ("origin", Origin)):
            if getattr(self, name) not in (ALL, *(each.value for each in known)):
                expected = ", ".join((ALL, *(each.value for each in known)))
                raise RoboAlignError(f"{name}: expected one of {expected}, found {getattr(self, name)!r}")
        for name, least in (("limit", 0), ("chunk", 1), ("unjudged", 0)):
            if getattr(self, name) < least:
                raise RoboAlignError(f"{name}: expected at least {least}, found {getattr(self, name)}")
        if self.name and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", self.name):
            raise RoboAlignError(f"name: expected letters, digits, dots, dashes and underscores, found {self.name!r}")


def run(config: AnnotateConfig) -> Mapping[str, Any]:
    """Judge what has no judgement yet, chunk by chunk; the same command goes on where it stopped.

    Returns:
        How many, how far the judge agrees with itself and with the benchmark's labels, and what was asked.

    Raises:
        RoboAlignError: the judge fails, or more pairs than ``unjudged`` get no scores. What was judged is kept.
    """
    benchmark = Benchmark.open(config.path)
    pairs = _selected(benchmark, config)
    folder = benchmark.path / FOLDER
    judge = make_judge(config.judge, cache=str(folder / "cache"))
    name = config.name or re.sub(r"[^A-Za-z0-9_.\-]+", "_", judge.name).lstrip(".-")
    about = {**judge.describe(), "pairs": benchmark.info["sha256"]["pairs.parquet"]}
    with exclusive(folder / f".{name}.lock"):
        table = JudgementTable(folder / f"{name}.parquet", about)
        table.resume()
        open_ones = [pair for pair in pairs if pair.number not in table.rows]
        failures: list[str] = []
        for first in range(0, len(open_ones), config.chunk):
            failures += _judge(benchmark, judge, open_ones[first : first + config.chunk], table)
            if len(failures) > config.unjudged:
                raise RoboAlignError(
                    f"judge {judge.name}: expected at most unjudged={config.unjudged} pairs without scores, "
                    f"found {len(failures)}; {failures[0]}"
                )
        judgements = table.finish()
    return {
        "table": str(table.path),
        "pairs": len(pairs) - len(failures),
        "unjudged": len(failures),
        **_agreement(benchmark, judgements, {pair.number for pair in pairs}),
        **_spent(judge),
        "detail": {"failures": failures, "judge": dict(about)},
    }


def _selected(benchmark: Benchmark, config: AnnotateConfig) -> list[Pair]:
    pairs = [
        pair
        for pair in benchmark.pairs
        if config.split in (ALL, pair.split.value) and config.origin in (ALL, pair.origin.value)
    ]
    if not pairs:
        raise RoboAlignError(
            f"{benchmark.path}: expected pairs with split={config.split} origin={config.origin}, found none"
        )
    return pairs[: config.limit or None]


def _judge(benchmark: Benchmark, judge: Judge, pairs: Sequence[Pair], table: JudgementTable) -> list[str]:
    """Judge and keep. Returns why, for each pair without scores."""
    failures = []
    for places, found in opinions(judge, [_video(benchmark, pair) for pair in pairs]):
        if isinstance(found, ReplyError):
            failures.append(f"pair {pairs[places[0]].number}: {found}")
        else:
            table.add([pairs[place].number for place in places], found)
    return failures


def _video(benchmark: Benchmark, pair: Pair) -> Video:
    """With its episode where the state in it is that of the picture."""
    episode = benchmark.episode(pair)
    return Video(episode.frames, pair.instruction, episode if pair.origin is Origin.RECORDED else None)


def _agreement(benchmark: Benchmark, judgements: Judgements, wanted: set[int]) -> dict[str, float]:
    """With itself (deviation of its samples), and with the labels (absolute error, rank correlation of the total)."""
    kept = np.isin(judgements.numbers, sorted(wanted))
    if not kept.any():
        return {}
    judgement: Judgement = judgements.judgement
    labels = scores_of([benchmark.pairs[number] for number in judgements.numbers[kept]])
    errors = np.abs(judgement.scores.raw[kept] - labels.raw)
    totals = judgement.scores.total[kept]
    figures = {"total": float(totals.mean()), "total_mae": float(np.abs(totals - labels.total).mean())}
    figures |= {f"{key}_mae": float(error) for key, error in zip(KEYS, errors.mean(axis=0), strict=True)}
    figures["mean_std"] = float(judgement.std[kept].mean())
    if np.ptp(totals) > 0 and np.ptp(labels.total) > 0:  # else there is nothing to rank
        figures["total_spearman"] = float(np.corrcoef(_ranks(totals), _ranks(labels.total))[0, 1])
    return figures


def _ranks(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Equal values share the mean of their ranks."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: npt.NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return ranks


def _spent(judge: Judge) -> dict[str, int]:
    counts = {f"replies_{name}": value for name, value in getattr(judge, "counts", {}).items()}
    budget = getattr(judge, "budget", None)
    return counts if budget is None else {**counts, "requests": budget.requests, "tokens": budget.tokens}


VERB = Verb("benchmark annotate", "asks a judge about the pairs of a benchmark", AnnotateConfig, run, positional="path")
