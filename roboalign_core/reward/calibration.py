"""What the logits of a trained student are worth, measured on pairs that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import KEYS

_STEPS = 50  # of Newton's method on two numbers
_TRUST = 1e-3  # weight of staying at the identity


def _all(value: float) -> list[float]:
    return [value] * len(KEYS)


@dataclass(frozen=True)
class Calibration:
    """Six numbers each, in the order of ``DIMENSIONS``.

    Attributes:
        scale, shift: a logit z becomes ``scale · z + shift``; scales are above 0, so the order of videos stays.
        floor, spread: the standard error of a normalised score is ``√(floor² + (spread · s)²)``, where s is the
            standard deviation of the heads' normalised scores.
    """

    scale: list[float] = field(default_factory=lambda: _all(1.0))
    shift: list[float] = field(default_factory=lambda: _all(0.0))
    floor: list[float] = field(default_factory=lambda: _all(0.0))
    spread: list[float] = field(default_factory=lambda: _all(1.0))

    def __post_init__(self) -> None:
        for name, least in (("scale", 0.0), ("shift", -np.inf), ("floor", 0.0), ("spread", 0.0)):
            values = getattr(self, name)
            if len(values) != len(KEYS) or not all(np.isfinite(value) and value >= least for value in values):
                raise RoboAlignError(
                    f"calibration {name}: expected {len(KEYS)} finite numbers of at least {least:g}, found {values}"
                )

    def apply(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (heads, B, 6) → normalised scores and their standard errors, (B, 6) each."""
        scale, shift, floor, spread = (
            torch.tensor(values, device=logits.device) for values in (self.scale, self.shift, self.floor, self.spread)
        )
        shares = (logits * scale + shift).sigmoid()
        return shares.mean(0), (floor.square() + (spread * shares.std(0)).square()).sqrt()

    @classmethod
    def fit(cls, logits: Tensor, labels: Tensor) -> Calibration:
        """To logits (heads, N, 6) and normalised labels (N, 6) of held-out pairs, by least squares."""
        fits = [_fit_logits(logits[:, :, k].double(), labels[:, k].double()) for k in range(len(KEYS))]
        scale, shift = ([float(fit[index]) for fit in fits] for index in (0, 1))
        shares = (logits.double() * torch.tensor(scale).double() + torch.tensor(shift).double()).sigmoid()
        errors, variances = (shares.mean(0) - labels).square(), shares.var(0)
        uncertainty = [_fit_errors(errors[:, k], variances[:, k]) for k in range(len(KEYS))]
        return cls(scale, shift, [floor for floor, _ in uncertainty], [spread for _, spread in uncertainty])


def _fit_logits(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Scale and shift of logits (heads, N) that bring the heads' mean nearest to the labels (N,)."""
    free = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log of the scale, shift
    optimizer = torch.optim.LBFGS([free], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        shares = (logits * free[0].exp() + free[1]).sigmoid().mean(0)
        value = (shares - labels).square().mean() + _TRUST * free.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    scale, shift = free.detach().tolist()
    return float(np.exp(scale)), shift


def _fit_errors(squares: Tensor, variances: Tensor) -> tuple[float, float]:
    """Floor and spread, so that errors are likeliest under normal ones of variance floor² + spread² · variance.

    Likelihood and not least squares: the heads' variance is a noisy measure, and where it and the errors are small,
    an error bar that is too wide is as wrong as one that is too narrow where they are large.
    """
    least = 1e-3 * squares.mean().clamp(min=1e-9)
    free = torch.stack([squares.mean().clamp(min=1e-9).log(), torch.zeros((), dtype=torch.float64)]).requires_grad_()
    optimizer = torch.optim.LBFGS([free], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        expected = least + free[0].exp() + free[1].exp() * variances
        value = (expected.log() + squares / expected).mean()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    floor, spread = (0.5 * free.detach()).exp().tolist()
    return float(np.sqrt(floor**2 + least.item())), spread
