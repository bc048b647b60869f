"""Candidates as they were imagined: hidden states for all of them, pixels for those that somebody wants to see."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Context, Imagination, Order, Rollout, Segment


class Futures:
    """N candidates, imagined H frames on from one context.

    Attributes:
        expected: (N, H, dim), the transformer's hidden states of the imagined frames, before any token is chosen.
    """

    @torch.no_grad()
    def __init__(self, world_model: WorldModel, context: Context, bins: Tensor, order: Order) -> None:
        """Imagine along action bins (N, H, A). The last frame's tokens are drawn when frames are asked for."""
        self._world_model, self._context = world_model, context
        self._imagination = Imagination(world_model, context, len(bins), order, limit=bins.shape[1])
        self._codes: list[Tensor] = []
        expected = []
        for step in range(bins.shape[1]):
            if step:
                self._codes.append(self._imagination.draw())
            self._imagination.act(bins[:, step])
            expected.append(self._imagination.expected)
        self.expected = torch.stack(expected, dim=1)

    def __len__(self) -> int:
        """N, the number of candidates."""
        return len(self.expected)

    @torch.no_grad()
    def frames(self, rows: np.ndarray) -> np.ndarray:
        """The imagined frames (K, H, height, width, 3) uint8 of candidates ``rows`` (K,)."""
        if len(self._codes) < self.expected.shape[1]:
            self._codes.append(self._imagination.draw())
        chosen = torch.from_numpy(rows).to(self.expected.device)
        codes = torch.stack(self._codes, dim=1)[chosen]
        return Rollout(self._world_model, [Segment(self._context.features, codes)]).frames
