"""Recorded positions as a second target of the dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError
from roboalign_core.training.data import TrainingData

STATE = "observation.state"  # the per-frame extra that holds where things are

BETA = 0.1  # standard deviations, below which the loss of a position is squared


@dataclass
class StateConfig:
    """Which positions are read off the hidden states while training: where things will be after each action.

    The next frame's tokens say where things are only in a roundabout way. The reading head is dropped after training;
    what stays is a backbone whose hidden states hold positions (cf. Dreamer's heads, Hafner et al. 2020).

    Attributes:
        columns: names of per-frame columns (of ``observation.state``); none: no such head.
        weight: of its loss.
    """

    columns: list[str] = field(default_factory=list)
    weight: float = 4.0


@dataclass(frozen=True)
class StateRange:
    """Which columns of the recorded state are read, and their mean and standard deviation (K,)."""

    columns: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def none(cls) -> StateRange:
        """No columns."""
        return cls(torch.empty(0, dtype=torch.long), torch.empty(0), torch.empty(0))

    @classmethod
    def of(cls, data: TrainingData, columns: Sequence[str]) -> StateRange:
        """The named columns of ``observation.state``.

        Raises:
            RoboAlignError: the data lacks one of them.
        """
        if not columns:
            return cls.none()
        names = data.column_names(STATE)
        unknown = [column for column in columns if column not in names]
        if unknown:
            raise RoboAlignError(f"stage.state.columns: expected names among {', '.join(names)}, found {unknown[0]!r}")
        chosen = torch.tensor([names.index(column) for column in columns])
        mean, std = data.column_range(STATE)
        return cls(chosen, mean[chosen], std[chosen])

    def standardised(self, state: Tensor) -> Tensor:
        """Recorded states (…, all columns) → (…, K)."""
        return (state[..., self.columns] - self.mean) / self.std

    def loss(self, predicted: Tensor, state: Tensor) -> Tensor:
        """Smooth L1 of standardised positions (…, K)."""
        return F.smooth_l1_loss(predicted.float(), state, beta=BETA)

    @torch.no_grad()
    def error(self, predicted: Tensor, state: Tensor) -> float:
        """Mean absolute error of standardised positions (…, K), in the columns' unit."""
        return ((predicted.float() - state).abs() * self.std.to(state)).mean().item()
