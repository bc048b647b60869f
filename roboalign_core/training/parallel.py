"""One training run on several devices, one process each, as ``accelerate launch`` or ``torchrun`` starts them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from roboalign_core.errors import require
from roboalign_core.training.checkpoints import CHECKPOINTS, Checkpoints
from roboalign_core.training.loop import LoopConfig, Stage, Trainer


@dataclass(frozen=True)
class Processes:
    """The processes of a run, and which of them this one is.

    Attributes:
        rank, count: number of this process, and of all.
        accelerator: what connects them; None where there is only one.
    """

    rank: int = 0
    count: int = 1
    accelerator: Any = None

    @classmethod
    def join(cls, device: torch.device) -> Processes:
        """Those that a launcher started, or this one alone.

        Raises:
            MissingExtraError: several, and ``accelerate`` is absent.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        accelerator = require("accelerate", "judge").Accelerator(cpu=device.type == "cpu")
        return cls(accelerator.process_index, accelerator.num_processes, accelerator)

    def device(self, asked: torch.device) -> torch.device:
        """This process' own device, of the kind that was asked for."""
        return asked if self.accelerator is None else torch.device(self.accelerator.device)

    def shared(self, module: nn.Module) -> nn.Module:
        """The module to call forward on, so that gradients are means over all processes."""
        return module if self.accelerator is None else self.accelerator.prepare_model(module)

    def mean(self, figures: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Figures as means over all processes."""
        if self.accelerator is None:
            return {name: value.item() for name, value in figures.items()}
        values = self.accelerator.reduce(torch.stack(list(figures.values())), reduction="mean")
        return dict(zip(figures, values.tolist(), strict=True))


class Replica(Trainer):
    """The loop of every process but the first: the same steps, and nothing of it on disk."""

    shown = False

    def __init__(self, stage: Stage, config: LoopConfig, run: Path, identity: Mapping[str, Any]) -> None:
        self._scratch = tempfile.TemporaryDirectory(prefix="roboalign-replica-")
        super().__init__(stage, config, Path(self._scratch.name), identity)
        self.checkpoints = Checkpoints(run / CHECKPOINTS)  # the first process writes them, all go on from there

    def train(self) -> dict[str, float]:
        """As the first process; what it would have written goes."""
        with self._scratch:
            return super().train()

    def _save(self) -> None:
        pass

    def _resume(self) -> dict[str, float]:
        folder = self.checkpoints.newest()
        if folder is not None:
            self._load(folder)
        return {}
