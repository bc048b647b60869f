"""Does the student score held-out videos as the benchmark does, and does it look at the video and the instruction?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import MISSING

from roboalign_core.benchmark import Benchmark, Pair, Split
from roboalign_core.benchmark.pairs import scores_of
from roboalign_core.errors import RoboAlignError, require
from roboalign_core.evaluation.ranking import auc, pairwise_accuracy, spearman
from roboalign_core.evaluation.report import write_report
from roboalign_core.evaluation.reward_figures import Figures, mean_of, wins
from roboalign_core.evaluation.reward_pairs import (
    FOLLOWING,
    SMOOTH,
    SUCCESS,
    Array,
    Compared,
    Scored,
    beside_clean,
    score_pairs,
    shuffle_frames,
    swap_instructions,
)
from roboalign_core.evaluation.reward_real import real_above_degraded
from roboalign_core.evaluation.reward_report import report_sections
from roboalign_core.evaluation.reward_second import second_judge
from roboalign_core.evaluation.statistics import bootstrap_groups
from roboalign_core.evaluation.study import Study
from roboalign_core.reward.data import PairVideos
from roboalign_core.reward.model import RewardModel
from roboalign_core.rubric import HIGHEST, KEYS

REAL = ("bair", "bridge", "droid", "language_table", "rosbag", "rt1")
_NO_TRAINING = "the benchmark has no training pairs: study.trained_on names the one that the student was trained on"


@dataclass
class RewardStudyConfig:
    """Settings.

    Attributes:
        reward: bundled name or folder of the student.
        benchmark: folder.
        split: of the benchmark that the figures are taken on.
        trained_on: folder of the benchmark whose training split gives the mean that a student has to beat; None for
            ``benchmark`` itself. Where that split is empty, the gains over the mean are left out.
        real: sources of recordings that are no simulator's.
        second_judge: table of another judge's scores of the benchmark's pairs, as ``benchmark annotate`` writes it;
            None: there is none.
        resamples: of the bootstrap over recorded episodes.
        batch: videos that are scored at once.
        videos: in the report.
        seed: of the swapped instructions, the shuffled frames and the bootstrap.
    """

    reward: str = "tabletop"
    benchmark: str = MISSING
    split: str = "test"
    trained_on: str | None = None
    real: list[str] = field(default_factory=lambda: list(REAL))
    second_judge: str | None = None
    resamples: int = 2000
    batch: int = 64
    videos: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        names = [split.value for split in Split]
        if self.split not in names:
            raise RoboAlignError(f"study.split: expected one of {', '.join(names)}, found {self.split!r}")
        for name, least in (("resamples", 1), ("batch", 1), ("videos", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise RoboAlignError(f"study.{name}: expected at least {least}, found {getattr(self, name)}")


def study(config: RewardStudyConfig, out: str) -> Mapping[str, Any]:
    """Run it; writes ``report.html`` into ``out``.

    Raises:
        RoboAlignError: the student or the benchmark are missing or damaged, or the split is empty.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "viz")
    model = RewardModel.from_pretrained(config.reward)
    benchmark = Benchmark.open(config.benchmark)
    benchmark.verify()
    pairs = benchmark.subset(Split(config.split))
    if not pairs:
        raise RoboAlignError(
            f"study.benchmark: expected pairs of the split {config.split}, found none in {benchmark.path}"
        )
    mean = _training_mean(benchmark, config.trained_on)
    videos = PairVideos(benchmark, model.config.size)
    data = score_pairs(model, videos, pairs, config.batch)
    figures = Figures(config.resamples, config.seed)
    _quality(figures, data, mean)
    swapped = swap_instructions(model, videos, data, config.batch, config.seed)
    shuffled = shuffle_frames(model, videos, data, config.batch, config.seed)
    _sensitivity(figures, swapped, shuffled)
    damage = _degradations(figures, data)
    real = real_above_degraded(figures, data, config.real)
    judged = second_judge(figures, data, config.second_judge, benchmark)
    figures.missing["student_over_teacher"] = "a study scores with the student alone; see roboalign bench suite=reward"
    result = {
        **figures.values,
        "student_videos_per_s": len(pairs) / data.seconds,
        "pairs": len(pairs),
        "episodes": len(set(data.groups)),
    }
    sources = _sources(data, config.resamples, config.seed)
    sections = report_sections(result, data, videos, damage, sources, real["sources"], config.videos)
    write_report(Path(out) / "report.html", "Student reward model on held-out videos", sections)
    detail = {
        "degradations": damage,
        "sources": sources,
        "swapped": len(swapped.rows),
        "real": real,
        "second_judge_pairs": judged,
    }
    return {**result, "missing": figures.missing, "detail": detail}


