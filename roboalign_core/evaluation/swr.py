"""``roboalign evaluate study=swr``: does re-encoding keep long rollouts from drifting, and what does it cost?"""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import MISSING
from rich.progress import track

from roboalign_core.errors import RoboAlignError, require
from roboalign_core.evaluation.held_out import HeldOut, load_held_out
from roboalign_core.evaluation.metrics import psnr, ssim
from roboalign_core.evaluation.positions import Array, check_columns, distance_cm, moved_error_cm, read_states
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.evaluation.report import Section, Video, figure_png, write_report
from roboalign_core.evaluation.statistics import bootstrap_mean, paired_difference
from roboalign_core.evaluation.study import Study
from roboalign_core.evaluation.video import side_by_side
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Imagination, Mode, Order, roll

BASELINES = ("plain", "frozen")
_EDGE = 10  # frames at either end of a rollout whose times are compared


@dataclass
class SwrStudyConfig:
    """Settings.

    Attributes:
        world_model: bundled name or folder.
        data: store of held-out episodes, longer than the longest horizon.
        probe: folder of the state probe; the model's own where empty.
        episodes: how many, from the store's start; 0: all.
        windows: W of Sliding Window Re-encoding, each its own variant.
        frozen_window: frames after which the frozen variant restarts; 0: the model's own window.
        horizons: steps ahead at which figures are taken.
        order: decoding order.
        effector, objects, moved: as in the study ``world_model``.
        batch: episodes imagined at once.
        videos: strips in the report.
        seed: of the bootstrap.
    """

    world_model: str = MISSING
    data: str = MISSING
    probe: str = ""
    episodes: int = 0
    windows: list[int] = field(default_factory=lambda: [2, 4, 6, 8])
    frozen_window: int = 0
    horizons: list[int] = field(default_factory=lambda: [30, 60, 100])
    order: str = "frame"
    effector: list[str] = field(default_factory=list)
    objects: dict[str, list[str]] = field(default_factory=dict)
    moved: float = 0.02
    batch: int = 32
    videos: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.horizons or min(self.horizons) < 1:
            raise RoboAlignError(f"study.horizons: expected numbers of at least 1, found {self.horizons}")
        for name, least in (("batch", 1), ("episodes", 0), ("videos", 0)):
            if getattr(self, name) < least:
                raise RoboAlignError(f"study.{name}: expected at least {least}, found {getattr(self, name)}")
        if self.order not in get_args(Order):
            raise RoboAlignError(f"study.order: expected one of {get_args(Order)}, found {self.order!r}")


@dataclass
class Meter:
    """Times each frame of a rollout, and notes the longest sequence that the transformer held."""

    times: list[float] = field(default_factory=list)
    tokens: int = 0
    _began: float = field(default_factory=time.perf_counter)

    def __call__(self, imagination: Imagination) -> None:
        """After a frame."""
        now = time.perf_counter()
        self.times.append(now - self._began)
        self.tokens = max(self.tokens, imagination.cache.length)
        self._began = now


@dataclass(frozen=True)
class Outcome:
    """One variant: metrics (E, T) by name, seconds (batches, T) a frame, longest sequence, first imagined videos."""

    curves: dict[str, Array]
    seconds: Array
    tokens: int
    videos: NDArray[np.uint8]


def study(config: SwrStudyConfig, out: str) -> Mapping[str, Any]:
    """Run every variant on the same episodes; writes ``report.html`` into ``out``."""
    require("matplotlib", "viz")
    model = WorldModel.from_pretrained(config.world_model)
    variants = _variants(config, model)
    probe = (
        StateProbe.from_pretrained(config.probe or config.world_model) if config.effector or config.objects else None
    )
    data = load_held_out(config.data, model.config.image_size, max(config.horizons), config.episodes)
    if probe is not None:
        check_columns(probe.config.columns, {"effector": config.effector, **config.objects}, data.columns)
    _warm_up(model, data, config)
    outcomes = {name: _run(name, mode, window, model, data, probe, config) for name, (mode, window) in variants.items()}
    figures = _figures(outcomes, config)
    write_report(Path(out) / "report.html", "Long rollouts", _sections(figures, outcomes, data, config))
    detail = {name: {key: _means(curve) for key, curve in o.curves.items()} for name, o in outcomes.items()}
    return {**figures, "episodes": len(data.frames), "detail": {"per_horizon": detail}}


def _variants(config: SwrStudyConfig, model: WorldModel) -> dict[str, tuple[str, int]]:
    """Name → mode and window."""
    limit = model.config.dynamics.max_frames - 1
    frozen = config.frozen_window or model.config.window
    for name, windows in (("windows", config.windows), ("frozen_window", [frozen])):
        for window in windows:
            if not 1 <= window <= limit:
                raise RoboAlignError(f"study.{name}: expected 1 to {limit} frames, as trained, found {window}")
    swr = {f"swr_w{window}": ("swr", window) for window in config.windows}
    return {"plain": ("plain", limit), "frozen": ("frozen", frozen), **swr}


def _warm_up(model: WorldModel, data: HeldOut, config: SwrStudyConfig) -> None:
    """So that the first variant does not pay for what is made once."""
    rows = np.arange(min(config.batch, len(data.frames)))
    context = model.encode(torch.from_numpy(data.frames[rows, 0]))
    roll(model, context, model.action_bins(data.actions[rows, :2]), "swr", 1, cast(Order, config.order))


