"""What a planner asks of a world model: how good would these actions be from here?"""

from __future__ import annotations

import numpy as np
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning.search import Array
from roboalign_core.reward.progress import ProgressModel
from roboalign_core.world_model.model import WorldModel, one_frame
from roboalign_core.world_model.rollout import Context, Imagination, Order, roll


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
        self._batch: int | None = None  # candidates at once; set where all did not fit into memory

    def reset(self, frame: np.ndarray, instruction: str) -> None:
        """Begin an episode.

        Args:
            frame: (H, W, 3) uint8, the camera's first frame.
            instruction: the task, one of those that the objective knows.

        Raises:
            RoboAlignError: the frame is no uint8 image, or the objective does not know the instruction.
        """
        current = one_frame(frame)
        self.objective.check_instruction(instruction)
        self._context = self.world_model.encode(current)
        self._reference, self._instruction = self._context.features.latent, instruction

    def observe(self, frame: np.ndarray) -> None:
        """Set the frame that imagination starts from, (H, W, 3) uint8."""
        current = one_frame(frame)
        if self._reference is None:
            raise RoboAlignError(
                "imagination: expected reset(frame, instruction) before observe(frame), found no frame"
            )
        self._context = self.world_model.encode(current)

    def score(self, actions: Array) -> Array:
        """Candidates (N, H, A) in the robot's action units → scores (N,), higher is better.

        Half the progress at the end, half its mean on the way: of two ways to the same end the quicker one wins. Where
        memory does not suffice for all at once, they are imagined in parts, then and from then on.
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
        expected = self._expected(actions)
        reference = self._reference
        if reference is None:
            raise RoboAlignError("imagination: expected reset(frame, instruction) before any candidate, found no frame")
        progress = self.objective.score(reference, expected, self._instruction)
        return (0.5 * (progress[:, -1] + progress.mean(1))).astype(np.float32)

    @torch.no_grad()
    def imagine(self, actions: Array) -> np.ndarray:
        """One sequence (H, A) → its imagined frames (H, height, width, 3) uint8."""
        actions = np.asarray(actions, np.float32)
        if actions.ndim != 2:
            raise RoboAlignError(f"actions: expected (frames, width), found {actions.shape}")
        context, bins = self._prepare(actions[None])
        return roll(self.world_model, context, bins, "plain", self.world_model.config.window, self.order).frames[0]

    def _check_fit(self) -> None:
        config, head = self.world_model.config, self.objective.config
        rows, columns = config.tokenizer.context_grid
        expected = (rows * columns, config.tokenizer.latent_width, config.dynamics.dim)
        found = (head.cells, head.channels, head.dim)
        if expected != found:
            raise RoboAlignError(
                f"objective: expected one for this world model's {expected} (cells, channels, dim), found {found}"
            )

    @torch.no_grad()
    def _expected(self, actions: Array) -> torch.Tensor:
        """Hidden states (N, H, dim) of the imagined frames; the last one is not drawn."""
        context, bins = self._prepare(actions)
        imagination = Imagination(self.world_model, context, len(bins), self.order, limit=bins.shape[1])
        expected = []
        for step in range(bins.shape[1]):
            if step:
                imagination.draw()
            imagination.act(bins[:, step])
            expected.append(imagination.expected)
        return torch.stack(expected, dim=1)

    def _prepare(self, actions: Array) -> tuple[Context, torch.Tensor]:
        """The current frame as context, and candidates (N, H, A) as bins."""
        if self._context is None:
            raise RoboAlignError("imagination: expected reset(frame, instruction) before any candidate, found no frame")
        actions = np.asarray(actions, np.float32)
        limit = self.world_model.config.dynamics.max_frames - 1
        if actions.ndim != 3 or 0 in actions.shape or actions.shape[1] > limit:
            raise RoboAlignError(
                f"actions: expected (candidates, 1 to {limit} frames, {self.world_model.config.action_dim}), "
                f"found {actions.shape}"
            )
        return self._context, self.world_model.action_bins(actions)


def _out_of_memory(error: Exception) -> bool:
    """Whether memory ran short: of a GPU, of Python, or of torch's CPU allocator, which has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)
