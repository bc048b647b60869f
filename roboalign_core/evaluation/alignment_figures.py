"""Figures of the study ``alignment``: means, paired differences and the reward-hacking gap, over seeds and episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.alignment_judges import MADE_OF, Verdict
from roboalign_core.evaluation.crossed import Crossed
from roboalign_core.evaluation.positions import Array
from roboalign_core.rubric import KEYS
from roboalign_core.training.grpo.rewards import Mixture

TOTALS = ("oracle_total", "students_total")  # the first that there is, is the independent total
_LEAST = 2  # episodes that an interval needs


@dataclass(frozen=True)
class Compared:
    """What is said of every model of every variant, on the same episodes.

    Attributes:
        reference: the variant that all others are compared with.
        verdicts: of each variant, one for each seed.
        real: of the recorded frames.
        rewards: training rewards of variants; their totals are scores named ``reward_<variant>``.
        horizons: frames ahead at which figures are taken.
    """

    reference: str
    verdicts: dict[str, list[Verdict]]
    real: Verdict
    rewards: Mapping[str, Mixture]
    horizons: Sequence[int]

    @property
    def others(self) -> list[str]:
        """The variants beside the reference."""
        return [name for name in self.verdicts if name != self.reference]

    def names(self, variant: str) -> list[str]:
        """Of all that is said of a variant."""
        return list(self.verdicts[variant][0].at(self.horizons[0]))

    def values(self, variant: str, horizon: int, name: str) -> Array:
        """(S, E): NaN where an episode has no value."""
        return np.stack([verdict.at(horizon)[name] for verdict in self.verdicts[variant]])

    def detail(self, models: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """What stands below the figures: models, means at every frame, and every episode's totals."""
        seeds = len(self.verdicts[self.reference])
        return {
            "seeds": {
                name: {
                    "models": list(models[name]),
                    "paired": len(verdicts) == seeds,
                    "resampled": len(verdicts) > 1,
                }
                for name, verdicts in self.verdicts.items()
            },
            "per_horizon": {
                name: {key: means([each.curves[key] for each in verdicts]) for key in verdicts[0].curves}
                for name, verdicts in self.verdicts.items()
            },
            "per_episode": {
                name: {
                    f"h{horizon}_{key}": self.values(name, horizon, key).tolist()
                    for horizon in self.horizons
                    for key in self.names(name)
                    if key in TOTALS or key.startswith("reward_")
                }
                for name in self.verdicts
            },
            "not_independent": {name: self.not_independent(name) for name in self.rewards},
        }

    def not_independent(self, variant: str) -> list[str]:
        """Figures that say little of a variant, because its training reward is made of the same."""
        names = self.rewards[variant].names if variant in self.rewards else ()
        return [figure for name in names for figure in MADE_OF.get(name.removesuffix("_random"), ())]


def means(curves: Sequence[Array]) -> list[float | None]:
    """Curves (E, T), one for each seed → their mean at every frame, None where no episode has a value."""
    every = np.concatenate(curves)
    return [float(np.nanmean(step)) if np.isfinite(step).any() else None for step in every.T]


def headline_total(compared: Compared) -> str | None:
    """The name of the independent total; None where nobody gives the six scores."""
    names = compared.names(compared.reference)
    return next((name for name in TOTALS if name in names), None)


def figures_of(compared: Compared, resamples: int, seed: int) -> tuple[dict[str, Any], dict[str, str]]:
    """All figures with their intervals, and why some are missing."""
    figures = _Figures(Crossed(resamples, seed))
    for horizon in compared.horizons:
        for name in compared.names(compared.reference):
            if not name.startswith("reward_"):
                _compare(figures, compared, horizon, name)
        for variant in compared.others:
            _hacking(figures, compared, horizon, variant)
    for variant, verdicts in compared.verdicts.items():
        figures.values[f"{variant}_seeds"] = len(verdicts)
        if len(verdicts) == 1:
            figures.missing[f"{variant}_seed_variation"] = "one model: its intervals are over episodes alone"
    if headline_total(compared) is None:
        figures.missing["total"] = "neither an oracle nor a student among the judges"
    return figures.values, figures.missing


