"""The report of the study ``reward``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from roboalign_core.evaluation.report import Section, Video, figure_png, interval_rows
from roboalign_core.evaluation.reward_pairs import Scored
from roboalign_core.reward.data import PairVideos
from roboalign_core.rubric import DIMENSIONS

_SOURCE = ("source", "pairs", "total_mae", "total_spearman", "success_auc")
_LEVELS = 12  # more different labels than these are drawn as points


def report_sections(
    figures: Mapping[str, Any],
    data: Scored,
    videos: PairVideos,
    degradations: Sequence[Mapping[str, Any]],
    sources: Sequence[Mapping[str, Any]],
    real: Sequence[Mapping[str, Any]],
    shown: int,
) -> list[Section]:
    """Plots of the six dimensions, tables, and the videos with the greatest and the smallest errors."""
    return [
        Section("Predicted scores by label", figures=[_plot(data)]),
        Section(
            "Degradations",
            text="How much lower the student scores a damaged video than the undamaged one of the same recording and "
            "instruction, as a share of the highest score, over the dimensions that the benchmark lowers for it.",
            table=[{key: row[key] for key in ("degradation", "videos", "drop", "win_rate")} for row in degradations],
        ),
        Section("Sources", table=[{key: row[key] for key in _SOURCE if key in row} for row in sources]),
        Section(
            "Real recordings",
            text="How often the student's total of a real recording is above that of a degraded version of it.",
            table=list(real),
        ),
        Section(
            "Videos",
            text="In turn: the greatest and the smallest errors of the total.",
            videos=_examples(data, videos, shown),
        ),
        Section(
            "Figures",
            text="Bootstrap intervals over recorded episodes. Errors are in scores, gains in per cent of the error of "
            "the training split's mean.",
            table=interval_rows(figures),
        ),
    ]


def _examples(data: Scored, videos: PairVideos, shown: int) -> list[Video]:
    errors = np.abs(data.predicted.total - data.labels.total)
    order = np.argsort(-errors, kind="stable")
    rows = [row for pair in zip(order, order[::-1], strict=True) for row in pair][: min(shown, len(order))]
    found = []
    for row in rows:
        pair = data.pairs[row]
        applied = ", ".join(each.name for each in pair.degradations)
        scores = " · ".join(
            f"{dimension.title} {data.predicted.raw[row, k]:.1f} ({data.labels.raw[row, k]:.3g})"
            for k, dimension in enumerate(DIMENSIONS)
        )
        text = f"“{pair.instruction}”{f' [{applied}]' if applied else ''}: predicted (label): {scores}"
        fps = videos.cache(pair.store).spec.fps
        found.append(Video(text, np.array(videos.frames(pair)), float(fps)))
    return found


def _plot(data: Scored) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7))
    for k, (axis, dimension) in enumerate(zip(axes.flat, DIMENSIONS, strict=True)):
        labels, found = data.labels.raw[:, k], data.predicted.raw[:, k]
        levels = np.unique(labels)
        if len(levels) <= _LEVELS:
            parts = [found[labels == level] for level in levels]
            axis.boxplot(parts, positions=levels, widths=0.12 * dimension.highest, manage_ticks=False)
            axis.set_xticks(levels, [f"{level:.3g}\n({len(part)})" for level, part in zip(levels, parts, strict=True)])
        else:
            axis.plot(labels, found, ".", alpha=0.4)
        axis.plot([0, dimension.highest], [0, dimension.highest], color="0.7", linewidth=1, zorder=0)
        axis.set(title=dimension.title, xlabel="label", ylabel="predicted", ylim=(-0.05, dimension.highest * 1.05))
    figure.tight_layout()
    png = figure_png(figure)
    plt.close(figure)
    return png
