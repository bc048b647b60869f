"""The report of the study ``alignment``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from roboalign_core.evaluation.alignment_figures import TOTALS, Compared, headline_total, means
from roboalign_core.evaluation.held_out import HeldOut
from roboalign_core.evaluation.measures import Frames
from roboalign_core.evaluation.report import Section, Video, figure_png, interval_rows
from roboalign_core.evaluation.video import side_by_side
from roboalign_core.rubric import DIMENSIONS

_PANELS = {
    "PSNR (dB)": "psnr_db",
    "PSNR of robot and objects (dB)": "roi_psnr_db",
    "end effector (cm)": "effector_error_cm",
    "moved objects (cm)": "moved_object_error_cm",
    "frames that repeat": "repetition_rate",
}
_COLUMNS = 3


def report_sections(
    figures: Mapping[str, Any], compared: Compared, held_out: HeldOut, videos: Mapping[str, Frames], shown: int
) -> list[Section]:
    """Verdicts, the six scores of each variant, plots, strips of what scores highest, and the table of figures."""
    horizon, judge = max(compared.horizons), headline_total(compared)
    sections = [Section("Verdict", text="\n\n".join(_sentence(figures, compared, name) for name in compared.others))]
    if judge is not None:
        who = judge.removesuffix("_total")
        sections.append(
            Section(
                f"Six scores at {horizon} frames",
                text="Means over seeds and episodes, by the state oracle on what one probe reads from the frames."
                if judge == TOTALS[0]
                else "Means over seeds, episodes and students; the dimensions are those of the first student.",
                table=_six(figures, compared, horizon, who if judge == TOTALS[0] else "student_1", judge),
                figures=[_bars(figures, compared, judge)],
            )
        )
    if any(name in compared.real.curves for name in _PANELS.values()):
        sections.append(Section("Against horizon", figures=[_curves(compared)]))
    return [
        *sections,
        Section(
            "What scores highest",
            text="The episodes with the highest training reward of each variant (its first seed), or the highest "
            "independent total where no training reward is given. A video that scores high and looks wrong is reward "
            "hacking.",
            videos=_strips(compared, held_out, videos, shown),
        ),
        Section(
            "Figures",
            text="Means with bootstrap intervals over seeds, where there are several, and episodes; differences are "
            "paired. Centimetres are means, too.",
            table=interval_rows(figures),
        ),
    ]


def _sentence(figures: Mapping[str, Any], compared: Compared, variant: str) -> str:
    judge, horizon = headline_total(compared), max(compared.horizons)
    name = f"{variant}_minus_{compared.reference}_h{horizon}_{judge}"
    if name not in figures:
        return f"{variant}: no independent total; see the figures."
    low, high = figures[f"{name}_ci_low"], figures[f"{name}_ci_high"]
    said = "better than" if low > 0 else "worse than" if high < 0 else "not shown to differ from"
    seeds = figures[f"{variant}_seeds"]
    over = f"{seeds} seeds and episodes" if seeds > 1 else "episodes; one seed"
    text = (
        f"{variant} is {said} {compared.reference}: total {figures[name]:+.3g} ({low:+.3g} … {high:+.3g}, over {over}) "
        f"at {horizon} frames."
    )
    if judge in compared.not_independent(variant):
        text += " This total is not independent: its training reward reads states with a probe, too."
    gap = f"{variant}_h{horizon}_reward_hacking_sd"
    if gap not in figures:
        return text
    reward, total = (figures[f"{variant}_h{horizon}_{what}_gain_sd"] for what in ("training", "total"))
    return (
        f"{text} In standard deviations of {compared.reference}'s episodes its training reward gained {reward:+.3g} "
        f"and the total {total:+.3g}: {figures[gap]:+.3g} ({figures[f'{gap}_ci_low']:+.3g} … "
        f"{figures[f'{gap}_ci_high']:+.3g}) more in what it was trained on."
    )


def _six(
    figures: Mapping[str, Any], compared: Compared, horizon: int, who: str, total: str
) -> list[dict[str, float | str | None]]:
    rows: list[dict[str, float | str | None]] = []
    for name in ("real", *compared.verdicts):
        row: dict[str, float | str | None] = {"variant": name}
        for dimension in DIMENSIONS:
            row[dimension.title] = figures.get(f"{name}_h{horizon}_{who}_{dimension.key}")
        row["total"] = figures.get(f"{name}_h{horizon}_{total}")
        change = f"{name}_over_{compared.reference}_h{horizon}_{total}_pct"
        row["change (%)"] = figures.get(change)
        row["95 % low"], row["95 % high"] = figures.get(f"{change}_ci_low"), figures.get(f"{change}_ci_high")
        row["off real (points)"] = figures.get(f"{name}_h{horizon}_{who}_error")
        rows.append(row)
    return rows


def _strips(compared: Compared, held_out: HeldOut, videos: Mapping[str, Frames], shown: int) -> list[Video]:
    """Of each variant's highest episodes, by its first seed: real | reference | variant."""
    horizon, reference, total = max(compared.horizons), compared.reference, headline_total(compared)
    found = []
    for variant in compared.others:
        key = f"reward_{variant}" if variant in compared.rewards else total
        if key is None:
            order, said = np.arange(len(held_out.frames)), ""
        else:
            order = np.argsort(-compared.values(variant, horizon, key)[0], kind="stable")
        for index in order[:shown]:
            if key is not None:
                scores = {key: "training reward" if key != total else "total", **({total: "total"} if total else {})}
                said = " · ".join(
                    f"{title} {compared.values(reference, horizon, name)[0, index]:.3g} → "
                    f"{compared.values(variant, horizon, name)[0, index]:.3g}"
                    for name, title in scores.items()
                )
            strip = side_by_side(
                [held_out.frames[index, 1:], videos[reference][index], videos[variant][index]],
                ["real", reference, variant],
                2,
            )
            text = f"{variant}, episode {index}: “{held_out.instructions[index]}” {said}"
            found.append(Video(text.strip(), strip, 5.0))
    return found


