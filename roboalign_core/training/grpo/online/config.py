"""Settings of online distillation, ``stage.online`` of ``stage=grpo``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from roboalign_core.errors import RoboAlignError
from roboalign_core.training.optimizer import OPTIMIZERS


@dataclass
class OnlineConfig:
    """When the student reward model is taught, on what, and how far it may be from its teacher.

    Attributes:
        every: steps from one lesson to the next, the first one before anything is learned; 0: none.
        rollouts: futures of a lesson's step that the teacher scores.
        unjudged: of these, how many may get no scores because no reply could be read; more are an error.
        steps: of the student after each lesson.
        share: of the pairs of such a step that are rollouts, of this lesson and all before; the others are the
            benchmark's.
        optimizer, lr, weight_decay: of these steps; the rate is constant.
        learn: settings of ``stage=reward`` that differ from its own, by name.
        alarm: mean absolute difference of student's and teacher's totals (0 to 10) above which there is an alarm.
        patience: lessons in a row with an alarm before training ends.
    """

    every: int = 0
    rollouts: int = 32
    unjudged: int = 0
    steps: int = 50
    share: float = 0.5
    optimizer: str = "muon"
    lr: float = 5e-4
    weight_decay: float = 0.05
    learn: dict[str, Any] = field(default_factory=dict)
    alarm: float = 2.0
    patience: int = 3

    def __post_init__(self) -> None:
        for name, least in (("every", 0), ("rollouts", 2), ("steps", 1), ("patience", 1)):
            if getattr(self, name) < least:
                raise RoboAlignError(f"stage.online.{name}: expected at least {least}, found {getattr(self, name)}")
        if not 0 <= self.unjudged < self.rollouts:
            raise RoboAlignError(
                f"stage.online.unjudged: expected 0 to {self.rollouts - 1}, fewer than rollouts, found {self.unjudged}"
            )
        if not 0 <= self.share <= 1:
            raise RoboAlignError(f"stage.online.share: expected a share in [0, 1], found {self.share}")
        if self.optimizer not in OPTIMIZERS:
            raise RoboAlignError(
                f"stage.online.optimizer: expected one of {', '.join(OPTIMIZERS)}, found {self.optimizer!r}"
            )
        for name in ("lr", "alarm"):
            if not 0 < getattr(self, name) < math.inf:
                raise RoboAlignError(f"stage.online.{name}: expected a number above 0, found {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise RoboAlignError(
                f"stage.online.weight_decay: expected a number of 0 or more, found {self.weight_decay}"
            )
