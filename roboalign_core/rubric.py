"""The six scores of a robot video (RoboAlign-R1, RobotWorldBench), and what each step of a scale means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError


@dataclass(frozen=True, slots=True)
class Dimension:
    """One of the six dimensions.

    Attributes:
        key: its name in files and replies.
        title: its name for people.
        question: what it asks of a video.
        steps: what 0, 1, ... mean; the last step is the highest score.
    """

    key: str
    title: str
    question: str
    steps: tuple[str, ...]

    @property
    def highest(self) -> int:
        """The best score; the worst is 0."""
        return len(self.steps) - 1


DIMENSIONS: tuple[Dimension, ...] = (
    Dimension(
        "instruction_following",
        "Instruction Following",
        "Does the robot do what the instruction asks?",
        (
            "unrelated to the instruction",
            "vaguely related, but the wrong object or action",
            "the right action, incomplete or imprecise",
            "exactly what the instruction asks",
        ),
    ),
    Dimension(
        "manipulation_success",
        "Manipulation Success",
        "Is the task done by the end of the video?",
        (
            "failed: the object is where it was, or somewhere else altogether",
            "partly: the object has moved, but not to the target",
            "done",
        ),
    ),
    Dimension(
        "action_outcome_consistency",
        "Action-Outcome Consistency",
        "Does what the robot does explain what happens?",
        ("things happen without the robot, or its motion has no effect", "every outcome follows from the motion"),
    ),
    Dimension(
        "temporal_consistency",
        "Temporal Consistency",
        "Is the video smooth?",
        ("flicker, jumps or artefacts", "smooth from frame to frame"),
    ),
    Dimension(
        "contact_realism",
        "Contact Realism",
        "Are the contacts believable?",
        ("the robot passes through things, or moves them from afar", "things move when and where they are touched"),
    ),
    Dimension(
        "physics_adherence",
        "Physics Adherence",
        "Does the scene obey physics?",
        (
            "severe violations: things vanish, appear, melt or float",
            "minor violations",
            "fully plausible",
        ),
    ),
)
KEYS: tuple[str, ...] = tuple(dimension.key for dimension in DIMENSIONS)
HIGHEST: npt.NDArray[np.float32] = np.array([dimension.highest for dimension in DIMENSIONS], np.float32)
HIGHEST.setflags(write=False)
OUTCOME = 2  # of the dimensions, the first: they say what came of the task


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of B videos, checked when they are made.

    Attributes:
        raw: (B, 6) float32, column k between 0 and ``DIMENSIONS[k].highest``; in-between values are allowed (means of
            several opinions, predictions).

    Raises:
        RoboAlignError: another shape, values that are not finite, or out of range.
    """

    raw: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        raw = np.asarray(self.raw, np.float32)
        if raw.ndim != 2 or raw.shape[1] != len(DIMENSIONS):
            raise RoboAlignError(f"scores: expected shape (B, {len(DIMENSIONS)}), found {raw.shape}")
        wrong = ~((raw >= 0) & (raw <= HIGHEST))  # also where a value is NaN
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            dimension = DIMENSIONS[column]
            raise RoboAlignError(
                f"scores: {dimension.key} of video {row}: expected 0 to {dimension.highest}, found {raw[row, column]}"
            )
        object.__setattr__(self, "raw", raw)

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Scores:
        """From one mapping of the six keys for each video.

        Raises:
            RoboAlignError: a key is missing, unknown, or not a number in range.
        """
        for number, row in enumerate(rows):
            if set(row) != set(KEYS):
                raise RoboAlignError(
                    f"scores of video {number}: expected the keys {', '.join(KEYS)}, found {sorted(row)}"
                )
            for key in KEYS:
                if isinstance(row[key], bool) or not isinstance(row[key], (int, float, np.number)):
                    raise RoboAlignError(f"scores of video {number}: {key}: expected a number, found {row[key]!r}")
        return cls(np.array([[float(row[key]) for key in KEYS] for row in rows], np.float32).reshape(-1, len(KEYS)))

    @classmethod
    def perfect(cls, count: int = 1) -> Scores:
        """What a real video of a success has: the highest everywhere, 10 in all."""
        return cls(np.tile(HIGHEST, (count, 1)))

    @property
    def total(self) -> npt.NDArray[np.float32]:
        """(B,) the sum of the six, 0 to 10."""
        total: npt.NDArray[np.float32] = self.raw.sum(axis=1)
        return total

    @property
    def normalised(self) -> npt.NDArray[np.float32]:
        """(B, 6) each in [0, 1]: the scores as shares of the highest."""
        shares: npt.NDArray[np.float32] = self.raw / HIGHEST
        return shares

    def __len__(self) -> int:
        """B, the number of videos."""
        return len(self.raw)

    def rows(self) -> list[dict[str, float]]:
        """One mapping of the six keys for each video."""
        return [dict(zip(KEYS, map(float, row), strict=True)) for row in self.raw]
