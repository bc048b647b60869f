"""The one place that knows where a token stands and which number it has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roboalign_core.errors import RoboAlignError


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """Vocabulary and order of ``[context] ([dynamics_t] [action_t]) × T`` (RLVR-World; RoboAlign-R1, section A4).

    One vocabulary: dynamics codes first, then context codes, then action bins. There are no separators.

    Attributes:
        dynamics_codes, context_codes, action_bins: sizes of the three ranges.
        context_tokens, dynamics_tokens, action_tokens: tokens of the context (of all its frames, oldest first), of one
            later frame, of one action.
    """

    dynamics_codes: int
    context_codes: int
    action_bins: int
    context_tokens: int
    dynamics_tokens: int
    action_tokens: int

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        return self.dynamics_codes + self.context_codes + self.action_bins

    @property
    def context_offset(self) -> int:
        """Id of the first context code."""
        return self.dynamics_codes

    @property
    def action_offset(self) -> int:
        """Id of the first action bin."""
        return self.dynamics_codes + self.context_codes

    @property
    def frame_tokens(self) -> int:
        """Tokens that one time step adds: its dynamics and its action."""
        return self.dynamics_tokens + self.action_tokens

    def length(self, frames: int) -> int:
        """Tokens of a whole sequence of ``frames`` frames."""
        return self.context_tokens + frames * self.frame_tokens

    def sequence(self, context: Tensor, dynamics: Tensor, actions: Tensor) -> Tensor:
        """Codes → ids.

        Args:
            context: (B, context_tokens) codes.
            dynamics: (B, T, dynamics_tokens) codes.
            actions: (B, T, action_tokens) bins.

        Returns:
            ids (B, length(T)) int64.

        Raises:
            RoboAlignError: shapes that do not fit the layout or each other.
        """
        if dynamics.ndim != 3:
            raise RoboAlignError(
                f"token layout, dynamics: expected shape (B, T, {self.dynamics_tokens}), found {tuple(dynamics.shape)}"
            )
        batch, frames = dynamics.shape[:2]
        self._check("context", context, (batch, self.context_tokens))
        self._check("dynamics", dynamics, (batch, frames, self.dynamics_tokens))
        self._check("actions", actions, (batch, frames, self.action_tokens))
        steps = torch.cat([dynamics, self.action_ids(actions)], dim=-1).flatten(1)
        return torch.cat([self.context_ids(context), steps], dim=1)

    def context_ids(self, codes: Tensor) -> Tensor:
        """Context codes (…) → ids (…). Dynamics codes are their own ids."""
        return codes + self.context_offset

    def action_ids(self, bins: Tensor) -> Tensor:
        """Action bins (…) → ids (…)."""
        return bins + self.action_offset

    def dynamics_positions(self, frames: int) -> Tensor:
        """Positions (frames, dynamics_tokens) of the dynamics tokens of each frame."""
        starts = self.context_tokens + self.frame_tokens * torch.arange(frames)
        return starts[:, None] + torch.arange(self.dynamics_tokens)

    def step_positions(self, frames: int) -> Tensor:
        """Positions (frames, frame_tokens) of the dynamics and action tokens of each time step."""
        starts = self.context_tokens + self.frame_tokens * torch.arange(frames)
        return starts[:, None] + torch.arange(self.frame_tokens)

    def drawn(self, frames: int) -> Tensor:
        """Which tokens of ``[dynamics_1] [action_1] … [dynamics_frames]`` are drawn, not known: (L,) bool.

        That is what follows the prompt ``[context] [dynamics_0] [action_0]``, see :meth:`prompt`.
        """
        step = torch.arange(frames * self.frame_tokens) % self.frame_tokens < self.dynamics_tokens
        return step[: len(step) - self.action_tokens]

    def prompt(self, context: Tensor, start: Tensor, action: Tensor) -> Tensor:
        """Codes (B, context_tokens), (B, dynamics_tokens) and bins (B, action_tokens) → ids (B, K) of a prompt."""
        return torch.cat([self.context_ids(context), start, self.action_ids(action)], dim=1)

    @staticmethod
    def _check(name: str, value: Tensor, expected: tuple[int, ...]) -> None:
        if tuple(value.shape) != expected:
            raise RoboAlignError(f"token layout, {name}: expected shape {expected}, found {tuple(value.shape)}")