class _Figures:
    """Figures with their intervals, and why some are missing."""

    def __init__(self, crossed: Crossed) -> None:
        self.crossed = crossed
        self.values: dict[str, Any] = {}
        self.missing: dict[str, str] = {}

    def mean(self, name: str, values: Array) -> None:
        """The mean of (S, E) over episodes that have a value."""
        known = np.isfinite(values).all(0)
        if self._enough(name, known):
            self.values |= self.crossed.mean(values[:, known]).as_results(name)

    def difference(self, name: str, ours: Array, theirs: Array) -> None:
        """Ours less theirs on the episodes that have a value on both sides."""
        known = np.isfinite(ours).all(0) & np.isfinite(theirs).all(0)
        if self._enough(name, known):
            self.values |= self.crossed.difference(ours[:, known], theirs[:, known]).as_results(name)

    def change(self, name: str, ours: Array, theirs: Array) -> None:
        """The same in per cent of theirs."""
        try:
            self.values |= self.crossed.change_pct(ours, theirs).as_results(name)
        except RoboAlignError as error:
            self.missing[name] = str(error)

    def _enough(self, name: str, known: Array) -> bool:
        if known.sum() < _LEAST:
            self.missing[name] = f"fewer than {_LEAST} episodes have a value"
        return bool(known.sum() >= _LEAST)


def _compare(figures: _Figures, compared: Compared, horizon: int, name: str) -> None:
    """Means of every variant, and of the others the differences from the reference."""
    if name in compared.real.scores[horizon]:
        figures.mean(f"real_h{horizon}_{name}", compared.real.scores[horizon][name][None])
    theirs = compared.values(compared.reference, horizon, name)
    for variant in compared.verdicts:
        ours = compared.values(variant, horizon, name)
        figures.mean(f"{variant}_h{horizon}_{name}", ours)
        if variant == compared.reference:
            continue
        figures.difference(f"{variant}_minus_{compared.reference}_h{horizon}_{name}", ours, theirs)
        if name.endswith("_total"):
            figures.change(f"{variant}_over_{compared.reference}_h{horizon}_{name}_pct", ours, theirs)


def _hacking(figures: _Figures, compared: Compared, horizon: int, variant: str) -> None:
    """How much more a variant gains in its training reward than in the independent total.

    Both gains are counted in standard deviations of the reference's episodes, since rewards have units of their own;
    where the reward is the six scores themselves, in points, too.
    """
    gap, total = f"{variant}_h{horizon}_reward_hacking", headline_total(compared)
    if variant not in compared.rewards:
        figures.missing[gap] = f"no study.training_reward.{variant} given"
        return
    key, reference = f"reward_{variant}", compared.reference
    ours, theirs = (compared.values(name, horizon, key) for name in (variant, reference))
    figures.mean(f"{variant}_h{horizon}_training_reward", ours)
    figures.mean(f"{reference}_h{horizon}_training_reward_of_{variant}", theirs)
    figures.difference(f"{variant}_minus_{reference}_h{horizon}_training_reward", ours, theirs)
    if total is None:
        figures.missing[gap] = "no independent total"
        return
    mine, base = (compared.values(name, horizon, total) for name in (variant, reference))
    spreads = {"training reward": float(theirs.std()), total: float(base.std())}
    if constant := [name for name, spread in spreads.items() if not spread > 0]:
        figures.missing[f"{gap}_sd"] = f"the reference's {constant[0]} is the same on all episodes"
    else:
        reward, judged = spreads.values()
        figures.difference(f"{variant}_h{horizon}_training_gain_sd", ours / reward, theirs / reward)
        figures.difference(f"{variant}_h{horizon}_total_gain_sd", mine / judged, base / judged)
        figures.difference(f"{gap}_sd", ours / reward - mine / judged, theirs / reward - base / judged)
    mixture = compared.rewards[variant]
    if set(mixture.names) == set(KEYS) and set(mixture.weights.values()) == {1.0}:
        figures.difference(f"{gap}_points", ours - mine, theirs - base)
