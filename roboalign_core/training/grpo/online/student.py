"""The student while it is taught: the reward stage's loss, on a benchmark and on the policy's own rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roboalign_core.benchmark import Pair
from roboalign_core.episodes.augment import AugmentationConfig
from roboalign_core.errors import RoboAlignError
from roboalign_core.precision import autocast
from roboalign_core.reward.calibration import Calibration
from roboalign_core.reward.data import RewardData
from roboalign_core.reward.model import RewardModel
from roboalign_core.reward.text import tokenise
from roboalign_core.tensors import load_into
from roboalign_core.training.grpo.online.config import OnlineConfig
from roboalign_core.training.grpo.online.replay import PREFIX, Replay
from roboalign_core.training.optimizer import Optimizer
from roboalign_core.training.reward import RewardStage, RewardStageConfig

STUDENT, MOMENTS = "student", "student_optimizer"  # names in a checkpoint
_BETAS = (0.9, 0.95)


class MixedRewardStage(RewardStage):
    """The reward stage on a benchmark and, for a share of each batch, on rollouts."""

    def __init__(
        self,
        config: RewardStageConfig,
        data: RewardData,
        replay: Replay,
        share: float,
        instructions: Sequence[str],
        student: RewardModel,
        augmentation: AugmentationConfig,
        seed: int,
    ) -> None:
        """Go on from ``student``, whose weights are float32; ``instructions`` are all that rollouts may have.

        Raises:
            RoboAlignError: an instruction is too long, or the benchmark is itself made of rollouts.
        """
        super().__init__(config, student.config, data, augmentation, seed, str(student.device))
        for name in data.videos.benchmark.info["stores"]:
            if name.startswith(PREFIX):
                raise RoboAlignError(f"benchmark: expected other stores than a run's own rollouts, found {name}")
        self.module.load_state_dict(student.network.state_dict())
        texts = sorted({*self.ids, *instructions})
        self.ids = dict(zip(texts, tokenise(texts, self.model.text), strict=True))
        self.replay, self.share, self._seed = replay, share, seed
        self._own = self.pairs, self.labels, self.shares

    def take(self) -> None:
        """Learn from all rollouts that there are by now; each head weighs each of them by a draw of its own."""
        pairs, labels, shares = self._own
        draws = [
            np.random.default_rng([self._seed, 2, pair.number]).poisson(1.0, self.model.heads)
            for pair in self.replay.pairs
        ]
        theirs = np.array(draws, np.float32).reshape(-1, self.model.heads).T
        self.pairs = [*pairs, *self.replay.pairs]
        self.labels = np.concatenate([labels, self.replay.labels])
        self.shares = np.concatenate([shares, theirs], axis=1)

    def _draw(self) -> NDArray[np.int64]:
        rows = super()._draw()
        fresh = self.random.random(len(rows)) < self.share
        if len(self.replay):
            first = len(self._own[0])
            rows[fresh] = first + self.random.integers(0, len(self.replay), int(fresh.sum()))
        return rows

    def _frames(self, pair: Pair) -> NDArray[np.uint8]:
        return self.replay.frames(pair) if pair.store.startswith(PREFIX) else super()._frames(pair)


class Student:
    """The model that scores for the policy, and the float32 weights behind it that learn.

    Attributes:
        scorer: in the number format in which it was loaded; changed in place.
    """

    def __init__(self, scorer: RewardModel, stage: MixedRewardStage, config: OnlineConfig, clip: float) -> None:
        """``clip`` is the largest norm of a gradient."""
        self.scorer, self.stage, self._config, self._clip = scorer, stage, config, clip
        self._optimizer = Optimizer(stage.module, config.optimizer, config.lr, config.weight_decay, _BETAS)

    def refresh(self) -> dict[str, float]:
        """Learn for ``stage.online.steps`` steps, calibrate, and score so from now on.

        Returns:
            ``student_loss`` and ``student_mae``: means over these steps; ``student_validation_mae``: of the normalised
            scores on the benchmark's validation split, after them.
        """
        self.stage.take()
        self.stage.module.train()
        found = np.mean([self._descend() for _ in range(self._config.steps)], axis=0).tolist()
        self.stage.module.eval()
        logits, labels = self.stage.validate(self.stage.looked)
        self._score_with(Calibration.fit(logits, labels))
        error = (self.scorer.calibration.apply(logits)[0] - labels).abs().mean().item()
        return {"student_loss": found[0], "student_mae": found[1], "student_validation_mae": error}

    def _descend(self) -> tuple[float, float]:
        module = self.stage.module
        with autocast(self.stage.device):
            loss, figures = self.stage.loss()
        module.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(module.parameters(), self._clip)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise RoboAlignError(f"stage.online: expected a finite loss and gradients, found {loss.item()} and {norm}")
        self._optimizer.step(self._config.lr)
        return loss.item(), figures["mae"]

    def _score_with(self, calibration: Calibration) -> None:
        self.scorer.network.load_state_dict(self.stage.module.state_dict())
        self.scorer.calibration = calibration

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """JSON state: of the draws, and the calibration."""
        return {"stage": self.stage.state(), "calibration": asdict(self.scorer.calibration)}

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Weights and moments."""
        return {STUDENT: self.stage.module.state_dict(), MOMENTS: self._optimizer.state()}

    def load_tensors(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inverse of :meth:`tensors`, before :meth:`load_state`."""
        load_into(self.stage.module, tensors[STUDENT], STUDENT)
        self._optimizer.load_state(tensors[MOMENTS])

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.stage.load_state(state["stage"])
        self._score_with(Calibration(**state["calibration"]))

    def export(self, folder: Path) -> None:
        """As the reward stage does, calibrated on the whole validation split."""
        self.stage.export(folder)
