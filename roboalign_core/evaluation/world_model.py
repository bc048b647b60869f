"""How well does the world model imagine held-out episodes, where it matters to a robot?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import MISSING
from rich.progress import track

from roboalign_core.errors import RoboAlignError, require
from roboalign_core.evaluation.held_out import HeldOut, check_amounts, load_held_out
from roboalign_core.evaluation.measures import Measures, Parts
from roboalign_core.evaluation.metrics import psnr
from roboalign_core.evaluation.perceptual import Perceptual, load_perceptual
from roboalign_core.evaluation.positions import Array, check_columns, read_states
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.evaluation.regions import masks, without_box
from roboalign_core.evaluation.report import write_report
from roboalign_core.evaluation.statistics import bootstrap_mean, bootstrap_median, paired_difference
from roboalign_core.evaluation.study import Study
from roboalign_core.evaluation.world_model_report import report_sections, summary
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Mode, Order, roll

HEADLINE_HORIZON = 8  # frames ahead at which ``imagined_state_cm`` is taken


@dataclass
class WorldModelStudyConfig:
    """Settings.

    Attributes:
        world_model: bundled name or folder.
        baseline: another model, bundled name or folder, for paired differences on the same episodes; none where empty.
        baseline_order: its decoding order.
        data: store of held-out episodes, never trained on.
        probe: folder of the state probe; the model's own where empty.
        episodes: how many, from the store's start; 0: all.
        horizons: steps ahead at which figures are taken.
        mode, order, window: of the rollouts; window 0: the model's own.
        effector: state columns of the end effector in the table plane, metres.
        objects: state columns of each object in the table plane, metres.
        regions: names of the recorded bounding boxes of each region with figures of its own.
        moved: an object counts as moved beyond so many metres.
        batch: episodes imagined at once.
        videos: strips in the report.
        seed: of the shuffled actions and the bootstrap.
    """

    world_model: str = MISSING
    baseline: str = ""
    baseline_order: str = "token"
    data: str = MISSING
    probe: str = ""
    episodes: int = 0
    horizons: list[int] = field(default_factory=lambda: [1, 4, 8, 16, 28])
    mode: str = "plain"
    order: str = "token"
    window: int = 0
    effector: list[str] = field(default_factory=list)
    objects: dict[str, list[str]] = field(default_factory=dict)
    regions: dict[str, list[str]] = field(default_factory=dict)
    moved: float = 0.02
    batch: int = 32
    videos: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        check_amounts(self, batch=1, episodes=0, videos=0, seed=0)
        for name, kind in (("order", Order), ("baseline_order", Order), ("mode", Mode)):
            if getattr(self, name) not in get_args(kind):
                raise RoboAlignError(f"study.{name}: expected one of {get_args(kind)}, found {getattr(self, name)!r}")

    @property
    def parts(self) -> Parts:
        """What there is to see."""
        return Parts(self.effector, self.objects, self.regions, self.moved)


@dataclass(frozen=True)
class Imagined:
    """Held-out episodes and what the model made of them; T = longest horizon.

    Attributes:
        held_out: the episodes; frame 0 is given.
        imagined, shuffled, idle: (E, T, H, W, 3), with the true actions, those of another episode, and none (zeros).
        bound: (E, T, H, W, 3), the real frames through the tokenizer, relative to frame 0.
        tokens: (E, T, m) imagined codes, each relative to the context of its segment.
        before: (E, T, m) codes of the frame before each of them, relative to the same context.
    """

    held_out: HeldOut
    imagined: NDArray[np.uint8]
    shuffled: NDArray[np.uint8]
    idle: NDArray[np.uint8]
    bound: NDArray[np.uint8]
    tokens: NDArray[np.int64]
    before: NDArray[np.int64]

    @property
    def later(self) -> NDArray[np.uint8]:
        """The real frames after the first, (E, T, H, W, 3)."""
        return self.held_out.frames[:, 1:]

    @property
    def views(self) -> dict[str, NDArray[np.uint8]]:
        """What is held against them: the rollout, copies of the first frame, and what the tokenizer can show."""
        copied = np.broadcast_to(self.held_out.frames[:, :1], self.later.shape)
        return {"rollout": self.imagined, "copy": copied, "tokenizer": self.bound}


def study(config: WorldModelStudyConfig, out: str) -> Mapping[str, Any]:
    """Run it; writes ``report.html`` into ``out``.

    Raises:
        RoboAlignError: a model, the probe or the data are missing or do not fit together.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "viz")
    model = WorldModel.from_pretrained(config.world_model)
    baseline = _baseline(config, model)
    probe = (
        StateProbe.from_pretrained(config.probe or config.world_model) if config.effector or config.objects else None
    )
    perceptual, reason = load_perceptual()
    held_out = load_held_out(config.data, model.config.image_size, max(config.horizons), config.episodes)
    masks(held_out, config.regions)
    if probe is not None:
        check_columns(probe.config.columns, config.parts.columns, held_out.columns)
    data = imagine(model, held_out, config)
    curves = _curves(data, probe, perceptual, config)
    figures, missing = _figures(curves, config)
    if perceptual is None:
        missing["lpips"] = reason
    if (config.regions or config.objects) and not data.held_out.box_columns:
        missing["regions"] = f"{config.data} records no boxes (collect boxes=true)"
    elif unseen := without_box(data.held_out, config.objects):
        missing["moved_object_psnr_db"] = f"without {', '.join(unseen)}, of which {config.data} records no box"
    figures |= _token_figures(data, model, config)
    detail = {"per_horizon": {name: summary(name, curve) for name, curve in curves.items()}}
    if baseline is not None:
        other = imagine(baseline, held_out, replace(config, order=config.baseline_order))
        theirs = _curves(other, probe, perceptual, config)
        figures |= _differences(curves, theirs, config)
        detail["baseline_per_horizon"] = {name: summary(name, curve) for name, curve in theirs.items()}
    sections = report_sections(figures, curves, data.later, data.imagined, config.videos)
    write_report(Path(out) / "report.html", "World model on held-out episodes", sections)
    return {**figures, "episodes": len(data.imagined), "missing": missing, "detail": detail}


