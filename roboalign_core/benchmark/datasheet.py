"""``roboalign benchmark stats``: what a benchmark is made of, as figures and as a page that opens in any browser."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import MISSING

from roboalign_core.benchmark.benchmark import Benchmark
from roboalign_core.benchmark.pairs import Origin, Pair, Split, scores_of
from roboalign_core.errors import MissingExtraError, require
from roboalign_core.evaluation.report import Section, Video, figure_png, write_report
from roboalign_core.rubric import DIMENSIONS
from roboalign_core.verb import Verb

DATASHEET = "datasheet.html"


@dataclass
class StatsConfig:
    """What to describe.

    Attributes:
        path: a benchmark's folder.
        videos: how many examples the page shows.
        seed: of their choice.
    """

    path: str = MISSING
    videos: int = 12
    seed: int = 0


def stats(config: StatsConfig) -> Mapping[str, Any]:
    """Write ``datasheet.html`` into the benchmark.

    Returns:
        pairs, recordings, mean_total; under "detail" counts by split, source, origin, degradation and labeller, and
        of each dimension how often each score is given.

    Raises:
        RoboAlignError: there is no finished benchmark, or one of its files is damaged.
    """
    benchmark = Benchmark.open(config.path)
    figures = describe(benchmark)
    examples = _examples(benchmark, config.videos, config.seed)
    path = benchmark.path / DATASHEET
    write_report(path, f"Datasheet of {benchmark.path.name}", _sections(benchmark, figures, examples))
    return {**figures, "datasheet": str(path)}


def describe(benchmark: Benchmark) -> dict[str, Any]:
    """The figures of a benchmark."""
    pairs = benchmark.pairs
    return {
        "pairs": len(pairs),
        "recordings": len({pair.parent for pair in pairs}),
        "instructions": len({pair.instruction for pair in pairs}),
        "mean_total": float(scores_of(pairs).total.mean()),
        "detail": {
            "split": _counted(pair.split.value for pair in pairs),
            "source": _counted(pair.source for pair in pairs),
            "origin": _counted(pair.origin.value for pair in pairs),
            "degradation": _counted(change.name for pair in pairs for change in pair.degradations),
            "labeller": _counted(pair.labeller for pair in pairs),
            "scores": {dimension.key: _steps(pairs, k) for k, dimension in enumerate(DIMENSIONS)},
        },
    }


def _counted(names: Any) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _steps(pairs: Sequence[Pair], column: int) -> dict[str, int]:
    """How often each step of a scale is the nearest one to a score."""
    nearest = np.rint(scores_of(pairs).raw[:, column]).astype(int)
    return {str(step): int((nearest == step).sum()) for step in range(DIMENSIONS[column].highest + 1)}


def _examples(benchmark: Benchmark, count: int, seed: int) -> list[Pair]:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(benchmark.pairs), size=min(count, len(benchmark.pairs)), replace=False)
    return [benchmark.pairs[index] for index in sorted(chosen)]


def _sections(benchmark: Benchmark, figures: Mapping[str, Any], examples: Sequence[Pair]) -> list[Section]:
    detail = figures["detail"]
    return [
        Section("What it is", _ABOUT.format(**figures)),
        Section("Pairs by source and split", table=_cross(benchmark.pairs, lambda p: p.source)),
        Section("Pairs by origin and split", table=_cross(benchmark.pairs, lambda p: p.origin.value)),
        Section("Degradations", table=detail["degradation"]),
        _scores(benchmark.pairs, detail["labeller"]),
        Section("Examples", videos=[_video(benchmark, pair) for pair in examples]),
        Section("How it was made", table={key: str(value) for key, value in benchmark.info["settings"].items()}),
    ]


def _cross(pairs: Sequence[Pair], group: Any) -> list[dict[str, Any]]:
    names = sorted({group(pair) for pair in pairs})
    rows = []
    for name in names:
        of_group = [pair for pair in pairs if group(pair) == name]
        by_split = {split.value: sum(pair.split is split for pair in of_group) for split in Split}
        recordings = len({pair.parent for pair in of_group})
        rows.append({"": name, **by_split, "pairs": len(of_group), "recordings": recordings})
    return rows


def _score_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Mean scores by origin."""
    rows = []
    for origin in Origin:
        of_origin = [pair for pair in pairs if pair.origin is origin]
        if of_origin:
            scores = scores_of(of_origin)
            means = {d.title: float(mean) for d, mean in zip(DIMENSIONS, scores.raw.mean(axis=0), strict=True)}
            rows.append({"": origin.value, **means, "total": float(scores.total.mean())})
    return rows


def _scores(pairs: Sequence[Pair], labellers: Mapping[str, int]) -> Section:
    said = ", ".join(f"{count} by {name}" for name, count in labellers.items())
    text = f"Who gave the scores: {said}. Means by origin, and how often each score is given:"
    try:
        figures = [_histograms(pairs)]
    except MissingExtraError as error:
        text, figures = f"{text}\n\nNo plot: {error}", []
    return Section("Scores", text, _score_rows(pairs), figures)


def _histograms(pairs: Sequence[Pair]) -> bytes:
    """One plot of all six dimensions and the total."""
    figure = require("matplotlib.figure", "viz").Figure(figsize=(11, 4.5))
    scores = scores_of(pairs)
    columns = [*zip((d.title for d in DIMENSIONS), scores.raw.T, (d.highest for d in DIMENSIONS), strict=True)]
    axes = list(figure.subplots(2, 4).flat)
    for axis, (title, values, highest) in zip(axes, [*columns, ("Total", scores.total, 10)], strict=False):
        axis.hist(values, bins=np.linspace(0, highest, 21), color="#3b6ea5")
        axis.set_title(title, fontsize=9)
        axis.tick_params(labelsize=7)
    axes[-1].set_axis_off()
    figure.tight_layout()
    return figure_png(figure)


def _video(benchmark: Benchmark, pair: Pair) -> Video:
    episode = benchmark.episode(pair)
    damage = ", ".join(f"{change.name} {change.strength:.2f}" for change in pair.degradations) or pair.origin.value
    scores = " ".join(f"{score:.2g}" for score in pair.scores)
    return Video(
        f"{pair.number}: “{pair.instruction}” · {pair.source} · {damage} · {scores}", episode.frames, episode.fps
    )


_ABOUT = """{pairs} pairs of a video and an instruction, out of {recordings} recorded episodes, each with six scores \
(the rubric of RobotWorldBench; mean total {mean_total:.2f} of 10). It is made for training and testing models that \
judge robot videos.

Everything made from one recorded episode, by all cameras that saw it, is in one split. Scores of simulated episodes \
come from the simulator's state, those of real ones from the rule that what a camera saw is physical; what a \
degradation takes away is a rule, too, written down with its reasons in the documentation. Nobody has looked at every \
pair."""


VERB = Verb("benchmark stats", "describe a benchmark, as figures and as a page", StatsConfig, stats, positional="path")