def _training_mean(benchmark: Benchmark, trained_on: str | None) -> NDArray[np.float32] | None:
    """(6,) mean scores of a training split; None where the benchmark has none.

    Raises:
        RoboAlignError: ``trained_on`` is no benchmark, or has no training pairs.
    """
    train = (Benchmark.open(trained_on) if trained_on else benchmark).subset(Split.TRAIN)
    if trained_on and not train:
        raise RoboAlignError(f"study.trained_on: expected pairs of the split train, found none in {trained_on}")
    return scores_of(train).raw.mean(0) if train else None


def _quality(figures: Figures, data: Scored, mean: NDArray[np.float32] | None) -> None:
    """Errors, gains over the training split's mean where there is one, and orders."""
    labels, found = data.labels.raw.astype(np.float64), data.predicted.raw.astype(np.float64)
    columns = {key: (labels[:, k], found[:, k]) for k, key in enumerate(KEYS)}
    columns["total"] = (labels.sum(1), found.sum(1))
    guesses = None if mean is None else dict(zip(columns, [*mean.tolist(), float(mean.sum())], strict=True))
    for key, (label, score) in columns.items():
        error = np.abs(score - label)
        figures.add(f"{key}_mae", data.groups, mean_of(error), "no pairs")
        if guesses is None:
            figures.missing[f"{key}_gain_over_mean_pct"] = _NO_TRAINING
        else:
            gain = _gain(error, np.abs(guesses[key] - label))
            figures.add(f"{key}_gain_over_mean_pct", data.groups, gain, "the training mean makes no error")
        order = _pairs_of(spearman, label, score)
        figures.add(f"{key}_spearman", data.groups, order, f"all labels of {key} are the same in most resamples")
    label, score = columns["total"]
    accuracy = pairwise_accuracy(label, score, data.groups, resamples=figures.resamples, seed=figures.seed)
    figures.put("pairwise_accuracy", accuracy, "all labels are the same")
    errors = np.abs(found - labels) / HIGHEST
    unsure = _pairs_of(spearman, (data.predicted.uncertainty / HIGHEST).mean(1), errors.mean(1))
    figures.add("uncertainty_spearman", data.groups, unsure, "the uncertainty or the error is constant")
    known = data.own & np.isfinite(data.success)
    rows = np.flatnonzero(known)
    truth, groups = data.success[rows] > 0.5, [data.groups[row] for row in rows]
    why = "needs recorded videos under their own instruction, some of successes and some of failures"
    for name, scores in (("success_auc", found[rows, SUCCESS]), ("success_auc_by_total", found[rows].sum(1))):
        figures.add(name, groups, _pairs_of(auc, truth, scores), why)


def _sensitivity(figures: Figures, swapped: Compared, shuffled: Compared) -> None:
    """How often, and by how much, a wrong instruction or a wrong order of frames scores lower."""
    why = "needs recorded videos that do what their instruction says, and another instruction"
    drop = swapped.before - swapped.after
    figures.add("instruction_swap_win_rate", swapped.groups, mean_of(wins(drop[:, FOLLOWING])), why)
    figures.add("instruction_swap_total_win_rate", swapped.groups, mean_of(wins((drop * HIGHEST).sum(1))), why)
    figures.add("instruction_swap_total_drop", swapped.groups, mean_of((drop * HIGHEST).sum(1)), why)
    why = "needs recorded videos of at least 3 frames"
    drop = shuffled.before - shuffled.after
    figures.add("shuffle_win_rate", shuffled.groups, mean_of(wins(drop[:, SMOOTH])), why)
    figures.add("shuffle_total_drop", shuffled.groups, mean_of((drop * HIGHEST).sum(1)), why)