def _baseline(config: WorldModelStudyConfig, model: WorldModel) -> WorldModel | None:
    if not config.baseline:
        return None
    baseline = WorldModel.from_pretrained(config.baseline)
    expected, found = model.config.image_size, baseline.config.image_size
    if found != expected:
        raise RoboAlignError(f"study.baseline: expected a model of frames {expected} (H, W), found one of {found}")
    return baseline


def imagine(model: WorldModel, held_out: HeldOut, config: WorldModelStudyConfig) -> Imagined:
    """Roll the model out along every held-out episode from its first frame."""
    real, actions, count = held_out.frames, held_out.actions, len(held_out.frames)
    other = _derangement(count, config.seed)
    parts = [
        _imagine_batch(model, real[rows], actions[rows], actions[other[rows]], config)
        for rows in track(np.array_split(np.arange(count), -(-count // config.batch)), "imagining")
    ]
    return Imagined(held_out, *(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


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
        rollout.before.cpu().numpy(),
    )


def _derangement(count: int, seed: int) -> NDArray[np.int64]:
    """Each episode gets the actions of another one."""
    order = np.random.default_rng(seed).permutation(count)
    result = np.empty(count, np.int64)
    result[order] = np.roll(order, 1)
    return result


def _curves(
    data: Imagined, probe: StateProbe | None, perceptual: Perceptual | None, config: WorldModelStudyConfig
) -> dict[str, Array]:
    """Each metric as (E, T); NaN where an episode has no value (an object that did not move, or is not seen)."""
    measures = Measures(data.held_out, config.parts, perceptual)
    curves = _image_curves(data, measures)
    return curves if probe is None else curves | _position_curves(data, probe, measures)


def _image_curves(data: Imagined, measures: Measures) -> dict[str, Array]:
    curves = {f"{view}_psnr_db": psnr(getattr(data, view), data.later) for view in ("shuffled", "idle")}
    for view, frames in data.views.items():
        found = {**measures.pixels(frames), **measures.regions(frames)}
        curves |= {f"{view}_{name}": curve for name, curve in found.items()}
    return curves


def _position_curves(data: Imagined, probe: StateProbe, measures: Measures) -> dict[str, Array]:
    """Distances in centimetres in the table plane between where the probe sees things and where they were."""
    truth = data.held_out.state.astype(np.float64)
    states = {view: read_states(probe, frames) for view, frames in {**data.views, "real": data.later}.items()}
    states["copy"] = np.broadcast_to(truth[:, :1], truth[:, 1:].shape)
    curves: dict[str, Array] = {}
    for view, state in states.items():
        found = measures.positions(state, probe.config.columns)
        curves |= {f"{view}_{name}": curve for name, curve in found.items()}
    return curves


def _figures(curves: dict[str, Array], config: WorldModelStudyConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Headline figures with intervals over episodes, and why some are missing; errors in centimetres are medians."""
    figures: dict[str, Any] = {}
    missing: dict[str, str] = {}
    for horizon in config.horizons:
        for name, curve in curves.items():
            values = curve[:, horizon - 1]
            values = values[np.isfinite(values)]
            if len(values) < 2:
                missing[_key(name, horizon)] = "fewer than 2 episodes have a value"
                continue
            estimate = bootstrap_median if name.endswith("_cm") else bootstrap_mean
            figures |= estimate(values, seed=config.seed).as_results(_key(name, horizon))
        own = curves["rollout_psnr_db"][:, horizon - 1]
        for other, name in (("shuffled", "action_gap"), ("idle", "idle_gap"), ("copy", "over_copy")):
            gap = own - curves[f"{other}_psnr_db"][:, horizon - 1]
            figures |= bootstrap_mean(gap, seed=config.seed).as_results(f"{name}_h{horizon}_db")
    headline = f"rollout_h{HEADLINE_HORIZON}_state_error_cm"
    for suffix in ("", "_ci_low", "_ci_high"):
        if headline + suffix in figures:
            figures[f"imagined_state_cm{suffix}"] = figures[headline + suffix]
    if headline not in figures:
        missing["imagined_state_cm"] = f"needs {HEADLINE_HORIZON} among study.horizons, and state columns"
    return figures, missing


def _differences(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], config: WorldModelStudyConfig
) -> dict[str, float]:
    """Ours minus the baseline's, of the rollouts on the same episodes: means of paired differences."""
    figures: dict[str, float] = {}
    for horizon in config.horizons:
        for name in ours:
            if not name.startswith("rollout_"):
                continue
            pairs = np.stack([ours[name][:, horizon - 1], theirs[name][:, horizon - 1]])
            first, second = pairs[:, np.isfinite(pairs).all(0)]
            if len(first) > 1:
                difference = paired_difference(first, second, seed=config.seed)
                figures |= difference.as_results(f"minus_baseline_{_key(name, horizon)}")
    return figures


def _key(name: str, horizon: int) -> str:
    """``rollout_psnr_db`` at 8 → ``rollout_h8_psnr_db``; the tokenizer's horizon is a distance, ``d8``."""
    view, metric = name.split("_", 1)
    return f"{view}_{'d' if view == 'tokenizer' else 'h'}{horizon}_{metric}"


def _token_figures(data: Imagined, model: WorldModel, config: WorldModelStudyConfig) -> dict[str, Any]:
    """How often a frame repeats the one before, and how the codebook is used."""
    repeats = (data.tokens == data.before).all(-1).mean(1)
    counts = np.bincount(data.tokens.ravel(), minlength=model.config.layout.dynamics_codes)
    shares = counts[counts > 0] / counts.sum()
    return {
        **bootstrap_mean(repeats, seed=config.seed).as_results("repetition_rate"),
        "codebook_used": int((counts > 0).sum()),
        "codebook_size": len(counts),
        "codebook_perplexity": float(np.exp(-(shares * np.log(shares)).sum())),
    }


STUDY = Study("world_model", WorldModelStudyConfig, study)
