"""Who judges imagined futures in the study ``alignment``: oracle, students, training rewards, measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from roboalign_core.benchmark.oracles import Tolerance, require_oracle
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.held_out import HeldOut
from roboalign_core.evaluation.measures import Frames, Measures, repeats
from roboalign_core.evaluation.positions import Array, read_states
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.evaluation.probed import ProbedOracle
from roboalign_core.reward.model import RewardModel
from roboalign_core.rubric import KEYS, Scores
from roboalign_core.training.grpo.judges import OracleReward, PositionReward, StudentReward
from roboalign_core.training.grpo.rewards import FRAME_REWARDS, Mixture, Reward, perceptual_reward

MADE_OF = {
    "mae": ("psnr_db",),
    "mse": ("psnr_db",),
    "psnr": ("psnr_db",),
    "ssim": ("ssim",),
    "lpips": ("lpips", "lpips_random"),
    "positions": ("effector_error_cm", "moved_object_error_cm", "state_error_cm", "oracle_total"),
    **{f"oracle_{key}": ("oracle_total",) for key in KEYS},
}
"""Figures that say little of a model trained on a reward, because the reward is made of the same."""


@dataclass(frozen=True)
class Verdict:
    """What is said of futures of E episodes.

    Attributes:
        curves: (E, T) each, at every frame; NaN where an episode has no value.
        scores: (E,) each, of the video up to a horizon.
    """

    curves: dict[str, Array]
    scores: dict[int, dict[str, Array]]

    def at(self, horizon: int) -> dict[str, Array]:
        """(E,) each: curves at that frame, and the scores up to it."""
        return {**{name: curve[:, horizon - 1] for name, curve in self.curves.items()}, **self.scores[horizon]}

    def beside(self, real: Verdict) -> Verdict:
        """With how far every judge's six scores are from those that it gives the recorded frames, summed: points.

        The scores alone would rather have a failure imagined as a success; the recorded actions lead where they lead.
        """
        scores = {horizon: dict(found) for horizon, found in self.scores.items()}
        for horizon, found in scores.items():
            for who in [name.removesuffix(f"_{KEYS[0]}") for name in found if name.endswith(KEYS[0])]:
                apart = [np.abs(found[f"{who}_{key}"] - real.scores[horizon][f"{who}_{key}"]) for key in KEYS]
                found[f"{who}_error"] = np.sum(apart, axis=0)
        return Verdict(self.curves, scores)

    @classmethod
    def join(cls, parts: Sequence[Verdict]) -> Verdict:
        """Of all their episodes, one after the other."""
        first = parts[0]
        return cls(
            {name: np.concatenate([part.curves[name] for part in parts]) for name in first.curves},
            {
                horizon: {name: np.concatenate([part.scores[horizon][name] for part in parts]) for name in scores}
                for horizon, scores in first.scores.items()
            },
        )


def oracle_judge(held_out: HeldOut, probe: StateProbe, noise: float) -> ProbedOracle:
    """The rules of the episodes' simulator, on states that the probe reads; ``noise`` is how well it does, metres.

    Raises:
        RoboAlignError: nobody brings an oracle for these episodes, it cannot judge an instruction of theirs, or the
            probe does not read what it needs.
    """
    try:
        oracle = require_oracle(held_out.source)
        probed = ProbedOracle(oracle, probe, Tolerance(noise))
    except RoboAlignError as error:
        raise RoboAlignError(f"study.judges: {error}; leave oracle out of study.judges to go without") from error
    unknown = [text for text in held_out.instructions if text not in oracle.instructions]
    if unknown:
        raise RoboAlignError(
            f"study.data: expected instructions that the oracle of {held_out.source!r} knows, found {unknown[0]!r}"
        )
    return probed


@dataclass(frozen=True)
class Jury:
    """All judges of a study; what is None or empty is not asked.

    Attributes:
        horizons: frames up to which videos are scored.
        threshold: see :func:`~roboalign_core.evaluation.measures.repeats`; None: frames that repeat are not counted.
        probe: reads states, for the oracle and for positions.
        oracle, students: give the six scores.
        pixels, regions, positions: which of the measures are taken.
    """

    horizons: Sequence[int]
    threshold: float | None
    probe: StateProbe | None
    oracle: ProbedOracle | None
    students: Sequence[RewardModel]
    pixels: bool
    regions: bool
    positions: bool

    def judge(self, imagined: Frames, data: HeldOut, measures: Measures, rewards: Mapping[str, Mixture]) -> Verdict:
        """Futures (E, T + 1, H, W, 3), the real first frame included, of the episodes ``data``.

        ``measures`` are those of the same episodes. Totals of ``rewards`` are among the scores, under their names.
        """
        states = read_states(self.probe, imagined) if self.probe is not None else None
        curves: dict[str, Array] = {}
        if self.pixels:
            curves |= measures.pixels(imagined[:, 1:])
        if self.regions:
            curves |= measures.regions(imagined[:, 1:])
        if self.positions and states is not None and self.probe is not None:
            curves |= measures.positions(states[:, 1:], self.probe.config.columns)
        if self.threshold is not None:
            curves["repetition_rate"] = _so_far(repeats(imagined, data.frames, self.threshold))
        scores = {horizon: self._scores(imagined, states, data, rewards, horizon) for horizon in self.horizons}
        return Verdict(curves, scores)

    def _scores(
        self, imagined: Frames, states: Array | None, data: HeldOut, rewards: Mapping[str, Mixture], horizon: int
    ) -> dict[str, Array]:
        cut, actions, told = imagined[:, : horizon + 1], data.actions[:, :horizon], data.instructions
        found: dict[str, Array] = {}
        if self.oracle is not None and states is not None:
            rows = zip(states[:, : horizon + 1], cut, actions, told, strict=True)
            found |= _named("oracle", Scores(np.stack([self.oracle.score_read(*row) for row in rows])))
        for number, student in enumerate(self.students, 1):
            found |= _named(f"student_{number}", student.score(cut, told))
        if self.students:
            totals = [found[f"student_{number}_total"] for number in range(1, len(self.students) + 1)]
            found["students_total"] = np.mean(totals, axis=0)
        for name, reward in rewards.items():
            found[name] = reward.total(reward(cut, data.frames[:, : horizon + 1], told, actions))
        return found


def make_reward(
    who: str, names: Sequence[str], weights: Mapping[str, float], probe: str, source: str, device: str | torch.device
) -> Mixture:
    """A variant's training reward: names of :data:`stage.rewards <roboalign_core.training.grpo.build.REWARDS>` and
    folders of reward models.

    Raises:
        RoboAlignError: neither, or two with the same dimensions.
        MissingExtraError: a reward needs a package that is not installed.
    """
    rewards: list[Reward] = []
    for name in names:
        if name in FRAME_REWARDS:
            rewards.append(FRAME_REWARDS[name]())
        elif name == "lpips":
            rewards.append(perceptual_reward(str(device)))
        elif name == "positions":
            rewards.append(PositionReward(StateProbe.from_pretrained(probe)))
        elif name == "oracle":
            rewards.append(OracleReward(ProbedOracle(require_oracle(source), StateProbe.from_pretrained(probe))))
        else:
            try:
                rewards.append(StudentReward(RewardModel.from_pretrained(name, device)))
            except RoboAlignError as error:
                known = ", ".join([*FRAME_REWARDS, "lpips", "positions", "oracle"])
                raise RoboAlignError(
                    f"study.training_reward.{who}: expected some of {known}, or a reward model: {error}"
                ) from error
    return Mixture(rewards, weights)


def check_independent(students: Sequence[RewardModel], names: Sequence[str], rewards: Mapping[str, Mixture]) -> None:
    """Raise RoboAlignError where a student has the weights of one that a variant was trained with."""
    for student, name in zip(students, names, strict=True):
        for variant, mixture in rewards.items():
            for reward in mixture.rewards:
                taught = reward.student if isinstance(reward, StudentReward) else None
                if isinstance(taught, RewardModel) and _same(taught, student):
                    raise RoboAlignError(
                        f"study.students: expected reward models that no variant was trained with, "
                        f"found {name}, the training reward of {variant}"
                    )


def _same(first: RewardModel, second: RewardModel) -> bool:
    mine, theirs = first.network.state_dict(), second.network.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in mine.items())


def _named(who: str, scores: Scores) -> dict[str, Array]:
    raw = scores.raw.astype(np.float64)
    return {**{f"{who}_{key}": raw[:, k] for k, key in enumerate(KEYS)}, f"{who}_total": raw.sum(1)}


def _so_far(values: Array) -> Array:
    """(E, T) → the means over the frames up to each one, without those that are NaN; NaN where there are none yet."""
    known = np.cumsum(np.isfinite(values), axis=1)
    return np.where(known > 0, np.nancumsum(values, axis=1) / np.maximum(known, 1), np.nan)