def _degradations(figures: Figures, data: Scored) -> list[dict[str, Any]]:
    """For each degradation: does it lower the dimensions that the benchmark lowers for it?"""
    names = sorted({applied.name for pair in data.pairs for applied in pair.degradations})
    rows: list[dict[str, Any]] = []
    every_drop, every_group = [], list[str]()
    for name in names:
        compared, meant = beside_clean(data, lambda pair: _has_alone(pair, name))  # noqa: B023 - called now
        chosen = np.flatnonzero((meant > 0).any(1))
        lowered = meant[chosen] > 0
        drop = (compared.before - compared.after)[chosen]
        mean_drop = (drop * lowered).sum(1) / np.maximum(lowered.sum(1), 1)
        groups = [compared.groups[row] for row in chosen]
        why = "no video with it alone, beside an undamaged one, that the benchmark scores lower for it"
        interval = figures.add(f"degradation_{name}_drop", groups, mean_of(mean_drop), why)
        if interval is None:
            continue
        every_drop.append(mean_drop)
        every_group += groups
        labels = {f"{key}_label_drop": float(meant[chosen, k].mean()) for k, key in enumerate(KEYS)}
        row = {"degradation": name, "videos": len(chosen), "drop": interval.value}
        limits = {"drop_ci_low": interval.low, "drop_ci_high": interval.high}
        each = _each_dimension(figures, drop, meant[chosen], groups)
        rows.append({**row, **limits, "win_rate": float(wins(mean_drop).mean()), **each, **labels})
    drops = np.concatenate(every_drop) if every_drop else np.empty(0)
    figures.add("degradation_win_rate", every_group, mean_of(wins(drops)), "no damaged videos beside undamaged ones")
    figures.values |= _seen(rows) if rows else {}
    return rows


def _each_dimension(figures: Figures, drop: Array, meant: Array, groups: list[str]) -> dict[str, float]:
    """By how much every dimension is lower, with an interval where the benchmark lowers it; of (N, 6) both."""
    found = {f"{key}_drop": float(drop[:, k].mean()) for k, key in enumerate(KEYS)}
    for k in np.flatnonzero(meant.mean(0) > 0):
        limits = bootstrap_groups(mean_of(drop[:, k]), groups, resamples=figures.resamples, seed=figures.seed)
        found |= {f"{KEYS[k]}_drop_ci_low": limits.low, f"{KEYS[k]}_drop_ci_high": limits.high}
    return found


def _seen(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Of the dimensions that a degradation lowers by the benchmark, those that are lower with an interval above 0.

    As shares of all degradations' dimensions, and of the one of each that the benchmark lowers most.
    """
    lower = [[row.get(f"{key}_drop_ci_low", np.nan) for key in KEYS] for row in rows]
    most = [lower[n][int(np.argmax([row[f"{key}_label_drop"] for key in KEYS]))] for n, row in enumerate(rows)]
    every = np.array(lower)
    return {
        "degradation_dimensions_lowered": float((every[np.isfinite(every)] > 0).mean()),
        "degradation_main_dimension_lowered": float((np.array(most) > 0).mean()),
    }


def _has_alone(pair: Pair, name: str) -> bool:
    return [applied.name for applied in pair.degradations] == [name]


def _sources(data: Scored, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Figures of each source of recordings, with intervals where it has several recordings."""
    sources = np.array([pair.source for pair in data.pairs])
    labels, found = data.labels.raw.astype(np.float64), data.predicted.raw.astype(np.float64)
    errors = {f"{key}_mae": np.abs(found - labels)[:, k] for k, key in enumerate(KEYS)}
    errors["total_mae"] = np.abs(found.sum(1) - labels.sum(1))
    rows = []
    for source in sorted(set(sources)):
        here = np.flatnonzero(sources == source)
        known = here[(data.own & np.isfinite(data.success))[here]]
        asked = {name: (here, mean_of(error[here])) for name, error in errors.items()}
        asked["total_spearman"] = (here, _pairs_of(spearman, labels[here].sum(1), found[here].sum(1)))
        asked["success_auc"] = (known, _pairs_of(auc, data.success[known] > 0.5, found[known, SUCCESS]))
        values, figures = dict[str, float](), Figures(resamples, seed)
        for name, (those, statistic) in asked.items():
            if np.isfinite(value := float(statistic(np.arange(len(those))))):
                values[name] = value
                figures.add(name, [data.groups[row] for row in those], statistic, "undefined in most resamples")
        rows.append({"source": str(source), "pairs": len(here), **values, **figures.values})
    return rows


def _gain(error: Array, blind: Array) -> Any:
    """Per cent by which the error is smaller than that of a constant guess."""

    def gain(rows: NDArray[np.int64]) -> float:
        base = blind[rows].sum()
        return float(100 * (1 - error[rows].sum() / base)) if base > 0 else float("nan")

    return gain


def _pairs_of(statistic: Any, first: NDArray[Any], second: NDArray[Any]) -> Any:
    return lambda rows: statistic(first[rows], second[rows])


STUDY = Study("reward", RewardStudyConfig, study)
