"""``roboalign evaluate study=swr``: does re-encoding keep long rollouts from drifting, and what does it cost?"""

from __future__ import annotations

import resource
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import MISSING
from rich.progress import track

from roboalign_core.errors import RoboAlignError, require
from roboalign_core.evaluation.held_out import HeldOut, check_amounts, load_held_out
from roboalign_core.evaluation.long_rollouts import Meter, Outcome, costs, means
from roboalign_core.evaluation.metrics import psnr, ssim
from roboalign_core.evaluation.perceptual import Perceptual, load_perceptual
from roboalign_core.evaluation.positions import Array, check_columns, distance_cm, moved_error_cm, read_states
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.evaluation.report import write_report
from roboalign_core.evaluation.statistics import bootstrap_mean, paired_difference, paired_gain_pct
from roboalign_core.evaluation.study import Study
from roboalign_core.evaluation.swr_report import report_sections
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Mode, Order, roll

BASELINES = ("plain", "frozen")
WINDOWS = (2, 4, 6, 8, 12, 16)


@dataclass
class SwrStudyConfig:
    """Settings.

    Attributes:
        world_model: bundled name or folder.
        data: store of held-out episodes, longer than the longest horizon.
        probe: folder of the state probe; the model's own where empty.
        episodes: how many, from the store's start; 0: all.
        windows: W of Sliding Window Re-encoding, each its own variant; the model's own window is always one. None: 2,
            4, 6, 8, 12 and 16, as far as the model has positions.
        frozen_window: frames after which the frozen variant restarts; 0: the model's own window.
        horizons: steps ahead at which figures are taken.
        every: curves have a point every so many frames, and at the horizons.
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
    windows: list[int] = field(default_factory=list)
    frozen_window: int = 0
    horizons: list[int] = field(default_factory=lambda: [30, 60, 100])
    every: int = 5
    order: str = "frame"
    effector: list[str] = field(default_factory=list)
    objects: dict[str, list[str]] = field(default_factory=dict)
    moved: float = 0.02
    batch: int = 32
    videos: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_amounts(self, batch=1, every=1, episodes=0, videos=0, seed=0)
        if self.order not in get_args(Order):
            raise RoboAlignError(f"study.order: expected one of {get_args(Order)}, found {self.order!r}")

    @property
    def steps(self) -> list[int]:
        """Frames ahead that are measured, ascending."""
        last = max(self.horizons)
        return sorted({1, *range(self.every, last + 1, self.every), *self.horizons})


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
    perceptual, reason = load_perceptual()
    _warm_up(model, data, config)
    measure = partial(_curves, data=data, probe=probe, perceptual=perceptual, config=config)
    outcomes = {
        name: _run(name, mode, window, model, data, measure, config) for name, (mode, window) in variants.items()
    }
    missing = {} if perceptual else {"lpips": reason}
    headline = _headline(outcomes, model.config.window, perceptual, config, missing)
    figures = {**_figures(outcomes, config, missing), **headline}
    sections = report_sections(figures, outcomes, data.frames[:, 1:], config.videos)
    write_report(Path(out) / "report.html", "Long rollouts", sections)
    curves = {name: {key: means(curve) for key, curve in o.curves.items()} for name, o in outcomes.items()}
    detail = {"steps": config.steps, "per_horizon": curves, "perceptual": perceptual.name if perceptual else None}
    return {**figures, "episodes": len(data.frames), "missing": missing, "detail": detail}


def _variants(config: SwrStudyConfig, model: WorldModel) -> dict[str, tuple[str, int]]:
    """Name → mode and window."""
    limit = model.config.dynamics.max_frames - 1
    frozen = config.frozen_window or model.config.window
    for name, windows in (("windows", config.windows), ("frozen_window", [frozen])):
        for window in windows:
            if not 1 <= window <= limit:
                raise RoboAlignError(f"study.{name}: expected 1 to {limit} frames, as trained, found {window}")
    windows = config.windows or [window for window in WINDOWS if window <= limit]
    swr = {f"swr_w{window}": ("swr", window) for window in sorted({*windows, model.config.window})}
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
    measure: Callable[[NDArray[np.uint8], NDArray[np.int64]], dict[str, Array]],
    config: SwrStudyConfig,
) -> Outcome:
    curves: dict[str, list[Array]] = {}
    meters, videos = [], []
    batches = np.array_split(np.arange(len(data.frames)), -(-len(data.frames) // config.batch))
    for rows in track(batches, name):
        context = model.encode(torch.from_numpy(data.frames[rows, 0]))
        bins = model.action_bins(data.actions[rows])
        meter = Meter()
        rollout = roll(model, context, bins, cast(Mode, mode), window, cast(Order, config.order), on_frame=meter)
        meters.append(meter)
        for key, curve in measure(rollout.frames, rows).items():
            curves.setdefault(key, []).append(curve)
        videos.append(rollout.frames[: config.videos])
    return Outcome(
        {key: np.concatenate(parts) for key, parts in curves.items()},
        np.array([meter.times for meter in meters]),
        window,
        window - window // 2 if mode == "plain" else window,  # plain rollouts keep half of the history
        max(meter.tokens for meter in meters),
        max(meter.bytes for meter in meters),
        np.concatenate(videos)[: config.videos],
        config.steps,
    )


def _curves(
    imagined: NDArray[np.uint8],
    rows: NDArray[np.int64],
    data: HeldOut,
    probe: StateProbe | None,
    perceptual: Perceptual | None,
    config: SwrStudyConfig,
) -> dict[str, Array]:
    """Metrics (E, S) at the S measured steps, of imagined frames (E, T, H, W, 3)."""
    steps = np.array(config.steps)
    imagined, later = imagined[:, steps - 1], data.frames[rows][:, steps]
    curves = {"psnr_db": psnr(imagined, later), "ssim": ssim(imagined, later)}
    if perceptual is not None:
        curves[perceptual.name] = perceptual(imagined, later)
    if probe is None:
        return curves
    names, truth = probe.config.columns, data.state[rows][:, [0, *steps]].astype(np.float64)
    state = read_states(probe, imagined)
    if config.effector:
        curves["effector_error_cm"] = distance_cm(state, truth[:, 1:], names, config.effector)
    if config.objects:
        curves["moved_object_error_cm"] = moved_error_cm(state, truth, names, config.objects, config.moved)
    return curves


def _headline(
    outcomes: Mapping[str, Outcome],
    window: int,
    perceptual: Perceptual | None,
    config: SwrStudyConfig,
    missing: dict[str, str],
) -> dict[str, float]:
    """Gains of the model's own window over both baselines in per cent, positive where it is better, and its price.

    What cannot be computed is noted in ``missing``.
    """
    ours, plain = outcomes[f"swr_w{window}"], outcomes["plain"]
    figures: dict[str, float] = {"window": float(window)}
    metrics = {"ssim": ("ssim", False)}
    if perceptual is not None:
        metrics["perceptual"] = (perceptual.name, True)
    for baseline in BASELINES:
        for horizon in config.horizons:
            for label, (key, lower) in metrics.items():
                here, there = (outcome.at(key, horizon) for outcome in (ours, outcomes[baseline]))
                name = f"swr_vs_{baseline}_h{horizon}_{label}_gain_pct"
                try:
                    gain = paired_gain_pct(here, there, lower_is_better=lower, seed=config.seed)
                except RoboAlignError as error:  # pictures that have nothing in common
                    missing[name] = str(error)
                else:
                    figures |= gain.as_results(name)
    figures["time_overhead_pct"] = float((ours.seconds.mean() / plain.seconds.mean() - 1) * 100)
    figures["peak_memory_ratio"] = ours.bytes / plain.bytes
    return figures


def _figures(outcomes: dict[str, Outcome], config: SwrStudyConfig, missing: dict[str, str]) -> dict[str, Any]:
    """Means of each variant, its differences to both baselines on the same episodes, and what it costs.

    What fewer than two episodes have is noted in ``missing``.
    """
    figures: dict[str, Any] = {}
    for name, outcome in outcomes.items():
        for horizon in config.horizons:
            for key in outcome.curves:
                here = outcome.at(key, horizon)
                known, label = np.isfinite(here), f"{name}_h{horizon}_{key}"
                if known.sum() < 2:
                    missing[label] = f"of {known.sum()} episodes only, expected at least 2"
                    continue
                figures |= bootstrap_mean(here[known], seed=config.seed).as_results(label)
                for baseline in BASELINES:
                    if name not in BASELINES:
                        there = outcomes[baseline].at(key, horizon)
                        difference = paired_difference(here[known], there[known], seed=config.seed)
                        figures |= difference.as_results(f"{name}_minus_{baseline}_h{horizon}_{key}")
        figures |= {f"{name}_{key}": value for key, value in costs(outcome).items()}
    # Of the whole process: it never falls, so growth of a later variant shows and that of an earlier one is shared.
    figures["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


STUDY = Study("swr", SwrStudyConfig, study)
