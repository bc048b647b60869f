"""Group Relative Policy Optimisation (Shao et al. 2024): advantages within a group, clipped ratios, a divergence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TIE = 1e-6
"""Standard deviation of a group's rewards, in units of the reward, up to which its members count as equally good."""

FAR = 5.0
"""Nats by which log-probabilities may differ before ``exp`` goes on as its tangent: where draws are narrow, a mean that
moves by a level changes them by hundreds, and what overflows teaches nothing."""


def advantages(rewards: Tensor) -> Tensor:
    """Rewards (P, G, …) of G futures of one start each → (P, G, …): (R − mean) / std within each group.

    The standard deviation is the group's own (over G, not G − 1), so that advantages have a mean square of 1. Equal
    rewards have equal advantages. A group that ties as a whole (std ≤ :data:`TIE`) has advantages of 0: it says nothing
    on what is better, and rounding is not to be blown up into an opinion.
    """
    centred = rewards - rewards.mean(1, keepdim=True)
    std = centred.square().mean(1, keepdim=True).sqrt()
    return torch.where(std > TIE, centred / std.clamp(min=TIE), 0.0)


def ties(rewards: Tensor) -> Tensor:
    """Whether each group (P, G) ties as a whole: (P,) bool."""
    return rewards.std(1, correction=0) <= TIE


def divergence(new: Tensor, reference: Tensor) -> Tensor:
    """Low-variance estimate of KL(new ‖ reference), token by token (k3 of Schulman 2020): never negative.

    ``exp(d) − d − 1`` with ``d = reference − new``, of log-probabilities (…) of tokens that ``new`` drew; beyond
    :data:`FAR` a straight line.
    """
    difference = reference - new
    return _exp(difference) - difference - 1


@dataclass(frozen=True)
class Objective:
    """What is minimised, and what it is made of.

    Attributes:
        loss: scalar with gradient.
        divergence: mean over tokens, see :func:`divergence`.
        clipped: share of the tokens whose ratio no longer pulls, because it is far enough.
    """

    loss: Tensor
    divergence: float
    clipped: float


def objective(
    new: Tensor, old: Tensor, reference: Tensor, advantage: Tensor, mask: Tensor, clip: float, weight: float
) -> Objective:
    """``−E[min(ρA, clip(ρ, 1 ± ε)A)] + β·KL(π‖π₀)`` (RoboAlign-R1, A4), the mean over the tokens that count.

    Args:
        new: (N, L) log-probabilities of what was drawn, with gradient.
        old: (N, L) as they were when it was drawn; ρ = exp(new − old), a straight line from :data:`FAR` on.
        reference: (N, L) those of the frozen reference π₀.
        advantage: of each token, broadcastable to (N, L).
        mask: bool, broadcastable to (N, L): the tokens that count, those that were drawn. Where none does, all is 0.
        clip: ε.
        weight: β.
    """
    mask, advantage = mask.expand_as(new), advantage.expand_as(new)
    new, old, reference, each = new[mask], old[mask], reference[mask], advantage[mask]
    ratio = _exp(new - old)
    bounded = ratio.clamp(1 - clip, 1 + clip)
    gain = torch.minimum(ratio * each, bounded * each)
    away = divergence(new, reference)
    held = (bounded * each < ratio * each).float()
    return Objective(_mean(weight * away - gain), _mean(away).item(), _mean(held).item())


def _exp(x: Tensor) -> Tensor:
    """``exp`` up to :data:`FAR`, from there on its tangent."""
    near = x.clamp(max=FAR)
    return near.exp() * (1 + x - near)


def _mean(values: Tensor) -> Tensor:
    return values.sum() / max(1, values.numel())
