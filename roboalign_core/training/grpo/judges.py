"""Rewards by other models: the distilled student, and states that the probe reads from imagined frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.positions import read_states
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.evaluation.probed import ProbedOracle
from roboalign_core.rubric import KEYS, Scores
from roboalign_core.training.grpo.rewards import Array, Frames


class VideoScorer(Protocol):
    """What is asked of a student (or of any other judge of videos)."""

    def score(self, frames: Frames, instructions: Sequence[str]) -> Scores:
        """Videos (N, T, H, W, 3) uint8 and N instructions → their scores."""


class StudentReward:
    """The six scores of the imagined video, its real first frame included, in the rubric's units."""

    names = KEYS

    def __init__(self, student: VideoScorer) -> None:
        self.student = student

    def __call__(
        self, imagined: Frames, recorded: Frames, instructions: Sequence[str], actions: NDArray[np.float32]
    ) -> Mapping[str, NDArray[Any]]:
        """See :class:`~roboalign_core.training.grpo.rewards.Reward`."""
        raw = self.student.score(imagined, instructions).raw
        return {key: raw[:, index] for index, key in enumerate(KEYS)}


class OracleReward:
    """A simulator's rules on what a probe reads from the imagined frames, in the rubric's units: an upper bound.

    Only where an oracle knows the source of the recordings; no robot has one.
    """

    names = tuple(f"oracle_{key}" for key in KEYS)

    def __init__(self, oracle: ProbedOracle) -> None:
        self._oracle = oracle

    def __call__(
        self, imagined: Frames, recorded: Frames, instructions: Sequence[str], actions: NDArray[np.float32]
    ) -> Mapping[str, NDArray[Any]]:
        """See :class:`~roboalign_core.training.grpo.rewards.Reward`."""
        states = read_states(self._oracle.probe, imagined)
        rows = zip(states, imagined, actions, instructions, strict=True)
        return dict(zip(self.names, np.stack([self._oracle.score_read(*row) for row in rows]).T, strict=True))


class PositionReward:
    """Minus how far things are from where they are in the recorded frames, as the probe reads both.

    Of each frame the mean absolute difference over all columns, in their unit.
    """

    names = ("positions",)

    def __init__(self, probe: StateProbe) -> None:
        self._probe = probe

    def __call__(
        self, imagined: Frames, recorded: Frames, instructions: Sequence[str], actions: NDArray[np.float32]
    ) -> Mapping[str, Array]:
        """See :class:`~roboalign_core.training.grpo.rewards.Reward`."""
        first = np.array(
            [row == 0 or not np.array_equal(recorded[row], recorded[row - 1]) for row in range(len(recorded))]
        )
        really = read_states(self._probe, recorded[first, 1:])[first.cumsum() - 1]  # once for all futures of a window
        return {"positions": -np.abs(read_states(self._probe, imagined[:, 1:]) - really).mean(axis=2)}


def load_student(name: str, device: str) -> VideoScorer:
    """The distilled student by that name or in that folder.

    Raises:
        RoboAlignError: there is none, or this version of the package has no class for it.
    """
    import roboalign_core.reward as models

    kind = getattr(models, "RewardModel", None)
    if kind is None:
        raise RoboAlignError("reward 'student': expected roboalign_core.reward.RewardModel, which this version lacks")
    student: VideoScorer = kind.from_pretrained(name, device)
    return student
