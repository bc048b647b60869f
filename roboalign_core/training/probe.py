"""The state probe of the evaluation, trained on real frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from roboalign_core.evaluation.probe import ProbeConfig, ProbeNetwork, StateProbe
from roboalign_core.training.data import TrainingData
from roboalign_core.world_model.tokenizer import to_pixels


@dataclass
class ProbeStageConfig:
    """What the stage draws.

    Attributes:
        frames: frames a step.
        column: per-frame extra of the store that holds the state.
        noise: standard deviation of pixel noise, in [0, 1]: imagined frames are not quite as clean as real ones.
    """

    frames: int = 128
    column: str = "observation.state"
    noise: float = 0.03


class ProbeStage:
    """Regress the recorded state from single real frames."""

    def __init__(
        self, config: ProbeStageConfig, size: tuple[int, int], data: TrainingData, seed: int, device: str
    ) -> None:
        self.config, self.data, self.size = config, data, size
        self.device = torch.device(device)
        mean, std = data.column_range(config.column)
        self.probe = ProbeConfig(list(data.column_names(config.column)), mean.tolist(), std.tolist(), *size)
        self.mean, self.std = mean.to(self.device), std.to(self.device)
        self.module = ProbeNetwork(self.probe).to(self.device)
        self.random = torch.Generator().manual_seed(seed)

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        """Regression loss on fresh frames, and the mean error in the columns' units."""
        episode = torch.randint(len(self.data.lengths), (self.config.frames,), generator=self.random)
        step = (torch.rand(len(episode), generator=self.random) * self.data.lengths[episode]).long()
        pixels = to_pixels(self.data.frames(episode, step).to(self.device), self.size)
        pixels = pixels + self.config.noise * torch.randn(pixels.shape, generator=self.random).to(self.device)
        target = (self.data.column(self.config.column, episode, step).to(self.device) - self.mean) / self.std
        predicted = self.module(pixels).float()
        error = ((predicted - target).abs() * self.std).mean()
        return F.smooth_l1_loss(predicted, target, beta=0.05), {"mae": error.item()}

    def state(self) -> dict[str, Any]:
        """Of the draws."""
        return {"random": self.random.get_state().tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.random.set_state(torch.tensor(state["random"], dtype=torch.uint8))

    def export(self, folder: Path) -> None:
        """The probe."""
        StateProbe(self.probe, self.module).save_pretrained(folder)
