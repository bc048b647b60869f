"""The demo's figures and its report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from roboalign_core.errors import require
from roboalign_core.evaluation.report import Section, Video, figure_png, write_report
from roboalign_core.evaluation.statistics import wilson
from roboalign_core.evaluation.video import side_by_side
from roboalign_nodes.recording import EpisodeRecord, LookAhead, imagined_and_real, look_ahead

_HALF_PIXELS = 192  # height of one half of a video; small frames are enlarged by a whole factor

Records = Sequence[EpisodeRecord]


def summarise(planned: Records, random: Records, frames_dropped: int, recorder_dropped: int) -> dict[str, Any]:
    """``results.json`` of the demo.

    Args:
        planned: episodes of the planner, at least one.
        random: episodes of random actions, may be empty.
        frames_dropped: camera frames that did not reach the world model.
        recorder_dropped: camera frames that did not reach the demo's recorder.
    """
    replan_ms = [plan.replan_ms for record in planned for plan in record.plans]
    results: dict[str, Any] = {**_rate(planned, "success_rate")}
    missing: dict[str, str] = {}
    if random:
        results.update(_rate(random, "random_success_rate"))
    else:
        missing["random_success_rate"] = "random_episodes=0"
    results["episodes"], results["random_episodes"] = len(planned), len(random)
    if replan_ms:
        results["replan_ms_median"] = median(replan_ms)
    else:
        missing["replan_ms_median"] = "not a single plan was recorded"
    results["frames_dropped"] = frames_dropped
    results["detail"] = {
        "instructions": _by_instruction(planned, random),
        "look_ahead": [_look_ahead_row(row) for row in look_ahead(planned)],
        "replans": len(replan_ms),
        "recorder_frames_dropped": recorder_dropped,
        "planned": [_episode_row(record) for record in planned],
        "random": [_episode_row(record) for record in random],
    }
    if missing:
        results["missing"] = missing
    return results


def write_demo_report(
    path: Path, title: str, results: dict[str, Any], planned: Records, random: Records, fps: float
) -> None:
    """Write the report: figures, tables, and a video imagined | real per planned episode.

    Args:
        path: the HTML file.
        title: its heading.
        results: from :func:`summarise`.
        planned: episodes of the planner.
        random: episodes of random actions, may be empty.
        fps: control steps per second, the videos' speed.
    """
    headline = {key: value for key, value in results.items() if key not in ("detail", "missing")}
    sections = [
        Section(
            "Results",
            "A simulated robot, a world model and a planner ran as three ROS 2 nodes. Whenever the robot waited, the "
            "planner let the world model imagine candidate actions and sent the best. Random actions went through the "
            "same nodes.",
            table=headline,
        ),
        Section("By instruction", table=results["detail"]["instructions"], figures=[_success_figure(results)]),
        *_timing_sections(planned),
        *_look_ahead_sections(look_ahead(planned)),
        Section(
            "Planned episodes: imagined | real",
            "Left: the frame that the world model imagined for a step, from the plan that was executed. "
            "Right: the camera.",
            table=results["detail"]["planned"],
            videos=[_video(record, fps) for record in planned],
        ),
    ]
    if random:
        sections.append(Section("Random episodes", table=results["detail"]["random"]))
    write_report(path, title, sections)


def _rate(records: Records, name: str) -> dict[str, float]:
    return wilson(sum(record.success for record in records), len(records)).as_results(name)


def _by_instruction(planned: Records, random: Records) -> list[dict[str, Any]]:
    rows = []
    for instruction in dict.fromkeys(record.instruction for record in (*planned, *random)):
        row: dict[str, Any] = {"instruction": instruction}
        for label, records in (("planned", planned), ("random", random)):
            chosen = [record for record in records if record.instruction == instruction]
            row[f"{label}_episodes"] = len(chosen)
            row[f"{label}_success_rate"] = mean(float(record.success) for record in chosen) if chosen else None
        rows.append(row)
    return rows


def _episode_row(record: EpisodeRecord) -> dict[str, Any]:
    scores = [plan.score for plan in record.plans if math.isfinite(plan.score)]
    return {
        "episode": record.episode,
        "instruction": record.instruction,
        "seed": record.seed,
        "success": record.success,
        "steps": record.steps,
        "progress": record.progress if math.isfinite(record.progress) else None,
        "plans": len(record.plans),
        "last_expected_score": scores[-1] if scores else None,
        "seconds": record.seconds,
    }


def _look_ahead_row(row: LookAhead) -> dict[str, Any]:
    return {
        "steps_ahead": row.ahead,
        "imagined_psnr_db": row.imagined_db,
        "copy_psnr_db": row.copy_db,
        "frames": row.frames,
    }


def _video(record: EpisodeRecord, fps: float) -> Video:
    halves = imagined_and_real(record)
    upscale = max(round(_HALF_PIXELS / halves[0].shape[1]), 1)
    outcome = "reached" if record.success else "not reached"
    caption = f"{record.instruction}: {outcome} after {record.steps} steps"
    return Video(caption, side_by_side(halves, ("imagined", "real"), upscale), fps)


def _timing_sections(planned: Records) -> list[Section]:
    replan_ms = [plan.replan_ms for record in planned for plan in record.plans]
    if not replan_ms:
        return []
    plt, figure, axes = _axes()
    axes.hist(replan_ms, bins=min(30, max(5, len(replan_ms) // 4)))
    axes.axvline(median(replan_ms), color="black", linestyle="--", label=f"median {median(replan_ms):.0f} ms")
    axes.set(xlabel="milliseconds from request to plan", ylabel="plans")
    axes.legend()
    png = figure_png(figure)
    plt.close(figure)
    return [Section("Time to a plan", figures=[png])]


def _look_ahead_sections(rows: Sequence[LookAhead]) -> list[Section]:
    if not rows:
        return []
    plt, figure, axes = _axes()
    ahead = [row.ahead for row in rows]
    axes.plot(ahead, [row.imagined_db for row in rows], marker="o", label="imagined")
    axes.plot(ahead, [row.copy_db for row in rows], marker="o", label="the frame planned from, repeated")
    axes.set(xlabel="control steps ahead", ylabel="PSNR against the camera, dB", xticks=ahead)
    axes.legend()
    png = figure_png(figure)
    plt.close(figure)
    text = "Only executed actions count, so that the camera shows what really came of them."
    return [Section("Imagined against real", text, [_look_ahead_row(row) for row in rows], [png])]


def _success_figure(results: dict[str, Any]) -> bytes:
    rows = results["detail"]["instructions"]
    plt, figure, axes = _axes(height=1.2 + 0.4 * len(rows))
    for offset, label in ((-0.2, "planned"), (0.2, "random")):
        places = [index + offset for index in range(len(rows))]
        axes.barh(places, [row[f"{label}_success_rate"] or 0.0 for row in rows], height=0.38, label=label)
    axes.set(
        yticks=range(len(rows)), yticklabels=[row["instruction"] for row in rows], xlim=(0, 1), xlabel="success rate"
    )
    axes.invert_yaxis()
    axes.legend()
    png = figure_png(figure)
    plt.close(figure)
    return png


def _axes(height: float = 3.2) -> tuple[Any, Any, Any]:
    require("matplotlib", "viz").use("Agg")
    plt = require("matplotlib.pyplot", "viz")
    figure, axes = plt.subplots(figsize=(7.0, height))
    return plt, figure, axes
