"""The dynamics as a policy: how likely was each token that it drew?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roboalign_core.world_model.branching import branching_hidden
from roboalign_core.world_model.codes import CodeLogits
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.rollout import Order


@dataclass(frozen=True)
class Groups:
    """P starts and G futures of each, as tokens; N = P·G, those of one start in a row.

    Attributes:
        context: (P, n) codes of the context frames.
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


def log_probs(dynamics: Dynamics, groups: Groups, order: Order) -> tuple[Tensor, float]:
    """Log-probabilities of what was drawn at temperature 1, and the mean entropy of what it was drawn from, in nats.

    Args:
        dynamics: the network.
        groups: the futures. What those of one start share is computed once.
        order: that they were drawn in. In either, codes are drawn group of FSQ channels by group, so that a code's
            log-probability is the sum of its parts'; with ``frame`` all codes of a frame are drawn apart, too.

    Returns:
        (N, L), one number a token of ``[dynamics_1] [action_1] … [dynamics_T]``, 0 for the known ones
        (:meth:`~roboalign_core.world_model.layout.TokenLayout.drawn`); and a mean over the others.
    """
    logits = _frame_logits(dynamics, groups) if order == "frame" else _token_logits(dynamics, groups)
    drawn = dynamics.layout.drawn(groups.codes.shape[1]).to(groups.codes.device)
    values = logits.log_prob(groups.codes)
    with torch.no_grad():
        entropy = logits.entropy().mean().item()
    return values.new_zeros(len(values), len(drawn)).masked_scatter(drawn, values), entropy


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
