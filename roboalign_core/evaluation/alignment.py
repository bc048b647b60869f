"""``roboalign evaluate study=alignment``: is an aligned world model better, by judges that it was not trained with?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.progress import track

from roboalign_core.bundled import resolve_model
from roboalign_core.errors import RoboAlignError, require
from roboalign_core.evaluation.alignment_config import JUDGES, AlignmentStudyConfig
from roboalign_core.evaluation.alignment_figures import Compared, figures_of, headline_total
from roboalign_core.evaluation.alignment_judges import Jury, Verdict, check_independent, make_reward, oracle_judge
from roboalign_core.evaluation.alignment_report import report_sections
from roboalign_core.evaluation.held_out import HeldOut, load_held_out
from roboalign_core.evaluation.measures import Frames, Measures
from roboalign_core.evaluation.perceptual import load_perceptual
from roboalign_core.evaluation.positions import check_columns
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.evaluation.regions import masks, without_box
from roboalign_core.evaluation.report import write_report
from roboalign_core.evaluation.study import Study
from roboalign_core.reward.model import RewardModel
from roboalign_core.training.grpo.rewards import Mixture
from roboalign_core.world_model.config import WorldModelConfig
from roboalign_core.world_model.model import WorldModel, load_config
from roboalign_core.world_model.rollout import Mode, Order, roll


@dataclass(frozen=True)
class _Trial:
    """What all models are tried on, and by whom.

    Attributes:
        held_out: the episodes.
        batches: the same in batches, each with what its frames are measured by.
        jury: the judges.
        rewards: of each variant that has one.
        missing: what cannot be measured, and why.
    """

    held_out: HeldOut
    batches: list[tuple[HeldOut, Measures]]
    jury: Jury
    rewards: dict[str, Mixture]
    missing: dict[str, str]


def study(config: AlignmentStudyConfig, out: str) -> Mapping[str, Any]:
    """Run it; writes ``report.html`` into ``out``.

    Raises:
        RoboAlignError: models, probe, judges and data are missing or do not fit together.
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "viz")
    trial = _prepare(config, _geometry(config))
    real = Verdict.join([trial.jury.judge(batch.frames, batch, measures, {}) for batch, measures in trial.batches])
    verdicts: dict[str, list[Verdict]] = {}
    videos: dict[str, Frames] = {}
    for variant, names in config.models.items():
        for name in names:
            verdict, frames = _try(trial, config, variant, name)
            verdicts.setdefault(variant, []).append(verdict.beside(real))
            videos.setdefault(variant, frames)
    compared = Compared(config.reference, verdicts, real, trial.rewards, config.horizons)
    figures, missing = figures_of(compared, config.resamples, config.seed)
    missing = {**trial.missing, **missing}
    detail = compared.detail(config.models) | {
        "instructions": list(trial.held_out.instructions),
        "students": list(config.students),
        "training_reward": config.rewards,
        "headline": headline_total(compared),
    }
    sections = report_sections(figures, compared, trial.held_out, videos, config.videos)
    write_report(Path(out) / "report.html", "Aligned world models by independent judges", sections)
    return {**figures, "episodes": len(trial.held_out.frames), "missing": missing, "detail": detail}


def _geometry(config: AlignmentStudyConfig) -> WorldModelConfig:
    """Settings of the reference's first model, which all others fit."""
    first = config.models[config.reference][0]
    expected = load_config(resolve_model(first))
    for variant, names in config.models.items():
        for name in names:
            found = load_config(resolve_model(name))
            for what, ours, theirs in (
                ("frames (H, W)", expected.image_size, found.image_size),
                ("actions of width", expected.action_dim, found.action_dim),
            ):
                if theirs != ours:
                    raise RoboAlignError(
                        f"study.models.{variant}: {name}: expected {what} {ours} as {first} has, found {theirs}"
                    )
    return expected


