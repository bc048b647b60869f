"""Settings of the study ``alignment``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, get_args

from omegaconf import MISSING

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.held_out import check_amounts
from roboalign_core.evaluation.measures import Parts
from roboalign_core.world_model.rollout import Mode, Order

JUDGES = ("oracle", "pixels", "regions", "positions", "repetition")
REAL = "real"


@dataclass
class AlignmentStudyConfig:
    """Settings.

    Attributes:
        models: variant → world models (folders or bundled names), one for each training seed.
        reference: the variant that all others are compared with, such as the model before alignment.
        data: store of held-out episodes, never trained on; every model imagines them from their first frame.
        episodes: how many, from the store's start; 0: all.
        horizons: frames ahead at which figures are taken; videos are scored up to there.
        mode, order, window: of the rollouts; window 0: each model's own.
        temperature: of their draws, with the same noise for every model; at 0 nothing is drawn.
        judges: which of ``JUDGES``. The oracle and the probe of one that is named have to be there; boxes and columns
            that the store lacks are noted under ``missing``.
        students: folders of reward models that give the six scores, too; none of them a variant's training reward.
        training_reward: variant → what it was trained on: a reward's name (``stage.rewards``), the folder of a reward
            model, or a list of these.
        training_weights: variant → weights of the dimensions of its reward; 1 where none is given.
        probe: folder of the state probe that reads every variant's frames; the reference's where empty.
        noise: metres; how well it reads.
        effector, objects, regions, moved: as in the study ``world_model``.
        device: where models imagine and students score.
        batch: episodes imagined at once.
        videos: strips of each variant in the report.
        resamples: of the bootstrap over seeds and episodes.
        seed: of the bootstrap, and of the draws.
    """

    models: dict[str, list[str]] = MISSING
    reference: str = "sft"
    data: str = MISSING
    episodes: int = 0
    horizons: list[int] = field(default_factory=lambda: [8, 28])
    mode: str = "plain"
    order: str = "frame"
    temperature: float = 0.0
    window: int = 0
    judges: list[str] = field(default_factory=lambda: list(JUDGES))
    students: list[str] = field(default_factory=list)
    training_reward: dict[str, Any] | None = None
    training_weights: dict[str, Any] | None = None
    probe: str = ""
    noise: float = 0.007
    effector: list[str] = field(default_factory=list)
    objects: dict[str, list[str]] = field(default_factory=dict)
    regions: dict[str, list[str]] = field(default_factory=dict)
    moved: float = 0.02
    device: str = "cpu"
    batch: int = 32
    videos: int = 4
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        check_amounts(self, batch=1, episodes=0, videos=0, resamples=1, seed=0)
        for name, kind in (("order", Order), ("mode", Mode)):
            if getattr(self, name) not in get_args(kind):
                raise RoboAlignError(f"study.{name}: expected one of {get_args(kind)}, found {getattr(self, name)!r}")
        if not 0 <= self.temperature < math.inf:
            raise RoboAlignError(f"study.temperature: expected a finite number of 0 or more, found {self.temperature}")
        if unknown := [name for name in self.judges if name not in JUDGES]:
            raise RoboAlignError(f"study.judges: expected some of {', '.join(JUDGES)}, found {unknown[0]!r}")
        if not self.judges and not self.students:
            raise RoboAlignError("study.judges: expected at least one, or study.students, found none")
        self._check_variants()

    def _check_variants(self) -> None:
        for name, models in self.models.items():
            if not name.isidentifier() or name == REAL:
                raise RoboAlignError(
                    f"study.models: expected names of letters, digits and _, not {REAL!r}, found {name!r}"
                )
            if not models or len(set(models)) < len(models):
                raise RoboAlignError(
                    f"study.models.{name}: expected one model or more, each once (one for each seed), found {models}"
                )
        if len(self.models) < 2:
            raise RoboAlignError(f"study.models: expected two variants or more, found {list(self.models)}")
        if self.reference not in self.models:
            raise RoboAlignError(
                f"study.reference: expected one of study.models ({', '.join(self.models)}), found {self.reference!r}"
            )
        trained, others = self.training_reward or {}, [name for name in self.models if name != self.reference]
        for setting, known in (("training_reward", others), ("training_weights", list(trained))):
            if unknown := [name for name in getattr(self, setting) or {} if name not in known]:
                expected = ", ".join(known) or "none"
                raise RoboAlignError(
                    f"study.{setting}: expected variants beside the reference ({expected}), found {unknown[0]!r}"
                )
        for name, names in self.rewards.items():
            if not names or not all(isinstance(each, str) for each in names):
                raise RoboAlignError(
                    f"study.training_reward.{name}: expected a reward's name or folder, or a list of these, "
                    f"found {trained[name]!r}"
                )
        for name, weights in (self.training_weights or {}).items():
            if not isinstance(weights, dict) or not all(isinstance(each, int | float) for each in weights.values()):
                raise RoboAlignError(f"study.training_weights.{name}: expected dimension: number, found {weights!r}")

    @property
    def parts(self) -> Parts:
        """What there is to see."""
        return Parts(self.effector, self.objects, self.regions, self.moved)

    @property
    def rewards(self) -> dict[str, list[str]]:
        """Variant → what it was trained on."""
        given = self.training_reward or {}
        return {name: [value] if isinstance(value, str) else list(value) for name, value in given.items()}

    def weights_of(self, variant: str) -> dict[str, float]:
        """Of the dimensions of a variant's reward."""
        return dict((self.training_weights or {}).get(variant, {}))
