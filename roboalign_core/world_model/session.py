"""A stream: the robot's camera sets what is real, actions move on from there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.model import WorldModel, check_frame
from roboalign_core.world_model.rollout import Imagination, Order
from roboalign_core.world_model.tokenizer import ContextFeatures, in_a_row


class Session:
    """Imagine frame after frame, with memory bounded by the window (Sliding Window Re-encoding inside).

    A context is made of the stream's newest frames: as they were seen where they were, else as they were imagined.

    For one robot, or for B of them in step: after ``reset`` with frames (B, H, W, 3), actions are (B, A) and imagined
    frames (B, H, W, 3). For one thread at a time.
    """

    def __init__(self, world_model: WorldModel, order: Order = "token") -> None:
        self.world_model = world_model
        self.order: Order = order
        self._robots: int | None = None  # None: one, without a batch axis
        self._imagination: Imagination | None = None
        self._features: ContextFeatures | None = None
        window, self._count = world_model.config.window, world_model.config.tokenizer.context_frames
        self._actions: deque[Tensor] = deque(maxlen=window)  # bins (B, A) since the last real frame
        self._pixels: deque[Tensor] = deque(maxlen=window + self._count)  # of the newest frames, (B, 3, H, W) each

    def reset(self, frame: np.ndarray, seen: Iterable[np.ndarray] = ()) -> None:
        """Start from a real frame (H, W, 3) uint8 of any size, or from those of B robots (B, H, W, 3).

        Args:
            frame: what the camera sees now.
            seen: the frames before it, a step apart, oldest first, each as ``frame``. The newest ``context_frames − 1``
                count; where there are fewer, the oldest one stands for those before it.

        Raises:
            RoboAlignError: no such frames, or not of as many robots.
        """
        given = [*seen, frame]
        frames, robots = [_frames(each) for each in given], _robots(frame)
        for each in given:
            _check_robots(each, robots)
        self._robots = robots
        self._pixels.clear()
        self._pixels.extend(self.world_model.stream(frames).unbind(1))
        self._restart()

    def observe(self, frame: np.ndarray, late: int = 0) -> np.ndarray:
        """Replace what was imagined by what the camera saw; the next step starts there. The first one starts a stream.

        Without a step in between, it takes the place of the frame that was seen before.

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
        _check_robots(frame, self._robots)
        if not isinstance(late, int) or not 0 <= late <= len(self._actions):
            raise RoboAlignError(
                f"session: expected a frame of 0 to {len(self._actions)} steps ago (no earlier than the last real one, "
                f"within the window of {self.world_model.config.window}), found {late!r}"
            )
        again = list(self._actions)[len(self._actions) - late :]
        for _ in range(late + 1):
            self._pixels.pop()
        self._pixels.append(self.world_model.pixels(frames))
        if 0 < late < imagination.frames:
            self._correct(frames, imagination.frames - late)
        else:
            self._restart()
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
            raise RoboAlignError(f"action: expected shape {_shape(f'{width},', self._robots)}, found {action.shape}")
        return self._advance(self.world_model.action_bins(action if self._robots else action[None]))

    def _started(self, call: str) -> tuple[Imagination, ContextFeatures]:
        if self._imagination is None or self._features is None:
            raise RoboAlignError(f"session: expected reset(frame) before {call}, found no frame yet")
        return self._imagination, self._features

    @torch.no_grad()
    def _advance(self, bins: Tensor) -> np.ndarray:
        imagination, features = self._started("step(action)")
        frames = self.world_model.decode(imagination.step(bins), features)
        self._actions.append(bins)
        self._pixels.append(self.world_model.pixels(frames))
        if imagination.frames == self.world_model.config.window:
            self._begin()
        drawn = frames.cpu().numpy()
        return drawn[0] if self._robots is None else drawn

    def _restart(self) -> None:
        """From frames of which the newest are real."""
        self._begin()
        self._actions.clear()

    @torch.no_grad()
    def _correct(self, frames: Tensor, place: int) -> None:
        """Put real frames (B, H, W, 3) where frame ``place`` since the context was imagined."""
        imagination, features = self._started("observe(frame)")
        imagination.rewind(place, self.world_model.encode_dynamics(frames, features))
        self._actions.clear()

    @torch.no_grad()
    def _begin(self) -> None:
        """With the newest frames as context."""
        context = self.world_model.context(in_a_row(list(self._pixels)[-self._count :]))
        self._features = context.features
        limit = self.world_model.config.window
        self._imagination = Imagination(self.world_model, context, len(context.codes), self.order, limit=limit)


def _robots(frame: np.ndarray) -> int | None:
    return len(frame) if frame.ndim == 4 else None


def _check_robots(frame: np.ndarray, expected: int | None) -> None:
    if _robots(frame) != expected:
        raise RoboAlignError(f"frame: expected shape {_shape('H, W, 3', expected)}, found {frame.shape}")


def _shape(one: str, robots: int | None) -> str:
    """For messages."""
    return f"({one})" if robots is None else f"({robots}, {one.rstrip(',')})"


def _frames(frame: np.ndarray) -> Tensor:
    """(H, W, 3) or (B, H, W, 3) uint8 → (B, H, W, 3), a copy."""
    if isinstance(frame, np.ndarray) and frame.ndim == 4 and len(frame):
        check_frame(frame[0])
        return torch.from_numpy(frame.copy())
    check_frame(frame)
    return torch.from_numpy(frame[None].copy())
