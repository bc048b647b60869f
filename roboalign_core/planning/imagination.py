"""What a planner asks of a world model: how good would these actions be from here?"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning.futures import Futures
from roboalign_core.planning.objective import Objective, as_objective
from roboalign_core.planning.search import Array
from roboalign_core.reward.model import RewardModel
from roboalign_core.reward.progress import ProgressModel
from roboalign_core.world_model.model import WorldModel, one_frame
from roboalign_core.world_model.rollout import Imagination, Order
from roboalign_core.world_model.tokenizer import ContextFeatures


class ImaginationServer:
    """Holds the robot's current frame and its task; scores and draws candidate futures.

    For one thread at a time. ``reset`` sets the task and the frame that it is measured from ("push left" is relative
    to where the object stood), ``observe`` the frame that imagination starts from. An objective that judges videos
    knows of an episode what was observed, so it wants every frame, once; and so does a context of several frames, which
    are taken to be a step apart. Frames are encoded only when candidates come.

    Args:
        world_model: imagines.
        objective: judges what was imagined; a model stands for the objective that it makes with its usual settings.
        order: of decoding.

    Raises:
        RoboAlignError: the objective was made for another world model.
    """

    def __init__(
        self, world_model: WorldModel, objective: ProgressModel | RewardModel | Objective, order: Order = "frame"
    ) -> None:
        self.world_model, self.order = world_model, order
        self.objective = as_objective(world_model, objective)
        self._frames: deque[torch.Tensor] = deque(maxlen=world_model.config.tokenizer.context_frames)  # (1, H, W, 3)
        self._now: _Now | None = None  # of these frames, once it is needed
        self._batch: int | None = None  # candidates at once; set where all did not fit into memory

    def reset(self, frame: np.ndarray, instruction: str) -> None:
        """Begin an episode.

        Args:
            frame: (H, W, 3) uint8, the camera's first frame.
            instruction: the task, one that the objective can judge.

        Raises:
            RoboAlignError: the frame is no uint8 image, or the objective cannot judge the instruction.
        """
        current = one_frame(frame)
        self.objective.reset(frame, instruction)
        self._frames.clear()
        self._frames.append(current)
        self._now = None

    def observe(self, frame: np.ndarray, follows: bool = True) -> None:
        """The next frame of the episode, which imagination starts from.

        Args:
            frame: (H, W, 3) uint8.
            follows: whether it came one step after the frame before. Otherwise that one is no part of its context.

        Raises:
            RoboAlignError: the frame is no uint8 image, or there was no ``reset``.
        """
        current = one_frame(frame)
        if not self._frames:
            raise RoboAlignError(
                "imagination: expected reset(frame, instruction) before observe(frame), found no frame"
            )
        self.objective.observe(frame)
        if not follows:
            self._frames.clear()
        self._frames.append(current)
        self._now = None

    def score(self, actions: Array) -> Array:
        """Candidates (N, H, A) in the robot's action units → scores (N,), higher is better.

        Where memory does not suffice for all at once, they are imagined in parts, then and from then on.
        """
        scores: list[Array] = []
        done = 0
        while done < len(actions) or not scores:
            batch = self._batch or len(actions)
            try:
                scores.append(self._score(actions[done : done + batch]))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                tried = min(batch, len(actions) - done)
                if not _out_of_memory(error) or tried < 2:
                    raise
                self._batch = -(-tried // 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            else:
                done += batch
        return np.concatenate(scores)

    def _score(self, actions: Array) -> Array:
        futures = self._futures(actions)
        scores = self.objective.score(futures)
        self._remember(futures)
        return scores

    def imagine(self, actions: Array) -> np.ndarray:
        """One sequence (H, A) → its imagined frames (H, height, width, 3) uint8."""
        actions = np.asarray(actions, np.float32)
        if actions.ndim != 2:
            raise RoboAlignError(f"actions: expected (frames, width), found {actions.shape}")
        futures = self._futures(actions[None])
        frames = futures.frames(np.zeros(1, np.int64))[0]
        self._remember(futures)
        return frames

    def _remember(self, futures: Futures) -> None:
        """Where it is of one candidate: who scores it wants to see it. Not before all went well with it."""
        if len(futures) == 1 and self._now is not None:
            self._now.single = futures

    def _futures(self, actions: Array) -> Futures:
        """Of candidates (N, H, A) from the newest frames."""
        if not self._frames:
            raise RoboAlignError("imagination: expected reset(frame, instruction) before any candidate, found no frame")
        actions = np.asarray(actions, np.float32)
        limit = self.world_model.config.dynamics.max_frames - 1
        if actions.ndim != 3 or 0 in actions.shape or actions.shape[1] > limit:
            raise RoboAlignError(
                f"actions: expected (candidates, 1 to {limit} frames, {self.world_model.config.action_dim}), "
                f"found {actions.shape}"
            )
        bins = self.world_model.action_bins(actions)
        if self._now is None:
            context = self.world_model.context(self.world_model.stream(list(self._frames)))
            self._now = _Now(context.features, Imagination(self.world_model, context, 1, self.order))
        now, single = self._now, self._now.single
        if single is not None and torch.equal(single.bins, bins):
            now.single = None
            return single
        return Futures(self.world_model, now.features, now.start, bins)


@dataclass
class _Now:
    """The newest frames of an episode.

    Attributes:
        features: their context features.
        start: they have been run through the transformer, which every candidate goes on from.
        single: the future of the candidate that was imagined alone last.
    """

    features: ContextFeatures
    start: Imagination
    single: Futures | None = None


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran short: of a GPU, of Python, or of torch's CPU allocator, which has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)
