"""Candidates as they are imagined: hidden states as far as somebody asks, pixels of those somebody wants to see."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Imagination, Rollout, Segment
from roboalign_core.world_model.tokenizer import ContextFeatures


class Futures:
    """N candidates of H steps from one context, imagined as far as somebody asks.

    Attributes:
        bins: (N, H, A) of their actions.
        horizon: H.
        rows: (K,) the candidates that are still imagined; all N until :meth:`keep` leaves some behind.
    """

    def __init__(self, world_model: WorldModel, features: ContextFeatures, start: Imagination, bins: Tensor) -> None:
        """Futures along action bins (N, H, A) from ``start``, one candidate at the frame that ``features`` are of."""
        self._world_model, self._features, self.bins = world_model, features, bins
        self._imagination = start.forked(len(bins))
        self._expected: list[Tensor] = []
        self._codes: list[Tensor] = []
        self.horizon, self.rows = bins.shape[1], np.arange(len(bins))

    def __len__(self) -> int:
        """N, the number of candidates, those left behind among them."""
        return len(self.bins)

    @torch.no_grad()
    def expected(self, steps: int | None = None) -> Tensor:
        """What the transformer expects of so many frames (all H where None), before any of their tokens is chosen.

        Returns:
            Hidden states (K, steps, dim) of the candidates ``rows``.
        """
        steps = self.horizon if steps is None else steps
        while len(self._expected) < steps:
            if self._expected:
                self._codes.append(self._imagination.draw())
            self._imagination.act(self.bins[self.rows, len(self._expected)])
            self._expected.append(self._imagination.expected)
        return torch.stack(self._expected[:steps], dim=1)

    def keep(self, places: np.ndarray) -> None:
        """Leave all behind but those at ``places`` (M,) of ``rows``: what follows is imagined of these alone."""
        chosen = self._places(places)
        self.rows = self.rows[places]
        self._imagination.keep(chosen)
        self._expected = [each[chosen] for each in self._expected]
        self._codes = [each[chosen] for each in self._codes]

    @torch.no_grad()
    def frames(self, rows: np.ndarray) -> np.ndarray:
        """The imagined frames (M, H, height, width, 3) uint8 of candidates ``rows`` (M,).

        Raises:
            RoboAlignError: one of them was left behind.
        """
        if not np.isin(rows, self.rows).all():
            raise RoboAlignError(f"futures: expected candidates of {self.rows.tolist()}, found {rows.tolist()}")
        self.expected()
        if len(self._codes) < self.horizon:
            self._codes.append(self._imagination.draw())
        place = np.zeros(len(self), np.int64)
        place[self.rows] = np.arange(len(self.rows))
        codes = torch.stack(self._codes, dim=1)[self._places(place[rows])]
        return Rollout(self._world_model, [Segment(self._features, codes)]).frames

    def _places(self, places: np.ndarray) -> Tensor:
        return torch.from_numpy(places).to(self.bins.device)