def _run(
    name: str,
    mode: str,
    window: int,
    model: WorldModel,
    data: HeldOut,
    probe: StateProbe | None,
    config: SwrStudyConfig,
) -> Outcome:
    curves: dict[str, list[Array]] = {}
    seconds, tokens, videos = [], 0, []
    batches = np.array_split(np.arange(len(data.frames)), -(-len(data.frames) // config.batch))
    for rows in track(batches, name):
        context = model.encode(torch.from_numpy(data.frames[rows, 0]))
        meter = Meter()
        rollout = roll(
            model,
            context,
            model.action_bins(data.actions[rows]),
            cast(Mode, mode),
            window,
            cast(Order, config.order),
            on_frame=meter,
        )
        seconds.append(meter.times)
        tokens = max(tokens, meter.tokens)
        for key, curve in _curves(rollout.frames, data, rows, probe, config).items():
            curves.setdefault(key, []).append(curve)
        videos.append(rollout.frames[: config.videos])
    return Outcome(
        {key: np.concatenate(parts) for key, parts in curves.items()},
        np.array(seconds),
        tokens,
        np.concatenate(videos)[: config.videos],
    )


def _curves(
    imagined: NDArray[np.uint8],
    data: HeldOut,
    rows: NDArray[np.int64],
    probe: StateProbe | None,
    config: SwrStudyConfig,
) -> dict[str, Array]:
    later = data.frames[rows, 1:]
    curves = {"psnr_db": psnr(imagined, later), "ssim": ssim(imagined, later)}
    if probe is None:
        return curves
    names, truth = probe.config.columns, data.state[rows].astype(np.float64)
    state = read_states(probe, imagined)
    if config.effector:
        curves["effector_error_cm"] = distance_cm(state, truth[:, 1:], names, config.effector)
    if config.objects:
        curves["moved_object_error_cm"] = moved_error_cm(state, truth, names, config.objects, config.moved)
    return curves


def _figures(outcomes: dict[str, Outcome], config: SwrStudyConfig) -> dict[str, Any]:
    """Means of each variant, its differences to both baselines on the same episodes, and what it costs."""
    figures: dict[str, Any] = {}
    for name, outcome in outcomes.items():
        for horizon in config.horizons:
            for key, curve in outcome.curves.items():
                here = curve[:, horizon - 1]
                known = np.isfinite(here)
                if known.sum() < 2:
                    continue
                label = f"{name}_h{horizon}_{key}"
                figures |= bootstrap_mean(here[known], seed=config.seed).as_results(label)
                for baseline in BASELINES:
                    if name not in BASELINES:
                        there = outcomes[baseline].curves[key][:, horizon - 1]
                        difference = paired_difference(here[known], there[known], seed=config.seed)
                        figures |= difference.as_results(f"{name}_minus_{baseline}_h{horizon}_{key}")
        figures |= _costs(name, outcome)
    # Of the whole process: it never falls, so growth of a later variant shows and that of an earlier one is shared.
    figures["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def _costs(name: str, outcome: Outcome) -> dict[str, float]:
    first, last = outcome.seconds[:, :_EDGE], outcome.seconds[:, -_EDGE:]
    return {
        f"{name}_frame_ms": float(outcome.seconds.mean() * 1000),
        f"{name}_last_to_first_frames_pct": float((last.mean() / first.mean() - 1) * 100),
        f"{name}_peak_tokens": float(outcome.tokens),
    }


def _means(curve: Array) -> list[float | None]:
    return [float(np.nanmean(step)) if np.isfinite(step).any() else None for step in curve.T]


def _sections(
    figures: dict[str, Any], outcomes: dict[str, Outcome], data: HeldOut, config: SwrStudyConfig
) -> list[Section]:
    rows = [
        {"figure": key, "value": value, "95 % low": figures[f"{key}_ci_low"], "95 % high": figures[f"{key}_ci_high"]}
        for key, value in figures.items()
        if f"{key}_ci_low" in figures
    ]
    costs = [
        {"variant": name, **{key.removeprefix(f"{name}_"): value for key, value in _costs(name, outcome).items()}}
        for name, outcome in outcomes.items()
    ]
    labels = ["real", *outcomes]
    videos = [
        Video(
            f"episode {index}",
            side_by_side([data.frames[index, 1:], *(o.videos[index] for o in outcomes.values())], labels, 2),
            5.0,
        )
        for index in range(min(config.videos, len(data.frames)))
    ]
    return [
        Section("Against horizon", figures=[_plot(outcomes)]),
        Section(
            "Costs", text=f"Times are of {len(data.frames)} episodes, at most {config.batch} at once.", table=costs
        ),
        Section("Side by side", videos=videos),
        Section("Figures", text="Means over episodes with bootstrap intervals; differences are paired.", table=rows),
    ]


def _plot(outcomes: dict[str, Outcome]) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    keys = list(next(iter(outcomes.values())).curves)
    figure, axes = plt.subplots(1, len(keys), figsize=(4.5 * len(keys), 3.6), squeeze=False)
    for axis, key in zip(axes[0], keys, strict=True):
        for name, outcome in outcomes.items():
            values = [np.nan if value is None else value for value in _means(outcome.curves[key])]
            axis.plot(range(1, len(values) + 1), values, label=name)
        axis.set(title=key, xlabel="horizon (frames)")
        axis.legend()
    figure.tight_layout()
    png = figure_png(figure)
    plt.close(figure)
    return png


STUDY = Study("swr", SwrStudyConfig, study)
