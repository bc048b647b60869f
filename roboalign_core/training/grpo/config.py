"""Settings of ``stage=grpo``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from roboalign_core.errors import RoboAlignError
from roboalign_core.training.dynamics import BalanceConfig
from roboalign_core.training.grpo.online.config import OnlineConfig
from roboalign_core.world_model.rollout import Order

Keep = Literal["best", "last"]
PolicyName = Literal["central", "categorical"]


@dataclass
class ValidationConfig:
    """How the model is judged on windows that are never trained on.

    Attributes:
        data: folders of episode stores; where empty, ``holdout`` of the training episodes are kept back.
        holdout: share of the episodes.
        windows: that are imagined, always the same.
        every: steps.
        temperature: of their draws, with the same noise each time; at 0, as planning imagines, nothing is drawn.
        score: a reward's name that is none of the training's: what cannot be gamed by training on it.
        keep: ``best`` exports the weights with the best score, those at the start among them, ``last`` the last ones.
    """

    data: list[str] = field(default_factory=list)
    holdout: float = 0.05
    windows: int = 64
    every: int = 10
    temperature: float = 0.0
    score: str = "psnr"
    keep: str = "best"

    def __post_init__(self) -> None:
        for name in ("windows", "every"):
            if getattr(self, name) < 1:
                raise RoboAlignError(f"stage.validation.{name}: expected at least 1, found {getattr(self, name)}")
        if not 0 <= self.temperature < math.inf:
            raise RoboAlignError(
                f"stage.validation.temperature: expected a finite number of 0 or more, found {self.temperature}"
            )
        if not self.data and not 0 < self.holdout < 1:
            raise RoboAlignError(f"stage.validation.holdout: expected a share in (0, 1), found {self.holdout}")
        if self.keep not in get_args(Keep):
            raise RoboAlignError(f"stage.validation.keep: expected one of {get_args(Keep)}, found {self.keep!r}")


@dataclass
class GuardConfig:
    """When training ends by itself.

    Attributes:
        divergence: largest mean divergence from the reference, nats a token.
        repetition: largest share of frames that repeat the one before although the recorded frame changed.
        patience: steps in a row beyond a limit before training ends.
    """

    divergence: float = 1.0
    repetition: float = 0.5
    patience: int = 3

    def __post_init__(self) -> None:
        for name in ("divergence", "repetition"):
            if not getattr(self, name) > 0:
                raise RoboAlignError(f"stage.guard.{name}: expected a number above 0, found {getattr(self, name)}")
        if self.patience < 1:
            raise RoboAlignError(f"stage.guard.patience: expected at least 1, found {self.patience}")


@dataclass
class GrpoStageConfig:
    """What a step draws and how it learns from that.

    Attributes:
        prompts: windows a step.
        group: futures of each.
        frames: imagined frames.
        order: decoding order that is trained, ``frame`` or ``token``; the other one is not.
        policy: how futures are drawn: ``central`` around the codes that one pass picks, or ``categorical``, as
            often as codes are likely; where empty, ``central`` with the order ``frame``, else ``categorical``.
        exploration: how far ``central`` draws, in standard deviations of what the network holds for possible.
        rewards: names, see :data:`~roboalign_core.training.grpo.build.REWARDS`.
        weights: of the rewards' dimensions, by name; 1 where none is given.
        reward_model: the distilled student's folder or bundled name; where empty, the world model's.
        probe: the state probe's, the same way.
        start: run folders of this stage from the mean of whose newest weights the policy starts, see
            :func:`~roboalign_core.training.checkpoints.mean_weights`; where none, from the world model.
        reference: world model that the divergence is measured from; where empty, the one that training starts from.
        discount: what a frame's reward counts for the tokens of the frame before, see
            :meth:`~roboalign_core.training.grpo.rewards.Mixture.returns`. None: all are paid for the whole future.
        clip: ratios further than this from 1 no longer pull.
        divergence_weight: weight of the divergence from the reference.
        updates: optimiser updates that a step's windows are dealt out to.
        epochs: times that they are gone through.
        micro: windows whose gradients are computed at once.
        balance: draw windows in which something other than the robot moves more often.
        validation, guard, online: see their classes.
    """

    prompts: int = 16
    group: int = 16
    frames: int = 8
    order: str = "frame"
    policy: str = ""
    exploration: float = 0.5
    rewards: list[str] = field(default_factory=lambda: ["mae"])
    weights: dict[str, float] | None = None
    reward_model: str = ""
    probe: str = ""
    start: list[str] = field(default_factory=list)
    reference: str = ""
    discount: float | None = 0.5
    clip: float = 0.2
    divergence_weight: float = 0.001
    updates: int = 4
    epochs: int = 1
    micro: int = 4
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)

    def __post_init__(self) -> None:
        for name in ("prompts", "frames", "updates", "epochs", "micro"):
            if getattr(self, name) < 1:
                raise RoboAlignError(f"stage.{name}: expected at least 1, found {getattr(self, name)}")
        if self.group < 2:
            raise RoboAlignError(
                f"stage.group: expected at least 2 futures, since each is held against the others, found {self.group}"
            )
        if self.prompts % self.updates:
            raise RoboAlignError(f"stage.updates: expected a divisor of prompts ({self.prompts}), found {self.updates}")
        if self.order not in get_args(Order):
            raise RoboAlignError(f"stage.order: expected one of {get_args(Order)}, found {self.order!r}")
        self._check_policy()
        if self.discount is not None and not 0 <= self.discount <= 1:
            raise RoboAlignError(f"stage.discount: expected a number in [0, 1] or null, found {self.discount}")
        if not 0 < self.clip < 1:
            raise RoboAlignError(f"stage.clip: expected a number in (0, 1), found {self.clip}")
        if not 0 <= self.divergence_weight < math.inf:
            raise RoboAlignError(
                f"stage.divergence_weight: expected a number of 0 or more, found {self.divergence_weight}"
            )
        if self.online.every and self.online.rollouts > self.prompts * self.group:
            raise RoboAlignError(
                f"stage.online.rollouts: expected at most {self.prompts * self.group} (prompts x group), "
                f"found {self.online.rollouts}"
            )
        if not self.rewards:
            raise RoboAlignError("stage.rewards: expected at least one name, found none")
        if self.validation.score in self.rewards:
            raise RoboAlignError(
                f"stage.validation.score: expected none of the training's rewards ({', '.join(self.rewards)}), "
                f"found {self.validation.score!r}"
            )

    @property
    def drawing(self) -> PolicyName:
        """The policy's name, where none is given the order's."""
        named = self.policy or ("central" if self.order == "frame" else "categorical")
        return cast(PolicyName, named)

    def _check_policy(self) -> None:
        if self.drawing not in get_args(PolicyName):
            raise RoboAlignError(f"stage.policy: expected one of {get_args(PolicyName)}, found {self.policy!r}")
        if self.drawing == "central" and self.order != "frame":
            raise RoboAlignError(
                f"stage.policy: expected categorical with order={self.order}, where no central codes are picked, "
                f"found {self.policy!r}"
            )
        if not 0 < self.exploration < math.inf:
            raise RoboAlignError(f"stage.exploration: expected a number above 0, found {self.exploration}")
