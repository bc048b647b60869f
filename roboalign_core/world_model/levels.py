"""Codes drawn around a mean: a Gaussian over the FSQ levels of each channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roboalign_core.world_model.codes import SHARPNESS, CodeGroups, CodeLogits

NARROWEST = 0.05
"""Width, in levels, below which a channel is not drawn at all but has the level nearest to its mean."""


@dataclass(frozen=True, slots=True)
class LevelGaussian:
    """Codes whose levels scatter around a mean, each channel by itself.

    Level l has the probability softmax(−(l − mean)² / 2·width²) over the levels of its channel. A channel of width 0 is
    certain: it has the level nearest to its mean, with probability 1.

    Attributes:
        groups: how codes are taken apart.
        mean: (…, channels), counted in levels from 0.
        width: (…, channels), in levels; 0 or at least :data:`NARROWEST`.
    """

    groups: CodeGroups
    mean: Tensor
    width: Tensor

    @classmethod
    def of(cls, logits: CodeLogits, width: Tensor) -> LevelGaussian:
        """Around the mean that :meth:`~roboalign_core.world_model.codes.CodeLogits.central` rounds."""
        return cls(logits.groups, logits.means(), width)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Codes (…), without waiting for the device."""
        drawn = []
        for channel, logs in enumerate(self._logs()):
            noise = torch.empty(logs.shape, device=logs.device).exponential_(generator=generator)
            levels, nearest = (logs.exp() / noise).argmax(-1), self.mean[..., channel].round().long()
            drawn.append(torch.where(self.width[..., channel] > 0, levels, nearest))
        return self.groups.channels.join(drawn)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Of codes (…), in nats (…), with a gradient to the mean. Channels of width 0 have no say."""
        picked = [
            logs.gather(-1, level.unsqueeze(-1)).squeeze(-1)
            for logs, level in zip(self._logs(), self.groups.channels.split(codes), strict=True)
        ]
        return self._drawn(picked)

    def entropy(self) -> Tensor:
        """In nats (…): the sum of the channels' entropies."""
        return self._drawn([torch.special.entr(logs.exp()).sum(-1) for logs in self._logs()])

    def _logs(self) -> list[Tensor]:
        """(…, levels) log-probabilities of each channel; arbitrary where its width is 0."""
        width = torch.where(self.width > 0, self.width, 1.0)
        found = []
        for channel, (levels,) in enumerate(self.groups.channels.levels):
            away = torch.arange(levels, device=width.device) - self.mean[..., channel, None]
            found.append((-0.5 * (away / width[..., channel, None]).square()).log_softmax(-1))
        return found

    def _drawn(self, channels: list[Tensor]) -> Tensor:
        """The sum over the channels that are drawn."""
        return torch.where(self.width > 0, torch.stack(channels, dim=-1), 0.0).sum(-1)


def level_widths(logits: CodeLogits, exploration: float, sharpness: float = SHARPNESS) -> Tensor:
    """Widths (…, channels) of a :class:`LevelGaussian`: so many of the distribution's own standard deviations.

    What is certain stays: widths below :data:`NARROWEST` are 0.
    """
    width = exploration * logits.deviations(sharpness).detach()
    return torch.where(width < NARROWEST, 0.0, width)