def _prepare(config: AlignmentStudyConfig, geometry: WorldModelConfig) -> _Trial:
    held_out = load_held_out(config.data, geometry.image_size, max(config.horizons), config.episodes)
    if held_out.actions.shape[-1] != geometry.action_dim:
        raise RoboAlignError(
            f"study.data: expected actions of width {geometry.action_dim} as the models have, "
            f"found {held_out.actions.shape[-1]} in {config.data}"
        )
    missing = {name: "not among study.judges" for name in JUDGES if name not in config.judges}
    masks(held_out, config.regions)
    probe = config.probe or config.models[config.reference][0]
    rewards = {
        variant: make_reward(variant, names, config.weights_of(variant), probe, held_out.source, config.device)
        for variant, names in config.rewards.items()
    }
    jury = _jury(config, held_out, geometry, missing)
    check_independent(jury.students, config.students, rewards)
    perceptual, reason = load_perceptual()
    if perceptual is None:
        missing["lpips"] = reason
    parts = np.array_split(np.arange(len(held_out.frames)), -(-len(held_out.frames) // config.batch))
    batches = [held_out.of(rows) for rows in parts]
    return _Trial(
        held_out, [(batch, Measures(batch, config.parts, perceptual)) for batch in batches], jury, rewards, missing
    )


def _jury(config: AlignmentStudyConfig, held_out: HeldOut, geometry: WorldModelConfig, missing: dict[str, str]) -> Jury:
    asked = set(config.judges)
    if "positions" in asked and not config.parts.columns:
        missing["positions"] = "study.effector and study.objects name no state columns"
        asked.remove("positions")
    if "regions" in asked and not held_out.box_columns:
        missing["regions"] = f"{config.data} records no boxes (collect boxes=true)"
        asked.remove("regions")
    elif "regions" in asked and (unseen := without_box(held_out, config.objects)):
        missing["moved_object_psnr_db"] = f"without {', '.join(unseen)}, of which {config.data} records no box"
    if not asked and not config.students:
        raise RoboAlignError(f"study.judges: expected one that can judge {config.data}, found none: {missing}")
    if not config.students:
        missing["students"] = "no study.students given"
    probe = _probe(config) if asked & {"oracle", "positions"} else None
    if probe is not None and "positions" in asked:
        check_columns(probe.config.columns, config.parts.columns, held_out.columns)
    return Jury(
        config.horizons,
        geometry.tokenizer.still_threshold if "repetition" in asked else None,
        probe,
        oracle_judge(held_out, probe, config.noise) if probe is not None and "oracle" in asked else None,
        [RewardModel.from_pretrained(name, config.device) for name in config.students],
        *(name in asked for name in ("pixels", "regions", "positions")),
    )


def _probe(config: AlignmentStudyConfig) -> StateProbe:
    try:
        return StateProbe.from_pretrained(config.probe or config.models[config.reference][0])
    except RoboAlignError as error:
        raise RoboAlignError(
            f"study.probe: {error}; leave oracle and positions out of study.judges to go without one"
        ) from error


def _try(trial: _Trial, config: AlignmentStudyConfig, variant: str, name: str) -> tuple[Verdict, Frames]:
    """What is said of one model, and its frames (E, T, H, W, 3)."""
    model = WorldModel.from_pretrained(name, config.device)
    mine = {f"reward_{variant}": trial.rewards[variant]} if variant in trial.rewards else {}
    if variant == config.reference:
        mine = {f"reward_{other}": reward for other, reward in trial.rewards.items()}
    verdicts, drawn = [], []
    for frames, (batch, measures) in zip(_imagine(model, trial, config, name), trial.batches, strict=True):
        verdicts.append(trial.jury.judge(frames, batch, measures, mine))
        drawn.append(frames[:, 1:])
    return Verdict.join(verdicts), np.concatenate(drawn)


def _imagine(model: WorldModel, trial: _Trial, config: AlignmentStudyConfig, name: str) -> Iterator[Frames]:
    """Each batch's futures (N, T + 1, H, W, 3), the real first frame included."""
    mode, order, window = cast(Mode, config.mode), cast(Order, config.order), config.window or model.config.window
    noise = torch.Generator(model.device).manual_seed(config.seed)
    for batch, _ in track(trial.batches, name):
        context = model.encode(torch.from_numpy(batch.frames[:, 0]))
        actions = model.action_bins(batch.actions)
        rollout = roll(model, context, actions, mode, window, order, config.temperature, noise)
        yield np.concatenate([batch.frames[:, :1], rollout.frames], axis=1)


STUDY = Study("alignment", AlignmentStudyConfig, study)
