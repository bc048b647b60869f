"""How a code is picked from the logits over all codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from roboalign_core.world_model.codes import CodeLogits
from roboalign_core.world_model.levels import LevelGaussian, level_widths

Picker = Callable[[CodeLogits], Tensor]
"""Logits (…) → codes (…)."""


@dataclass(frozen=True)
class Sampled:
    """Codes as often as they are likely, at a temperature above 0."""

    temperature: float
    generator: torch.Generator | None = None

    def __call__(self, logits: CodeLogits) -> Tensor:
        """See :data:`Picker`."""
        return logits.sample(self.temperature, self.generator)


@dataclass(frozen=True)
class Scattered:
    """Codes around the central one, ``exploration`` times as far as the sharpened distribution spreads."""

    exploration: float
    generator: torch.Generator | None = None

    def __call__(self, logits: CodeLogits) -> Tensor:
        """See :data:`Picker`."""
        return LevelGaussian.of(logits, level_widths(logits, self.exploration)).sample(self.generator)


def picker(order: str, temperature: float = 0.0, generator: torch.Generator | None = None) -> Picker:
    """How the decoding ``order`` picks.

    At temperature 0 a code is the likeliest where the next one sees it (``token``), and the central one where all of a
    frame are picked at once (``frame``).
    """
    if temperature:
        return Sampled(temperature, generator)
    return CodeLogits.central if order == "frame" else CodeLogits.likeliest
