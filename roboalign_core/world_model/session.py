"""A stream: the robot's camera sets what is real, actions move on from there."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.model import WorldModel, check_frame
from roboalign_core.world_model.rollout import Context, Imagination, Order
from roboalign_core.world_model.tokenizer import ContextFeatures


class Session:
    """Imagine frame after frame, with memory bounded by the window (Sliding Window Re-encoding inside).

    For one robot, or for B of them in step: after ``reset`` with frames (B, H, W, 3), actions are (B, A) and imagined
    frames (B, H, W, 3). For one thread at a time.
    """

    def __init__(self, world_model: WorldModel, order: Order = "token") -> None:
        self.world_model = world_model
        self.order: Order = order
        self._robots: int | None = None  # None: one, without a batch axis
        self._imagination: Imagination | None = None
        self._features: ContextFeatures | None = None
        self._actions: deque[Tensor] = deque(maxlen=world_model.config.window)  # bins (B, A) since the last real frame

    def reset(self, frame: np.ndarray) -> None:
        """Start from a real frame (H, W, 3) uint8 of any size, or from those of B robots (B, H, W, 3).

        Raises:
            RoboAlignError: no such frame.
        """
        frames = _frames(frame)
        self._robots = len(frames) if frame.ndim == 4 else None
        self._restart(frames)

    def observe(self, frame: np.ndarray, late: int = 0) -> np.ndarray:
        """Replace what was imagined by what the camera saw; the next step starts there. The first one starts a stream.

        Args:
            frame: as given to :meth:`reset`.
            late: steps since. The frame takes the place of the one that was imagined then, and the steps after it are
                imagined anew along their actions. What the transformer holds of the time before stays as it is, where
                the context is older than the frame; else the frame becomes the context.

        Returns:
            the frames that were imagined anew, (late, H, W, 3), or (late, B, H, W, 3).

        Raises:
            RoboAlignError: no frame yet and ``late`` above 0, another number of robots, or the step was too long ago:
                before the last real frame, or further back than the window.
        """
        if self._imagination is None and late == 0:
            self.reset(frame)
        imagination, _ = self._started("observe(frame)")
        frames = _frames(frame)
        if (len(frames) if frame.ndim == 4 else None) != self._robots:
            raise RoboAlignError(f"frame: expected shape {self._shape('H, W, 3')}, found {frame.shape}")
        if not isinstance(late, int) or not 0 <= late <= len(self._actions):
            raise RoboAlignError(
                f"session: expected a frame of 0 to {len(self._actions)} steps ago (no earlier than the last real one, "
                f"within the window of {self.world_model.config.window}), found {late!r}"
            )
        again = list(self._actions)[len(self._actions) - late :]
        if 0 < late < imagination.frames:
            self._correct(frames, imagination.frames - late)
        else:
            self._restart(frames)
        imagined = [self._advance(bins) for bins in again]
        if not imagined:
            shape = frame.shape[:-3] + self.world_model.config.image_size
            return np.empty((0, *shape, 3), np.uint8)
        return np.stack(imagined)

    def step(self, action: np.ndarray) -> np.ndarray:
        """Action (A,) → the imagined next frame (H, W, 3) uint8; (B, A) → (B, H, W, 3) with B robots.

        Raises:
            RoboAlignError: no frame yet, or an action of the wrong shape or not finite.
        """
        self._started("step(action)")
        action = np.asarray(action, np.float32)
        width = self.world_model.config.action_dim
        if action.ndim != (1 if self._robots is None else 2) or (self._robots and len(action) != self._robots):
            raise RoboAlignError(f"action: expected shape {self._shape(f'{width},')}, found {action.shape}")
        return self._advance(self.world_model.action_bins(action if self._robots else action[None]))

    def _shape(self, one: str) -> str:
        """For messages."""
        return f"({one})" if self._robots is None else f"({self._robots}, {one.rstrip(',')})"

    def _started(self, call: str) -> tuple[Imagination, ContextFeatures]:
        if self._imagination is None or self._features is None:
            raise RoboAlignError(f"session: expected reset(frame) before {call}, found no frame yet")
        return self._imagination, self._features

    @torch.no_grad()
    def _advance(self, bins: Tensor) -> np.ndarray:
        imagination, features = self._started("step(action)")
        frames = self.world_model.decode(imagination.step(bins), features)
        self._actions.append(bins)
        if imagination.frames == self.world_model.config.window:
            self._begin(self.world_model.encode(frames))
        drawn = frames.cpu().numpy()
        return drawn[0] if self._robots is None else drawn

    def _restart(self, frames: Tensor) -> None:
        """From real frames (B, H, W, 3)."""
        self._begin(self.world_model.encode(frames))
        self._actions.clear()

    @torch.no_grad()
    def _correct(self, frames: Tensor, place: int) -> None:
        """Put real frames (B, H, W, 3) where frame ``place`` since the context was imagined."""
        imagination, features = self._started("observe(frame)")
        imagination.rewind(place, self.world_model.encode_dynamics(frames, features))
        self._actions.clear()

    @torch.no_grad()
    def _begin(self, context: Context) -> None:
        self._features = context.features
        limit = self.world_model.config.window
        self._imagination = Imagination(self.world_model, context, len(context.codes), self.order, limit=limit)


def _frames(frame: np.ndarray) -> Tensor:
    """(H, W, 3) or (B, H, W, 3) uint8 → (B, H, W, 3), a copy."""
    if isinstance(frame, np.ndarray) and frame.ndim == 4 and len(frame):
        check_frame(frame[0])
        return torch.from_numpy(frame.copy())
    check_frame(frame)
    return torch.from_numpy(frame[None].copy())
