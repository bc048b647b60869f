"""How well does the world model imagine held-out episodes, where it matters to a robot?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import MISSING
from rich.progress import track

from roboalign_core.errors import require
from roboalign_core.evaluation.held_out import load_held_out
from roboalign_core.evaluation.metrics import moving_region, psnr, ssim
from roboalign_core.evaluation.positions import Array, check_columns, distance_cm, moved_error_cm, read_states
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.evaluation.report import Section, Video, figure_png, write_report
from roboalign_core.evaluation.statistics import bootstrap_mean, bootstrap_median
from roboalign_core.evaluation.study import Study
from roboalign_core.evaluation.video import side_by_side
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Mode, Order, roll


@dataclass
class WorldModelStudyConfig:
    """Settings.

    Attributes:
        world_model: bundled name or folder.
        data: store of held-out episodes, never trained on.
        probe: folder of the state probe; the model's own where empty.
        episodes: how many, from the store's start; 0: all.
        horizons: steps ahead at which figures are taken.
        mode, order, window: of the rollouts; window 0: the model's own.
        effector: state columns of the end effector in the table plane, metres.
        objects: state columns of each object in the table plane, metres.
        moved: an object counts as moved beyond so many metres.
        batch: episodes imagined at once.
        videos: strips in the report.
        seed: of the shuffled actions and the bootstrap.
    """

    world_model: str = MISSING
    data: str = MISSING
    probe: str = ""
    episodes: int = 0
    horizons: list[int] = field(default_factory=lambda: [1, 4, 8, 16, 28])
    mode: str = "plain"
    order: str = "token"
    window: int = 0
    effector: list[str] = field(default_factory=list)
    objects: dict[str, list[str]] = field(default_factory=dict)
    moved: float = 0.02
    batch: int = 32
    videos: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Imagined:
    """Held-out episodes beside what the model made of them; T = longest horizon.

    Attributes:
        real: (E, T + 1, H, W, 3) uint8; frame 0 is given.
        imagined, shuffled, idle: (E, T, H, W, 3), with the true actions, those of another episode, and none (zeros).
        bound: (E, T, H, W, 3), the real frames through the tokenizer, relative to frame 0.
        tokens: (E, T, m) imagined codes; ``start`` (E, m) those of frame 0.
        state: (E, T + 1, K) recorded; ``columns`` are the names of the K.
    """

    real: NDArray[np.uint8]
    imagined: NDArray[np.uint8]
    shuffled: NDArray[np.uint8]
    idle: NDArray[np.uint8]
    bound: NDArray[np.uint8]
    tokens: NDArray[np.int64]
    start: NDArray[np.int64]
    state: NDArray[np.float32]
    columns: tuple[str, ...]


def study(config: WorldModelStudyConfig, out: str) -> Mapping[str, Any]:
    """Run it; writes ``report.html`` into ``out``."""
    require("matplotlib", "viz")
    model = WorldModel.from_pretrained(config.world_model)
    probe = (
        StateProbe.from_pretrained(config.probe or config.world_model) if config.effector or config.objects else None
    )
    data = imagine(model, config)
    curves = _curves(data, probe, config)
    figures = _figures(curves, data, model, config)
    write_report(
        Path(out) / "report.html", "World model on held-out episodes", _sections(figures, curves, data, config)
    )
    return {**figures, "episodes": len(data.real), "detail": {"per_horizon": _detail(curves, config)}}


def imagine(model: WorldModel, config: WorldModelStudyConfig) -> Imagined:
    """Roll the model out along every held-out episode from its first frame."""
    data = load_held_out(config.data, model.config.image_size, max(config.horizons), config.episodes)
    real, actions, count = data.frames, data.actions, len(data.frames)
    other = _derangement(count, config.seed)
    parts = [
        _imagine_batch(model, real[rows], actions[rows], actions[other[rows]], config)
        for rows in track(np.array_split(np.arange(count), -(-count // config.batch)), "imagining")
    ]
    imagined, shuffled, idle, bound, tokens, start = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Imagined(real, imagined, shuffled, idle, bound, tokens, start, data.state, data.columns)


@torch.no_grad()
def _imagine_batch(
    model: WorldModel,
    real: NDArray[np.uint8],
    actions: NDArray[np.float32],
    others: NDArray[np.float32],
    config: WorldModelStudyConfig,
) -> tuple[Any, ...]:
    context = model.encode(torch.from_numpy(real[:, 0]))
    mode, order, window = cast(Mode, config.mode), cast(Order, config.order), config.window or model.config.window
    given = (actions, others, np.zeros_like(actions))
    rollout, shuffled, idle = (roll(model, context, model.action_bins(each), mode, window, order) for each in given)
    bound = []
    for step in range(1, real.shape[1]):
        codes = model.encode_dynamics(torch.from_numpy(real[:, step]), context.features)
        bound.append(model.decode(codes, context.features).cpu().numpy())
    return (
        rollout.frames,
        shuffled.frames,
        idle.frames,
        np.stack(bound, 1),
        rollout.tokens.cpu().numpy(),
        context.start.cpu().numpy(),
    )


def _derangement(count: int, seed: int) -> NDArray[np.int64]:
    """Each episode gets the actions of another one."""
    order = np.random.default_rng(seed).permutation(count)
    result = np.empty(count, np.int64)
    result[order] = np.roll(order, 1)
    return result


def _curves(data: Imagined, probe: StateProbe | None, config: WorldModelStudyConfig) -> dict[str, Array]:
    """Each metric as (E, T); NaN where an episode has no value (an object that did not move)."""
    later = data.real[:, 1:]
    copied = np.broadcast_to(data.real[:, :1], later.shape)
    curves = {
        "rollout_psnr_db": psnr(data.imagined, later),
        "rollout_ssim": ssim(data.imagined, later),
        "copy_psnr_db": psnr(copied, later),
        "tokenizer_psnr_db": psnr(data.bound, later),
        "shuffled_psnr_db": psnr(data.shuffled, later),
        "idle_psnr_db": psnr(data.idle, later),
    }
    region = moving_region(data.real)[:, 1:]
    for view, frames in (("rollout", data.imagined), ("copy", copied), ("tokenizer", data.bound)):
        curves[f"{view}_roi_psnr_db"] = psnr(frames, later, region)
    if probe is not None:
        curves |= _position_curves(data, probe, config)
    return curves


def _position_curves(data: Imagined, probe: StateProbe, config: WorldModelStudyConfig) -> dict[str, Array]:
    """Distances in centimetres in the table plane between where the probe sees things and where they were."""
    names = probe.config.columns
    check_columns(names, {"effector": config.effector, **config.objects}, data.columns)
    views = {"rollout": data.imagined, "tokenizer": data.bound, "real": data.real[:, 1:]}
    truth = data.state.astype(np.float64)
    states = {view: read_states(probe, frames) for view, frames in views.items()}
    states["copy"] = np.broadcast_to(truth[:, :1], truth[:, 1:].shape)
    curves: dict[str, Array] = {}
    for view, state in states.items():
        if config.effector:
            curves[f"{view}_effector_error_cm"] = distance_cm(state, truth[:, 1:], names, config.effector)
        curves[f"{view}_moved_object_error_cm"] = moved_error_cm(state, truth, names, config.objects, config.moved)
    return curves


def _figures(
    curves: dict[str, Array], data: Imagined, model: WorldModel, config: WorldModelStudyConfig
) -> dict[str, Any]:
    """Headline figures with intervals over episodes; errors in centimetres are medians."""
    figures: dict[str, Any] = {}
    for horizon in config.horizons:
        for name, curve in curves.items():
            values = curve[:, horizon - 1]
            values = values[np.isfinite(values)]
            if len(values) < 2:
                figures.setdefault("missing", {})[_key(name, horizon)] = "fewer than 2 episodes have a value"
                continue
            estimate = bootstrap_median if name.endswith("_cm") else bootstrap_mean
            figures |= estimate(values, seed=config.seed).as_results(_key(name, horizon))
        own = curves["rollout_psnr_db"][:, horizon - 1]
        for other, name in (("shuffled", "action_gap"), ("idle", "idle_gap"), ("copy", "over_copy")):
            gap = own - curves[f"{other}_psnr_db"][:, horizon - 1]
            figures |= bootstrap_mean(gap, seed=config.seed).as_results(f"{name}_h{horizon}_db")
    return {**figures, **_token_figures(data, model, config)}


def _key(name: str, horizon: int) -> str:
    """``rollout_psnr_db`` at 8 → ``rollout_h8_psnr_db``; the tokenizer's horizon is a distance, ``d8``."""
    view, metric = name.split("_", 1)
    return f"{view}_{'d' if view == 'tokenizer' else 'h'}{horizon}_{metric}"


