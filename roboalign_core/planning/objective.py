"""What a planner maximises: progress read off hidden states, the student's opinion of the imagined video, or both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning.futures import Futures
from roboalign_core.planning.search import Array
from roboalign_core.reward.footage import Footage
from roboalign_core.reward.model import BATCH, RewardModel
from roboalign_core.reward.progress import ProgressModel
from roboalign_core.rubric import KEYS
from roboalign_core.world_model.model import WorldModel, one_frame

TASK_WEIGHTS: Mapping[str, float] = {"instruction_following": 1.0, "manipulation_success": 1.0}
JOINT_WEIGHTS: Mapping[str, float] = dict.fromkeys(KEYS, 1.0)  # beside progress: also what futures are to be believed
PAST = 2  # of the frames seen, the newest, with which the student's videos begin


class Objective(Protocol):
    """Scores candidate futures of an episode. For one episode and one thread at a time."""

    @property
    def instructions(self) -> Sequence[str]:
        """All that it can judge; empty where it takes any sentence."""

    def check_instruction(self, instruction: str) -> object:
        """Raise RoboAlignError unless this is an instruction that the objective can judge."""

    def reset(self, frame: np.ndarray, instruction: str) -> None:
        """Begin an episode with its first frame (H, W, 3) uint8.

        Raises:
            RoboAlignError: the frame is no image, or see :meth:`check_instruction`; nothing has changed then.
        """

    def observe(self, frame: np.ndarray) -> None:
        """The next frame of the episode, (H, W, 3) uint8. Candidates start from the newest one.

        Raises:
            RoboAlignError: the frame is no image.
        """

    def score(self, futures: Futures) -> Array:
        """Scores (N,) of N candidates, higher is better."""


class ProgressObjective:
    """Progress since the first frame, read off the transformer's hidden states: no pixel is drawn.

    Half the progress at the end, half its mean on the way: of two ways to the same end the quicker one wins.

    Time is saved as in successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943): after a third and two thirds
    of the way some of the candidates, those that are behind, are left there. Their score is what they had reached, or
    the lowest of those that went on where that is less.

    Args:
        world_model: what imagines.
        model: the head.
        finishers: share of the candidates that are imagined to the end, and half way between it and 1 the share that is
            beyond a third of the way; 1: all.

    Raises:
        RoboAlignError: the head was made for another world model, or a share that is not above 0 and at most 1.
    """

    def __init__(self, world_model: WorldModel, model: ProgressModel, finishers: float = 1.0) -> None:
        _check_fit(world_model, model)
        check_finishers(finishers)
        self._world_model, self.model, self._finishers = world_model, model, finishers
        self._first: Tensor | None = None  # context features of the first frame
        self._instruction = ""

    @property
    def instructions(self) -> Sequence[str]:
        """Those that the head was trained on."""
        return self.model.config.instructions

    def check_instruction(self, instruction: str) -> int:
        """See :meth:`roboalign_core.reward.progress.ProgressModel.check_instruction`."""
        return self.model.check_instruction(instruction)

    def reset(self, frame: np.ndarray, instruction: str) -> None:
        """See :class:`Objective`."""
        first = one_frame(frame)
        self.check_instruction(instruction)
        self._first, self._instruction = self._world_model.encode(first).features.latent, instruction

    def observe(self, frame: np.ndarray) -> None:
        """Progress depends on the first frame and on the futures alone."""

    def score(self, futures: Futures) -> Array:
        """See :class:`Objective`; in [0, 1] for the most part."""
        scores = np.full(len(futures), np.inf, np.float32)
        for third, share in enumerate(((1 + self._finishers) / 2, self._finishers), start=1):
            steps, many = round(third * futures.horizon / 3), math.ceil(len(futures) * share)
            if steps and many < len(futures.rows):
                reached = self._value(futures.expected(steps))
                scores[futures.rows] = reached
                futures.keep(np.argsort(-reached, kind="stable")[:many])
        finished = self._value(futures.expected())
        scores = np.minimum(scores, finished.min())
        scores[futures.rows] = finished
        return scores

    def _value(self, expected: Tensor) -> Array:
        """Scores (K,) of futures as far as they are imagined, (K, T, dim)."""
        if self._first is None:
            raise _unreset()
        progress = self.model.score(self._first, expected, self._instruction)
        return np.asarray(0.5 * (progress[:, -1] + progress.mean(1)), np.float32)


class StudentObjective:
    """The student reward model's opinion of videos: what was seen, and what was imagined to follow.

    A score is the mean of the student's dimensions as shares of their highest scores, by weight, so in [0, 1].

    Args:
        model: the student.
        weights: of dimensions by their keys; those left out count nothing.
        past: frames seen, the newest, that a video begins with; 0: the whole episode. The student looks at a few
            frames, spread evenly, so the more past it is shown, the less it sees of what candidates differ in.

    Raises:
        RoboAlignError: weights that are none, or a past below 0.
    """

    def __init__(self, model: RewardModel, weights: Mapping[str, float] = TASK_WEIGHTS, past: int = PAST) -> None:
        check_student(weights, past)
        self.model, self._past = model, past
        self._weights = np.array([weights.get(key, 0.0) for key in KEYS], np.float32) / sum(weights.values())
        self._footage = self._nothing()
        self._text: Tensor | None = None  # of the instruction, (1, W)

    @property
    def instructions(self) -> Sequence[str]:
        """Empty: it takes any sentence."""
        return ()

    def check_instruction(self, instruction: str) -> Tensor:
        """The embedding (1, W) of any sentence; raises RoboAlignError where it is none, or too long."""
        return self.model.encode([instruction])

    def reset(self, frame: np.ndarray, instruction: str) -> None:
        """See :class:`Objective`."""
        text, footage = self.check_instruction(instruction), self._nothing()
        footage.add(frame)
        self._text, self._footage = text, footage

    def observe(self, frame: np.ndarray) -> None:
        """See :class:`Objective`."""
        self._footage.add(frame)

    def score(self, futures: Futures) -> Array:
        """See :class:`Objective`."""
        return self.score_some(futures, np.arange(len(futures)))

    def score_some(self, futures: Futures, rows: np.ndarray) -> Array:
        """Scores (K,) of the candidates ``rows`` (K,); no others are drawn."""
        if self._text is None:
            raise _unreset()
        blocks = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        return np.concatenate([self._block(futures, block, self._text) for block in blocks])

    def _block(self, futures: Futures, rows: np.ndarray, text: Tensor) -> Array:
        summaries = self._footage.continued(futures.frames(rows))
        scores = self.model.scores(self.model.logits(list(summaries), text.expand(len(rows), -1)))
        return np.asarray(scores.normalised @ self._weights, np.float32)

    def _nothing(self) -> Footage:
        return Footage(self.model.config.size, self.model.config.frames, self._past)


class JointObjective:
    """Progress for all candidates, and the student's opinion of the best of them: two judges, who see different things.

    A score is ``progress + worth · student`` for the ``finalists`` best by progress, and progress alone for the others,
    which are not drawn; nor are those that are more than ``worth`` behind the best, which no opinion could bring
    to the top.

    Args:
        progress, student: the two.
        worth: progress that the student's best opinion counts as.
        finalists: candidates of a batch that are shown to the student, at most.

    Raises:
        RoboAlignError: a worth below 0, or no finalist.
    """

    def __init__(self, progress: ProgressObjective, student: StudentObjective, worth: float, finalists: int) -> None:
        check_joint(worth, finalists)
        self.progress, self.student = progress, student
        self._worth, self._finalists = worth, finalists

    @property
    def instructions(self) -> Sequence[str]:
        """Those of the progress head."""
        return self.progress.instructions

    def check_instruction(self, instruction: str) -> None:
        """Both judges have to understand it."""
        self.progress.check_instruction(instruction)
        self.student.check_instruction(instruction)

    def reset(self, frame: np.ndarray, instruction: str) -> None:
        """See :class:`Objective`."""
        self.check_instruction(instruction)
        self.progress.reset(frame, instruction)
        self.student.reset(frame, instruction)

    def observe(self, frame: np.ndarray) -> None:
        """See :class:`Objective`."""
        self.progress.observe(frame)
        self.student.observe(frame)

    def score(self, futures: Futures) -> Array:
        """See :class:`Objective`."""
        scores = self.progress.score(futures)
        best = futures.rows[np.argsort(-scores[futures.rows], kind="stable")[: self._finalists]]
        best = best[scores[best] >= scores[best[0]] - self._worth]
        scores[best] += self._worth * self.student.score_some(futures, best)
        return scores


def as_objective(world_model: WorldModel, judge: ProgressModel | RewardModel | Objective) -> Objective:
    """A model as the objective that it makes with its usual settings; an objective as it is.

    Raises:
        RoboAlignError: a progress head that was made for another world model.
    """
    if isinstance(judge, ProgressModel):
        return ProgressObjective(world_model, judge)
    return StudentObjective(judge) if isinstance(judge, RewardModel) else judge


def check_student(weights: Mapping[str, float], past: int) -> None:
    """Raise RoboAlignError unless these are weights of the student's dimensions, not all 0, and a number of frames."""
    unknown = sorted(set(weights) - set(KEYS))
    if unknown:
        raise RoboAlignError(f"objective weights: expected keys of {', '.join(KEYS)}, found {', '.join(unknown)}")
    values = np.array(list(weights.values()), np.float64)
    if not np.isfinite(values).all() or (values < 0).any() or not values.sum() > 0:
        raise RoboAlignError(
            f"objective weights: expected finite numbers of 0 or more, one of them above 0, found {dict(weights)}"
        )
    if past < 0:
        raise RoboAlignError(f"objective past: expected a number of 0 or more, found {past}")


def check_finishers(finishers: float) -> None:
    """Raise RoboAlignError unless this is a share above 0 and at most 1."""
    if not 0 < finishers <= 1:
        raise RoboAlignError(f"objective finishers: expected a share above 0 and at most 1, found {finishers}")


def check_joint(worth: float, finalists: int) -> None:
    """Raise RoboAlignError unless the worth is a number of 0 or more and there is a finalist."""
    if not 0 <= worth < np.inf:
        raise RoboAlignError(f"objective worth: expected a finite number of 0 or more, found {worth}")
    if finalists < 1:
        raise RoboAlignError(f"objective finalists: expected at least 1, found {finalists}")


def _check_fit(world_model: WorldModel, model: ProgressModel) -> None:
    config, head = world_model.config, model.config
    expected = (config.layout.context_tokens, config.tokenizer.latent_width, config.dynamics.dim)
    found = (head.cells, head.channels, head.dim)
    if expected != found:
        raise RoboAlignError(
            f"objective: expected one for this world model's {expected} (cells, channels, dim), found {found}"
        )


def _unreset() -> RoboAlignError:
    return RoboAlignError("objective: expected reset(frame, instruction) before any candidate, found no episode")
