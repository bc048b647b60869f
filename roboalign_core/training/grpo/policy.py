"""The dynamics as a policy: how it draws a token, and how likely each was that it drew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from roboalign_core.world_model.branching import branching_hidden
from roboalign_core.world_model.codes import CodeLogits
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.levels import LevelGaussian, level_widths
from roboalign_core.world_model.picking import Picker, Sampled, Scattered
from roboalign_core.world_model.rollout import Order


@dataclass(frozen=True)
class Groups:
    """P starts and G futures of each, as tokens; N = P·G, those of one start in a row.

    Attributes:
        context: (P, n) codes of the contexts.
        start: (P, m) codes of the frames that imagination started from.
        actions: (P, T, A) bins; ``actions[:, t]`` leads from frame t to frame t + 1.
        codes: (N, T, m) what was drawn.
    """

    context: Tensor
    start: Tensor
    actions: Tensor
    codes: Tensor

    @property
    def size(self) -> int:
        """G."""
        return len(self.codes) // len(self.start)

    def __len__(self) -> int:
        """P."""
        return len(self.start)

    def __getitem__(self, starts: slice) -> Groups:
        codes = self.codes.unflatten(0, (len(self), self.size))[starts].flatten(0, 1)
        return Groups(self.context[starts], self.start[starts], self.actions[starts], codes)


class Draws(Protocol):
    """What codes are drawn from."""

    def log_prob(self, codes: Tensor) -> Tensor:
        """Of codes (…), in nats (…)."""

    def entropy(self) -> Tensor:
        """In nats (…)."""


class Policy(Protocol):
    """How tokens are drawn out of the logits of their codes."""

    @property
    def picker(self) -> Picker:
        """What draws them."""

    def widths(self, logits: CodeLogits) -> Tensor:
        """Of logits (…), how far draws spread, (…, K) without gradient: what stays as it was at drawing time.

        A token whose widths are all 0 is not drawn: it can only be what it is.
        """

    def draws(self, logits: CodeLogits, widths: Tensor) -> Draws:
        """What they are drawn from, with gradient."""


class Categorical:
    """Codes as often as they are likely, at temperature 1; the temperature is the width."""

    picker: Picker = Sampled(1.0)

    def widths(self, logits: CodeLogits) -> Tensor:
        """See :class:`Policy`: (…, 1)."""
        return torch.ones_like(logits.parts[0][..., :1], dtype=torch.float32)

    def draws(self, logits: CodeLogits, widths: Tensor) -> CodeLogits:
        """See :class:`Policy`."""
        return logits


class Central:
    """Codes around the central one, which is what a rollout in one pass picks where nothing is drawn.

    Only the mean learns. How far draws spread is the network's own doubt, times ``exploration``; no reward can change
    it: a policy that could would learn to be sure before it learned to be right.
    """

    def __init__(self, exploration: float) -> None:
        self._exploration = exploration
        self.picker: Picker = Scattered(exploration)

    def widths(self, logits: CodeLogits) -> Tensor:
        """See :class:`Policy`: (…, channels), in levels."""
        return level_widths(logits, self._exploration)

    def draws(self, logits: CodeLogits, widths: Tensor) -> LevelGaussian:
        """See :class:`Policy`."""
        return LevelGaussian.of(logits, widths)


def code_logits(dynamics: Dynamics, groups: Groups, order: Order) -> CodeLogits:
    """Logits (N, T, m, …) of what was drawn.

    Known tokens (the context, the first frame, actions) have none: nothing ever predicts them.

    Args:
        dynamics: the network.
        groups: the futures. What those of one start share is computed once.
        order: that they were drawn in. With ``frame`` all codes of a frame are drawn apart.
    """
    return _frame_logits(dynamics, groups) if order == "frame" else _token_logits(dynamics, groups)


def _token_logits(dynamics: Dynamics, groups: Groups) -> CodeLogits:
    """(N, T, m, …), each token from the one before it."""
    branches = torch.cat([_steps(dynamics, groups), groups.codes[:, -1, :-1]], dim=1)
    first, rest = branching_hidden(dynamics, _trunk(dynamics, groups), branches)
    hidden = torch.cat([first[:, -1:].repeat_interleave(groups.size, 0), rest], dim=1)
    frames = groups.codes.shape[1]
    return dynamics.head(hidden[:, dynamics.layout.drawn(frames)].unflatten(1, (frames, -1)))


def _frame_logits(dynamics: Dynamics, groups: Groups) -> CodeLogits:
    """(N, T, m, …), each frame from the one before it and its action."""
    layout, frames = dynamics.layout, groups.codes.shape[1]
    first, rest = branching_hidden(dynamics, _trunk(dynamics, groups), _steps(dynamics, groups))
    later = rest.unflatten(1, (frames - 1, layout.frame_tokens)).flatten(0, 1)
    logits = dynamics.frame_head(torch.cat([first[:, -layout.frame_tokens :], later]))
    parts = []
    for part in logits.parts:
        shared, own = part.split([len(groups), len(later)])
        own = own.unflatten(0, (len(groups.codes), frames - 1))
        parts.append(torch.cat([shared.repeat_interleave(groups.size, 0).unsqueeze(1), own], dim=1))
    return CodeLogits(logits.groups, tuple(parts))


def _trunk(dynamics: Dynamics, groups: Groups) -> Tensor:
    """Ids (P, K) of what all futures of a start begin with."""
    return dynamics.layout.prompt(groups.context, groups.start, groups.actions[:, 0])


def _steps(dynamics: Dynamics, groups: Groups) -> Tensor:
    """Ids (N, (T − 1)·frame tokens) of all later frames but the last, each with its action."""
    known = dynamics.layout.action_ids(groups.actions[:, 1:]).repeat_interleave(groups.size, 0)
    return torch.cat([groups.codes[:, :-1], known], dim=-1).flatten(1)