def _token_figures(data: Imagined, model: WorldModel, config: WorldModelStudyConfig) -> dict[str, Any]:
    """How often a frame repeats the one before, and how the codebook is used."""
    before = np.concatenate([data.start[:, None], data.tokens[:, :-1]], axis=1)
    repeats = (data.tokens == before).all(-1).mean(1)
    counts = np.bincount(data.tokens.ravel(), minlength=model.config.layout.dynamics_codes)
    shares = counts[counts > 0] / counts.sum()
    return {
        **bootstrap_mean(repeats, seed=config.seed).as_results("repetition_rate"),
        "codebook_used": int((counts > 0).sum()),
        "codebook_size": len(counts),
        "codebook_perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
    }


def _detail(curves: dict[str, Array], config: WorldModelStudyConfig) -> dict[str, list[float | None]]:
    summary: dict[str, list[float | None]] = {}
    for name, curve in curves.items():
        reduce = np.nanmedian if name.endswith("_cm") else np.nanmean
        summary[name] = [float(reduce(step)) if np.isfinite(step).any() else None for step in curve.T]
    return summary


def _sections(
    figures: dict[str, Any], curves: dict[str, Array], data: Imagined, config: WorldModelStudyConfig
) -> list[Section]:
    rows = [
        {"figure": key, "value": value, "95 % low": figures[f"{key}_ci_low"], "95 % high": figures[f"{key}_ci_high"]}
        for key, value in figures.items()
        if f"{key}_ci_low" in figures
    ]
    videos = [
        Video(
            f"episode {index}: real | imagined",
            side_by_side([data.real[index, 1:], data.imagined[index]], ["real", "imagined"], 3),
            5.0,
        )
        for index in range(min(config.videos, len(data.real)))
    ]
    return [
        Section("Against horizon", figures=[_plot(curves)]),
        Section("Real beside imagined", text="Only the first frame and the actions were given.", videos=videos),
        Section("Figures", text="Means over episodes with bootstrap intervals; centimetres are medians.", table=rows),
    ]


def _plot(curves: dict[str, Array]) -> bytes:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {
        "PSNR (dB)": "_psnr_db",
        "PSNR where something moves (dB)": "_roi_psnr_db",
        "end effector (cm)": "_effector_error_cm",
        "moved objects (cm)": "_moved_object_error_cm",
    }
    shown = {
        title: [name for name in curves if name.split("_", 1)[1] == suffix[1:]] for title, suffix in panels.items()
    }
    shown = {title: names for title, names in shown.items() if names}
    figure, axes = plt.subplots(1, len(shown), figsize=(5 * len(shown), 3.6), squeeze=False)
    for axis, (title, names) in zip(axes[0], shown.items(), strict=True):
        for name in names:
            reduce = np.nanmedian if name.endswith("_cm") else np.nanmean
            axis.plot(range(1, curves[name].shape[1] + 1), reduce(curves[name], axis=0), label=name.split("_")[0])
        axis.set(title=title, xlabel="horizon (frames)")
        axis.legend()
    figure.tight_layout()
    png = figure_png(figure)
    plt.close(figure)
    return png


STUDY = Study("world_model", WorldModelStudyConfig, study)
