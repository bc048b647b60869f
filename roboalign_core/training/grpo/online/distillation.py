"""Lessons along the way: the teacher scores fresh rollouts, the gap is measured, the student learns."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import write_json
from roboalign_core.judge.opinions import opinions
from roboalign_core.judge.oracle import OracleJudge
from roboalign_core.judge.parser import ReplyError
from roboalign_core.judge.protocol import Judge, Video
from roboalign_core.reward.model import FOLDER
from roboalign_core.rubric import KEYS, Scores
from roboalign_core.training.grpo.imagination import Futures
from roboalign_core.training.grpo.online.config import OnlineConfig
from roboalign_core.training.grpo.online.drift import drift
from roboalign_core.training.grpo.online.replay import Replay, Rollout, rollouts
from roboalign_core.training.grpo.online.student import Student
from roboalign_core.training.grpo.rewards import Array
from roboalign_core.training.grpo.watch import Guard

logger = logging.getLogger(__name__)

PROVENANCE = "provenance.json"  # beside the student's weights


class Distillation:
    """Online distillation of a teacher into the student that the policy is trained with (RoboAlign-R1, A3).

    Attributes:
        identity: what a resumed run must find again: the teacher, the benchmark, the student at the start.
    """

    def __init__(
        self,
        config: OnlineConfig,
        teacher: Judge,
        student: Student,
        replay: Replay,
        identity: Mapping[str, Any],
        seed: int,
    ) -> None:
        self.config, self.identity = config, identity
        self._teacher, self._student, self._replay = teacher, student, replay
        self._random = np.random.default_rng([seed, 3])
        self._lessons = 0
        self._figures: dict[str, float] = {}

    def lesson(self, step: int, futures: Futures, scores: Mapping[str, Array], guard: Guard) -> None:
        """Ask the teacher about some futures, compare, keep, teach.

        Args:
            step: of the policy, from 0.
            futures: N, just imagined.
            scores: (N,) of each dimension, by the student as it is.
            guard: ends training after too many alarms in a row.

        Raises:
            RoboAlignError: the teacher failed or its budget is spent. Nothing was changed.
        """
        rows = self._choose(len(futures.prompts), futures.groups.size)
        found = rollouts(futures, rows.tolist())
        try:
            places, teacher = self._ask(found)
        except RoboAlignError as error:
            raise RoboAlignError(
                f"stage.online, lesson at step {step}: {error}; the same command goes on at the newest checkpoint"
            ) from error
        found, rows = [found[place] for place in places], rows[places]
        student = Scores(np.stack([scores[key][rows] for key in KEYS], axis=1).astype(np.float32))
        self._figures = {**drift(student, teacher), "drift_step": float(step)}
        self._replay.add(step, found, student, teacher, self._labeller)
        self._figures |= self._student.refresh()
        after = self._student.scorer.score(
            [rollout.episode.frames for rollout in found], [rollout.episode.instruction for rollout in found]
        )
        self._figures |= {
            "drift_total_after": drift(after, teacher)["drift_total"],
            "rollouts_judged": float(len(self._replay)),
        }
        self._lessons += 1
        self._watch(step, guard)

    def _choose(self, windows: int, group: int) -> NDArray[np.int64]:
        """Rows of futures, of as many windows as can be."""
        order = self._random.random((windows, group)).argsort(axis=1) + group * np.arange(windows)[:, None]
        return np.sort(self._random.permutation(order).T.flatten()[: self.config.rollouts])

    def _ask(self, found: Sequence[Rollout]) -> tuple[list[int], Scores]:
        """Places of the rollouts that the teacher has scored, and its scores."""
        videos = [Video(each.episode.frames, each.episode.instruction, each.episode) for each in found]
        places: list[int] = []
        raw, failures = [], []
        for some, said in opinions(self._teacher, videos):
            if isinstance(said, ReplyError):
                failures.append(said)
            else:
                places += some
                raw.append(said.scores.raw)
            if len(failures) > self.config.unjudged:
                raise RoboAlignError(
                    f"expected at most unjudged={self.config.unjudged} rollouts without scores, "
                    f"found {len(failures)}; {failures[0]}"
                )
        for failure in failures:
            logger.warning("a rollout is left out: %s", failure)
        return places, Scores(np.concatenate(raw))

    @property
    def _labeller(self) -> str:
        return "oracle" if isinstance(self._teacher, OracleJudge) else f"judge:{self._teacher.name}"

    def _watch(self, step: int, guard: Guard) -> None:
        gap, limit, patience = self._figures["drift_total"], self.config.alarm, self.config.patience
        row = guard.check(step, "drift_total", gap, limit, patience)
        if row:
            logger.warning(
                "drift alarm at step %d: student and teacher are %.3g of 10 points apart on fresh rollouts "
                "(stage.online.alarm %g), lesson %d of %d in a row before training ends",
                *(step, gap, limit, row, patience),
            )

    # -- what the stage asks for ------------------------------------------------------------------------------------

    def figures(self) -> Mapping[str, float]:
        """Of the newest lesson."""
        return self._figures

    def state(self) -> dict[str, Any]:
        """JSON state of the draws, the student, and how many rollouts there are."""
        return {
            "random": self._random.bit_generator.state,
            "lessons": self._lessons,
            "figures": self._figures,
            "rollouts": len(self._replay),
            "student": self._student.state(),
        }

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """The student's weights and moments."""
        return self._student.tensors()

    def load_tensors(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inverse of :meth:`tensors`, before :meth:`load_state`."""
        self._student.load_tensors(tensors)

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state`; rollouts of later lessons are removed.

        Raises:
            RoboAlignError: rollouts are missing or damaged.
        """
        self._random.bit_generator.state = state["random"]
        self._lessons, self._figures = state["lessons"], dict(state["figures"])
        self._replay.load(state["rollouts"])
        self._student.load_state(state["student"])

    def export(self, folder: Path) -> None:
        """The student as it was taught last, and what it was taught."""
        self._student.export(folder)
        about = {
            **self.identity,
            "lessons": self._lessons,
            "rollouts": len(self._replay),
            "steps": self._lessons * self.config.steps,
            "share": self.config.share,
            **self._figures,
        }
        write_json(folder / FOLDER / PROVENANCE, about)
