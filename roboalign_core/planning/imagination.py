"""What a planner asks of a world model: how good would these actions be from here?"""

from __future__ import annotations

import numpy as np
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning.cem import Array
from roboalign_core.reward.progress import ProgressModel
from roboalign_core.world_model.model import WorldModel, one_frame
from roboalign_core.world_model.rollout import Context, Imagination, Order, Rollout, Segment


class ImaginationServer:
    """Holds the robot's current frame and its task; scores and draws candidate futures.

    For one thread at a time. ``reset`` sets the task and the frame that it is measured from ("push left" is relative
    to where the object stood), ``observe`` the frame that imagination starts from.
    """

    def __init__(self, world_model: WorldModel, objective: ProgressModel, order: Order = "frame") -> None:
        self.world_model, self.objective, self.order = world_model, objective, order
        self._check_fit()
        self._reference: torch.Tensor | None = None
        self._instruction = ""
        self._context: Context | None = None
        self._reference_latent = torch.empty(0)

    def reset(self, frame: np.ndarray, instruction: str) -> None:
        """Begin an episode.

        Args:
            frame: (H, W, 3) uint8, the camera's first frame.
            instruction: the task, one of those that the objective knows.

        Raises:
            RoboAlignError: the frame is no uint8 image, or the objective does not know the instruction.
        """
        reference = one_frame(frame)
        self.objective.check_instruction(instruction)
        self._reference, self._instruction = reference, instruction
        self.observe(frame)

    def observe(self, frame: np.ndarray) -> None:
        """Set the frame that imagination starts from, (H, W, 3) uint8."""
        current = one_frame(frame)
        if self._reference is None:
            raise RoboAlignError(
                "imagination: expected reset(frame, instruction) before observe(frame), found no frame"
            )
        self._context = self.world_model.encode(current)
        features = self._context.features
        codes = self.world_model.encode_dynamics(self._reference, features)
        self._reference_latent = self.world_model.latent(codes, features)

    def score(self, actions: Array) -> Array:
        """Candidates (N, H, A) in the robot's action units → predicted progress (N,), higher is better."""
        rollout = self._imagine(actions)
        steps = rollout.tokens.shape[1]
        looks = sorted({steps - 1, 2 * steps // 3, steps // 3})
        progress = np.stack([self._progress(rollout, step) for step in looks])
        return np.average(progress, axis=0, weights=np.linspace(0.5, 1.0, len(looks))).astype(np.float32)

    def imagine(self, actions: Array) -> np.ndarray:
        """One sequence (H, A) → its imagined frames (H, height, width, 3) uint8."""
        actions = np.asarray(actions, np.float32)
        if actions.ndim != 2:
            raise RoboAlignError(f"actions: expected (frames, width), found {actions.shape}")
        return self._imagine(actions[None]).frames[0]

    def _check_fit(self) -> None:
        tokenizer, head = self.world_model.config.tokenizer, self.objective.config
        rows, columns = tokenizer.context_grid
        expected, found = (rows * columns, tokenizer.latent_width), (head.cells, head.channels)
        if expected != found:
            raise RoboAlignError(
                f"objective: expected one for this world model's features {expected} (cells, channels), found {found}"
            )

    def _progress(self, rollout: Rollout, step: int) -> Array:
        return self.objective.score(self._reference_latent, rollout.latent(step), self._instruction)

    @torch.no_grad()
    def _imagine(self, actions: Array) -> Rollout:
        if self._context is None:
            raise RoboAlignError("imagination: expected reset(frame, instruction) before any candidate, found no frame")
        actions = np.asarray(actions, np.float32)
        limit = self.world_model.config.dynamics.max_frames - 1
        if actions.ndim != 3 or 0 in actions.shape or actions.shape[1] > limit:
            raise RoboAlignError(
                f"actions: expected (candidates, 1 to {limit} frames, {self.world_model.config.action_dim}), "
                f"found {actions.shape}"
            )
        bins = self.world_model.action_bins(actions)
        imagination = Imagination(self.world_model, self._context, len(bins), self.order)
        codes = torch.stack([imagination.step(bins[:, step]) for step in range(bins.shape[1])], dim=1)
        return Rollout(self.world_model, [Segment(self._context.features, codes)])
