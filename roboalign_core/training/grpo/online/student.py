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

from roboalign_core.benchmark import Pair, Split
from roboalign_core.benchmark.pairs import scores_of
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
    """The reward stage on a benchmark and, for a share of each batch's pairs, on rollouts.

    Attributes:
        errors: mean absolute errors of the normalised scores at the last calibration, on pairs that are not learned:
            ``student_validation_mae`` on the benchmark's, ``student_rollouts_mae`` on rollouts.
    """

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
        self.errors: dict[str, float] = {}

    def take(self) -> None:
        """Learn from all rollouts that there are by now; each head weighs each of them by a draw of its own."""
        pairs, labels, shares = self._own
        theirs = self.replay.subset(Split.TRAIN)
        draws = [np.random.default_rng([self._seed, 2, pair.number]).poisson(1.0, self.model.heads) for pair in theirs]
        self.pairs = [*pairs, *theirs]
        self.labels = np.concatenate([labels, scores_of(theirs).normalised])
        self.shares = np.concatenate([shares, np.array(draws, np.float32).reshape(-1, self.model.heads).T], axis=1)

    def calibrate(self, rows: NDArray[np.int64], shown: bool = True) -> Calibration:
        """On these pairs of the benchmark's validation split and on all rollouts of theirs, mixed as in training."""
        pairs = [self.data.pairs[Split.VALIDATION][row] for row in rows]
        known = self._logits_of(pairs, shown), torch.from_numpy(self.data.labels[Split.VALIDATION][rows])
        held = self.replay.subset(Split.VALIDATION)
        if not held:
            calibration = Calibration.fit(*known)
            self.errors = {"student_validation_mae": _error(calibration, *known)}
            return calibration
        fresh = self._logits_of(held, shown), torch.from_numpy(scores_of(held).normalised)
        calibration = Calibration.fit(*_mixed(known, fresh, self.share))
        self.errors = {
            "student_validation_mae": _error(calibration, *known),
            "student_rollouts_mae": _error(calibration, *fresh),
        }
        return calibration

    def _draw(self) -> NDArray[np.int64]:
        rows = super()._draw()
        fresh = self.random.random(len(rows)) < self.share
        first = len(self._own[0])
        if len(self.pairs) > first:
            rows[fresh] = self.random.integers(first, len(self.pairs), int(fresh.sum()))
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
            ``student_loss`` and ``student_mae``: means over these steps; and the stage's ``errors`` after them.
        """
        self.stage.take()
        self.stage.module.train()
        found = np.mean([self._descend() for _ in range(self._config.steps)], axis=0).tolist()
        self.stage.module.eval()
        self._score_with(self.stage.calibrate(self.stage.looked, shown=False))
        return {"student_loss": found[0], "student_mae": found[1], **self.stage.errors}

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


def _error(calibration: Calibration, logits: Tensor, labels: Tensor) -> float:
    return (calibration.apply(logits)[0] - labels).abs().mean().item()


def _mixed(known: tuple[Tensor, Tensor], fresh: tuple[Tensor, Tensor], share: float) -> tuple[Tensor, Tensor]:
    """Logits (heads, N, 6) and labels (N, 6) of both, the rarer as often as makes ``fresh`` about ``share`` of all."""
    if share in (0, 1):
        return fresh if share else known
    wanted = share / (1 - share) * len(known[1]) / len(fresh[1])  # times that the fresh ones are to be in it
    again = [(known, 1), (fresh, round(wanted))] if wanted >= 1 else [(known, round(1 / wanted)), (fresh, 1)]
    logits = torch.cat([pair[0].repeat(1, times, 1) for pair, times in again], dim=1)
    return logits, torch.cat([pair[1].repeat(times, 1) for pair, times in again])
