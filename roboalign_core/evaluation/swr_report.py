"""The report of the study ``swr``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.evaluation.long_rollouts import Outcome, costs, means
from roboalign_core.evaluation.report import Section, Video, figure_png, interval_rows
from roboalign_core.evaluation.video import side_by_side


def report_sections(
    figures: Mapping[str, Any], outcomes: Mapping[str, Outcome], real: NDArray[np.uint8], videos: int
) -> list[Section]:
    """Plots against the horizon, costs, all variants beside real frames (E, T, H, W, 3), and the table of figures."""
    prices = [{"variant": name, **costs(outcome)} for name, outcome in outcomes.items()]
    labels = ["real", *outcomes]
    strips = [
        Video(
            f"episode {index}",
            side_by_side([real[index], *(o.videos[index] for o in outcomes.values())], labels, 2),
            5.0,
        )
        for index in range(min(videos, len(real)))
    ]
    return [
        Section("Against horizon", figures=[_plot(outcomes)]),
        Section("Costs", text=f"Times are of {len(real)} episodes in batches.", table=prices),
        Section("Side by side", videos=strips),
        Section(
            "Figures",
            text="Means over episodes with bootstrap intervals; differences are paired.",
            table=interval_rows(figures),
        ),
    ]


def _plot(outcomes: Mapping[str, Outcome]) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    keys = list(next(iter(outcomes.values())).curves)
    figure, axes = plt.subplots(1, len(keys), figsize=(4.5 * len(keys), 3.6), squeeze=False)
    for axis, key in zip(axes[0], keys, strict=True):
        for name, outcome in outcomes.items():
            values = [np.nan if value is None else value for value in means(outcome.curves[key])]
            axis.plot(outcome.steps, values, label=name)
        axis.set(title=key, xlabel="horizon (frames)")
        axis.legend()
    figure.tight_layout()
    png = figure_png(figure)
    plt.close(figure)
    return png
