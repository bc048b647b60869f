"""The report of the study ``world_model``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.evaluation.positions import Array
from roboalign_core.evaluation.report import Section, Video, figure_png, interval_rows
from roboalign_core.evaluation.video import side_by_side

_PANELS = {
    "PSNR (dB)": "psnr_db",
    "PSNR of robot and objects (dB)": "roi_psnr_db",
    "end effector (cm)": "effector_error_cm",
    "moved objects (cm)": "moved_object_error_cm",
}


def summary(name: str, curve: Array) -> list[float | None]:
    """A metric (E, T) at each step: the median of errors in centimetres, the mean of everything else."""
    reduce = np.nanmedian if name.endswith("_cm") else np.nanmean
    return [float(reduce(step)) if np.isfinite(step).any() else None for step in curve.T]


def report_sections(
    figures: Mapping[str, Any],
    curves: Mapping[str, Array],
    real: NDArray[np.uint8],
    imagined: NDArray[np.uint8],
    videos: int,
) -> list[Section]:
    """Plots against the horizon, real beside imagined (both (E, T, H, W, 3)), and the table of figures."""
    strips = [
        Video(
            f"episode {index}: real | imagined",
            side_by_side([real[index], imagined[index]], ["real", "imagined"], 3),
            5.0,
        )
        for index in range(min(videos, len(real)))
    ]
    return [
        Section("Against horizon", figures=[_plot(curves)]),
        Section("Real beside imagined", text="Only the first frame and the actions were given.", videos=strips),
        Section(
            "Figures",
            text="Means over episodes with bootstrap intervals; centimetres are medians, differences paired means.",
            table=interval_rows(figures),
        ),
    ]


def _plot(curves: Mapping[str, Array]) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = {title: [name for name in curves if name.split("_", 1)[1] == suffix] for title, suffix in _PANELS.items()}
    shown = {title: names for title, names in shown.items() if names}
    figure, axes = plt.subplots(1, len(shown), figsize=(5 * len(shown), 3.6), squeeze=False)
    for axis, (title, names) in zip(axes[0], shown.items(), strict=True):
        for name in names:
            values = [np.nan if value is None else value for value in summary(name, curves[name])]
            axis.plot(range(1, len(values) + 1), values, label=name.split("_")[0])
        axis.set(title=title, xlabel="horizon (frames)")
        axis.legend()
    figure.tight_layout()
    png = figure_png(figure)
    plt.close(figure)
    return png