def _bars(figures: Mapping[str, Any], compared: Compared, total: str) -> bytes:
    """The total of every variant at each horizon, with its interval."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(2.5 + 1.2 * len(compared.horizons) * (1 + len(compared.verdicts)), 3.6))
    names = ["real", *compared.verdicts]
    for place, name in enumerate(names):
        keys = [f"{name}_h{horizon}_{total}" for horizon in compared.horizons]
        values = np.array([figures[key] for key in keys])
        ends = np.array([[figures[f"{key}_ci_{end}"] for key in keys] for end in ("low", "high")])
        x = np.arange(len(keys)) + (place - (len(names) - 1) / 2) * 0.8 / len(names)
        axis.bar(x, values, 0.72 / len(names), label=name, color="0.7" if name == "real" else f"C{place - 1}")
        axis.vlines(x, *ends, color="0.2", linewidth=1.5)
    axis.set_xticks(range(len(compared.horizons)), [f"{horizon} frames" for horizon in compared.horizons])
    axis.set(ylabel=total.replace("_", " "), ylim=(0, 10))
    axis.legend(loc="lower right")
    return _finish(figure)


def _curves(compared: Compared) -> bytes:
    plt = _pyplot()
    known = compared.verdicts[compared.reference][0].curves
    panels = {title: name for title, name in _PANELS.items() if name in known}
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.5 * columns, 3.6 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    for axis, (title, name) in zip(axes.flat, panels.items(), strict=False):
        for variant, verdicts in compared.verdicts.items():
            values = [np.nan if value is None else value for value in means([each.curves[name] for each in verdicts])]
            axis.plot(range(1, len(values) + 1), values, label=variant)
        axis.set(title=title, xlabel="horizon (frames)")
        axis.legend()
    return _finish(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _finish(figure: Any) -> bytes:
    figure.tight_layout()
    png = figure_png(figure)
    _pyplot().close(figure)
    return png
