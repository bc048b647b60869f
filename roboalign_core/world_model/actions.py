"""Continuous actions as tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from roboalign_core.errors import RoboAlignError


@dataclass(frozen=True)
class ActionBinner:
    """Equal bins over the range of every action dimension.

    Mostly from the 1st to the 99th percentile: a min–max range lets one outlier make the bins coarse (RT-1: 0.108
    wide). Values beyond the range fall into the first or last bin.

    Attributes:
        low, high: range of every dimension, A values each, in the units of the actions.
        bins: bins a dimension.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    bins: int = 256

    def __post_init__(self) -> None:
        if self.bins < 1 or len(self.low) != len(self.high):
            raise RoboAlignError(
                f"action bins: expected at least 1 bin and as many lows as highs, found {self.bins} bins, "
                f"{len(self.low)} lows, {len(self.high)} highs"
            )
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise RoboAlignError(f"action bins: expected every low below its high, found {self.low} and {self.high}")

    @classmethod
    def fit(cls, actions: np.ndarray, bins: int = 256, percentile: float = 1.0) -> ActionBinner:
        """Range from actions (N, A), without the lowest and the highest ``percentile`` per cent; 0: minimum to maximum.

        A dimension that never changes gets a range of ±1 around its value.
        """
        if not 0 <= percentile < 50:
            raise RoboAlignError(f"action bins: expected a percentile in [0, 50), found {percentile}")
        if actions.ndim != 2 or not len(actions) or not np.isfinite(actions).all():
            raise RoboAlignError(f"actions to bin: expected finite numbers (N, A), found shape {actions.shape}")
        low, high = np.percentile(actions, [percentile, 100 - percentile], axis=0)
        flat = high - low < 1e-6
        low, high = np.where(flat, low - 1, low), np.where(flat, high + 1, high)
        return cls(tuple(map(float, low)), tuple(map(float, high)), bins)

    @property
    def dim(self) -> int:
        """Width of an action."""
        return len(self.low)

    def __call__(self, actions: Tensor) -> Tensor:
        """Actions (…, A) → bins (…, A) int64."""
        if actions.shape[-1] != self.dim:
            raise RoboAlignError(f"actions: expected width {self.dim}, found {actions.shape[-1]}")
        if not torch.isfinite(actions).all():
            raise RoboAlignError("actions: expected finite numbers, found NaN or infinity")
        low, high = actions.new_tensor(self.low), actions.new_tensor(self.high)
        scaled = (actions - low) / (high - low) * self.bins
        return scaled.floor().clamp(0, self.bins - 1).long()
