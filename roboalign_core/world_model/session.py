"""A stream: the robot's camera sets what is real, actions move on from there."""

from __future__ import annotations

import numpy as np
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.model import WorldModel, one_frame
from roboalign_core.world_model.rollout import Context, Imagination, Order
from roboalign_core.world_model.tokenizer import ContextFeatures


class Session:
    """Imagine frame after frame, with memory bounded by the window (Sliding Window Re-encoding inside).

    For one thread at a time.
    """

    def __init__(self, world_model: WorldModel, order: Order = "token") -> None:
        self.world_model = world_model
        self.order: Order = order
        self._imagination: Imagination | None = None
        self._features: ContextFeatures | None = None

    def reset(self, frame: np.ndarray) -> None:
        """Start from a real frame (H, W, 3) uint8 of any size."""
        self._start(self.world_model.encode(one_frame(frame)))

    def observe(self, frame: np.ndarray) -> None:
        """Replace what was imagined by what the camera sees; the next step starts there."""
        self.reset(frame)

    def step(self, action: np.ndarray) -> np.ndarray:
        """Action (A,) → the imagined next frame (H, W, 3) uint8.

        Raises:
            RoboAlignError: no frame yet, or an action of the wrong width or not finite.
        """
        if self._imagination is None or self._features is None:
            raise RoboAlignError("session: expected reset(frame) before step(action), found no frame yet")
        action = np.asarray(action, np.float32)
        if action.ndim != 1:
            raise RoboAlignError(
                f"action: expected shape ({self.world_model.config.action_dim},), found {action.shape}"
            )
        bins = self.world_model.action_bins(action[None])
        with torch.no_grad():
            codes = self._imagination.step(bins)
            frames = self.world_model.decode(codes, self._features)
            if self._imagination.frames == self.world_model.config.window:
                self._start(self.world_model.encode(frames))
        return frames[0].cpu().numpy()

    @torch.no_grad()
    def _start(self, context: Context) -> None:
        window = self.world_model.config.window
        self._features = context.features
        self._imagination = Imagination(self.world_model, context, 1, self.order, limit=window)
