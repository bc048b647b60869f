"""``roboalign benchmark agreement``: do the people agree with one another, and with the benchmark's labels?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING

from roboalign_core.benchmark.benchmark import Benchmark
from roboalign_core.benchmark.opinions import TOTAL, Figures, Opinions, among_people, read_opinions, with_labels
from roboalign_core.benchmark.pairs import scores_of
from roboalign_core.benchmark.reliability import RESAMPLES
from roboalign_core.benchmark.review.queue import ALL
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.report import Section, write_report
from roboalign_core.evaluation.statistics import Interval
from roboalign_core.rubric import DIMENSIONS
from roboalign_core.verb import Verb

_TITLES = {**{one.key: one.title for one in DIMENSIONS}, TOTAL: "Total"}


@dataclass
class AgreementConfig:
    """Settings; ``configs/benchmark_agreement.yaml`` explains each."""

    path: str = MISSING
    raters: list[str] = field(default_factory=list)
    split: str = ALL
    resamples: int = RESAMPLES
    seed: int = 0
    out: str | None = None


def run(config: AgreementConfig) -> Mapping[str, Any]:
    """Compute, show and, with ``out=``, write a report; returns the figures of the total, the others below detail."""
    if config.resamples < 1:
        raise RoboAlignError(f"resamples: expected at least 1, found {config.resamples}")
    benchmark = Benchmark.open(config.path)
    opinions = read_opinions(benchmark, config.raters, config.split)
    pairs = [benchmark.pairs[number] for number in opinions.numbers]
    raw = scores_of(pairs)
    labels = np.column_stack([raw.raw, raw.total]).astype(np.float64)
    people = among_people(opinions, config.resamples, config.seed)
    compared: dict[str, Figures] = {}
    for labeller in sorted({pair.labeller for pair in pairs}):
        rows = np.flatnonzero([pair.labeller == labeller for pair in pairs])
        compared[labeller] = with_labels(opinions, labels, rows, config.resamples, config.seed)
    counts = _counts(opinions, [pair.labeller for pair in pairs])
    sections = _sections(people, compared, counts)
    _show(sections)
    if config.out:
        write_report(Path(config.out) / "report.html", "Agreement of people", sections)
    return {**_headline(opinions, people, compared), "detail": {**counts, **_detail(people, compared)}}


def _counts(opinions: Opinions, labellers: Sequence[str]) -> dict[str, Any]:
    judged = opinions.judged.sum(axis=1)
    raters = {
        name: {"judged": int(count), "cannot_judge": skipped}
        for name, count, skipped in zip(opinions.raters, judged, opinions.skipped, strict=True)
    }
    return {"raters": raters, "labels": {name: labellers.count(name) for name in sorted(set(labellers))}}


def _headline(opinions: Opinions, people: Figures, compared: Mapping[str, Figures]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "raters": len(opinions.raters),
        "pairs": len(opinions.numbers),
        "shared_pairs": opinions.shared,
        "judgements": int(opinions.judged.sum()),
        "cannot_judge": sum(opinions.skipped),
    }
    intervals = {f"total_{name}": found for name, found in people.get(TOTAL, {}).items()}
    for labeller, scales in compared.items():
        intervals.update({f"{labeller}_total_{name}": found for name, found in scales[TOTAL].items()})
    for name, found in intervals.items():
        figures.update({key: value for key, value in found.as_results(name).items() if math.isfinite(value)})
    return figures


def _detail(people: Figures, compared: Mapping[str, Figures]) -> dict[str, Any]:
    return {
        "among_people": _plain(people),
        "with_labels": {labeller: _plain(figures) for labeller, figures in compared.items()},
    }


def _plain(figures: Figures) -> dict[str, Any]:
    """For JSON, where what is undefined is null."""
    return {
        scale: {
            name: {key: value if math.isfinite(value) else None for key, value in asdict(found).items()}
            for name, found in columns.items()
        }
        for scale, columns in figures.items()
    }


def _sections(people: Figures, compared: Mapping[str, Figures], counts: Mapping[str, Any]) -> list[Section]:
    raters = [{"rater": name, **row} for name, row in counts["raters"].items()]
    headings = {"alpha": "Krippendorff's alpha", "mae": "MAE", "spearman": "Spearman", "exact": "exact"}
    among = "1: the same scores, 0: no better than chance; with 95 % bootstrap intervals over pairs."
    if not people:
        among = "No pair has the scores of two people, so their agreement is not known."
    sections = [
        Section("Judgements", table=raters),
        Section("Among people", among, table=_rows(people, headings)),
    ]
    for labeller, figures in compared.items():
        title = f"Mean of the people beside the labels of {labeller!r}: {counts['labels'][labeller]} pairs"
        text = (
            "MAE: mean absolute error, in steps of the scale. Spearman: rank correlation. Exact: share of pairs whose "
            "mean and label are nearest to the same step."
        )
        sections.append(Section(title, text, table=_rows(figures, headings)))
    return sections


def _rows(figures: Figures, headings: Mapping[str, str]) -> list[dict[str, str]]:
    return [
        {"scale": _TITLES[scale], **{headings[name]: _shown(found) for name, found in columns.items()}}
        for scale, columns in figures.items()
    ]


def _shown(found: Interval) -> str:
    if not math.isfinite(found.value):
        return "–"
    return str(found) if math.isfinite(found.low) else f"{found.value:.3g}"


def _show(sections: Sequence[Section]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for section in sections:
        table = Table(title=Text(section.title), caption=Text(section.text) if section.text else None)
        rows = section.table if isinstance(section.table, Sequence) else []
        for column in rows[0] if rows else []:
            table.add_column(column)
        for row in rows:
            table.add_row(*(Text(str(value)) for value in row.values()))
        console.print(table if rows else Text(section.text))


VERB = Verb("benchmark agreement", "do people agree, and with the labels?", AgreementConfig, run, "path")
