"""Dynamics codes, whole and in groups of FSQ channels, and logits over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError

SHARPNESS = 2.0
"""Power that probabilities are raised to before their mean is taken, see :meth:`CodeLogits.central`."""


@dataclass(frozen=True, slots=True)
class CodeGroups:
    """A code as one number for each group of FSQ channels.

    A network that scores groups of channels apart can tell ten thousand codes from each other at the price of a few
    hundred. Where all channels are in one group, a code is its own only part.

    Attributes:
        levels: FSQ levels of the channels of each group.
    """

    levels: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, levels: Sequence[int], channels: Sequence[int]) -> CodeGroups:
        """FSQ ``levels``, so many ``channels`` a group; all in one where none are named.

        Raises:
            RoboAlignError: the groups do not have as many channels as there are levels.
        """
        channels = channels or [len(levels)]
        if min(channels) < 1 or sum(channels) != len(levels):
            raise RoboAlignError(
                f"dynamics.code_channels: expected numbers of at least 1 whose sum is {len(levels)}, the channels of "
                f"dynamics_levels, found {list(channels)}"
            )
        ends = [sum(channels[: index + 1]) for index in range(len(channels))]
        return cls(tuple(tuple(levels[end - count : end]) for end, count in zip(ends, channels, strict=True)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes of each group."""
        return tuple(math.prod(group) for group in self.levels)

    @property
    def channels(self) -> CodeGroups:
        """The same codes with each channel in a group of its own: its parts are FSQ levels, from 0 on."""
        return CodeGroups(tuple((levels,) for group in self.levels for levels in group))

    def split(self, codes: Tensor) -> list[Tensor]:
        """Codes (…) → their part in each group (…)."""
        parts = []
        for size in self.sizes:
            parts.append(codes % size)
            codes = codes // size
        return parts

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Inverse of :meth:`split`."""
        codes = torch.zeros_like(parts[0])
        for part, size in zip(reversed(parts), reversed(self.sizes), strict=True):
            codes = codes * size + part
        return codes

    def spread(self, factors: Sequence[Tensor]) -> Tensor:
        """A vector for each part, (size, dim) of each group, → for each code the sum of its parts' (codes, dim)."""
        table = factors[0]
        for factor in factors[1:]:
            table = (factor[:, None] + table).flatten(0, 1)
        return table

    def factors(self, table: Tensor) -> list[Tensor]:
        """Inverse of :meth:`spread`, up to constants that go from one group to another.

        Means over all codes that share a part, so that what rounding did to ``table`` mostly cancels.
        """
        if len(self.levels) == 1:
            return [table]
        grid = table.float().unflatten(0, tuple(reversed(self.sizes)))
        axes = range(len(self.levels))
        means = [grid.mean([axis for axis in axes if axis != len(self.levels) - 1 - group]) for group in axes]
        centre = table.float().mean(0)
        return [mean.to(table.dtype) for mean in [means[0], *(mean - centre for mean in means[1:])]]


@dataclass(frozen=True, slots=True)
class CodeLogits:
    """Logits over codes: those of a code are the sum of those of its parts.

    Attributes:
        groups: how codes are taken apart.
        parts: (…, size) of each group.
    """

    groups: CodeGroups
    parts: tuple[Tensor, ...]

    @classmethod
    def of(cls, groups: CodeGroups, logits: Tensor) -> CodeLogits:
        """From (…, sum of the groups' sizes)."""
        return cls(groups, tuple(logits.split(groups.sizes, dim=-1)))

    def joint(self) -> Tensor:
        """(…, codes): the logits of all codes, as a LLaMA checkpoint gives them."""
        joint = self.parts[0]
        for part in self.parts[1:]:
            joint = (part.unsqueeze(-1) + joint.unsqueeze(-2)).flatten(-2)
        return joint

    def likeliest(self) -> Tensor:
        """Codes (…)."""
        return self.groups.join([part.argmax(-1) for part in self.parts])

    def central(self, sharpness: float = SHARPNESS) -> Tensor:
        """Codes (…) nearest to the mean of the FSQ levels: those with the least expected squared distance.

        Minimum Bayes risk decoding (Kumar and Byrne 2004) with the distance of FSQ values as risk. Where an object is
        half a pixel further left or right, its likeliest code has little more probability than others that draw almost
        the same; the centre of them all strays less, frame after frame. ``sharpness`` keeps what is unlikely from
        pulling at it.
        """
        return self.groups.channels.join(self.means(sharpness).round().long().unbind(-1))

    def means(self, sharpness: float = SHARPNESS) -> Tensor:
        """Mean FSQ levels (…, channels), counted from 0, of the distribution that is sharpened so."""
        return self._expected(sharpness, 1)

    def deviations(self, sharpness: float = SHARPNESS) -> Tensor:
        """Standard deviations (…, channels) of the FSQ levels, of the same distribution as :meth:`means`."""
        variance = self._expected(sharpness, 2) - self._expected(sharpness, 1).square()
        return variance.clamp(min=0).sqrt()

    def _expected(self, sharpness: float, power: int) -> Tensor:
        """(…, channels) expected powers of FSQ levels."""
        found = []
        for levels, part in zip(self.groups.levels, self.parts, strict=True):
            channels = CodeGroups.of(levels, [1] * len(levels))
            digits = torch.stack(channels.split(torch.arange(part.shape[-1], device=part.device)), dim=-1)
            found.append((part.float() * sharpness).softmax(-1) @ digits.float() ** power)
        return torch.cat(found, dim=-1)

    def sample(self, temperature: float, generator: torch.Generator | None = None) -> Tensor:
        """Codes (…) at a temperature above 0, without waiting for the device."""
        drawn = []
        for part in self.parts:
            noise = torch.empty(part.shape, device=part.device).exponential_(generator=generator)
            drawn.append(((part.float() / temperature).softmax(-1) / noise).argmax(-1))
        return self.groups.join(drawn)

    def log_prob(self, codes: Tensor) -> Tensor:
        """Of codes (…), in nats (…): what :meth:`sample` draws them with at temperature 1, group by group."""
        return -self.cross_entropy(codes)

    def entropy(self) -> Tensor:
        """In nats (…): the sum of the groups' entropies, since groups are drawn apart."""
        logs = [part.float().log_softmax(-1) for part in self.parts]
        return torch.stack([-(log.exp() * log).sum(-1) for log in logs]).sum(0)

    def cross_entropy(self, codes: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Of codes (…), in nats each (…)."""
        total = torch.zeros(codes.shape, device=codes.device)
        for part, target in zip(self.parts, self.groups.split(codes), strict=True):
            flat = part.flatten(0, -2).float()
            each = F.cross_entropy(flat, target.flatten(), reduction="none", label_smoothing=label_smoothing)
            total = total + each.view_as(codes)
        return total
