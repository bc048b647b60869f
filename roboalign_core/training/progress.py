"""The planner's objective, trained on collected episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.progress import ProgressConfig, ProgressHead, ProgressModel
from roboalign_core.training.data import TrainingData
from roboalign_core.world_model.model import WorldModel


@dataclass
class ProgressStageConfig:
    """What the stage draws.

    Attributes:
        episodes: episodes a step.
        pairs: (context, later frame) pairs an episode.
        distance: frames between context and later frame, at most.
        column: per-frame extra of the store that holds progress, one column an instruction.
        narrow, hidden: see :class:`roboalign_core.reward.progress.ProgressConfig`.
    """

    episodes: int = 32
    pairs: int = 4
    distance: int = 8
    column: str = "progress"
    narrow: int = 12
    hidden: int = 384


class ProgressStage:
    """Regress the progress of all instructions from frames as the frozen tokenizer codes them.

    Every frame is seen through its tokens, relative to a context frame at most ``distance`` frames earlier, just as
    imagined frames are.
    """

    def __init__(self, config: ProgressStageConfig, world_model: WorldModel, data: TrainingData, seed: int) -> None:
        self.config, self.world_model, self.data = config, world_model, data
        names = data.column_names(config.column)
        rows, columns = world_model.config.tokenizer.context_grid
        self.head = ProgressConfig(
            list(names), rows * columns, world_model.config.tokenizer.latent_width, config.narrow, config.hidden
        )
        self.module = ProgressHead(self.head).to(world_model.device)
        self.random = torch.Generator().manual_seed(seed)
        self.lengths = data.lengths
        if int(self.lengths.min()) < 2:
            raise RoboAlignError(
                f"progress stage: expected episodes of at least 2 frames, found one of {int(self.lengths.min())}"
            )

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        """Regression loss on fresh pairs, and the mean error of the progress."""
        first, later, target = self._draw()
        predicted = self.module(first, later)
        error = (predicted.float() - target).abs().mean()
        return F.smooth_l1_loss(predicted.float(), target, beta=0.02), {"mae": error.item()}

    @torch.no_grad()
    def _draw(self) -> tuple[Tensor, Tensor, Tensor]:
        count, pairs = self.config.episodes, self.config.pairs
        episode = torch.randint(len(self.lengths), (count,), generator=self.random)
        lengths = self.lengths[episode]
        source = (torch.rand(count, generator=self.random) * lengths).long()
        gap = torch.randint(0, self.config.distance + 1, (count, pairs), generator=self.random)
        step = torch.minimum(source[:, None] + gap, lengths[:, None] - 1)
        context = self.world_model.encode(self.data.frames(episode, source))
        reference = self._latent(self.data.frames(episode, torch.zeros_like(source)), context.features)
        repeated = episode.repeat_interleave(pairs)
        later = self._latent(self.data.frames(repeated, step.flatten()), context.features.repeat(pairs))
        target = self.data.column(self.config.column, repeated, step.flatten()).to(later.device)
        return reference.float().repeat_interleave(pairs, 0), later.float(), target

    def _latent(self, frames: Tensor, features: Any) -> Tensor:
        return self.world_model.latent(self.world_model.encode_dynamics(frames, features), features)

    def state(self) -> dict[str, Any]:
        """Of the draws."""
        return {"random": self.random.get_state().tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.random.set_state(torch.tensor(state["random"], dtype=torch.uint8))

    def export(self, folder: Path) -> None:
        """The head."""
        ProgressModel(self.head, self.module).save_pretrained(folder)
