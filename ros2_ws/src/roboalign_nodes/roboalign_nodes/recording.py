"""What the demo keeps of an episode, and what is computed from it. No ROS here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import mean

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.metrics import psnr

Frame = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """A plan that the robot got.

    Attributes:
        step: control step that it starts from.
        frames: (H, H, W, 3) uint8, what the world model expected after each action; (0, ...) if nothing was imagined.
        score: expected score, NaN if nothing was scored.
        replan_ms: milliseconds that choosing it took.
    """

    step: int
    frames: Frame
    score: float
    replan_ms: float


@dataclass(slots=True)
class EpisodeRecord:
    """One closed-loop episode."""

    episode: int
    instruction: str
    policy: str
    seed: int
    success: bool = False
    steps: int = 0
    progress: float = float("nan")
    seconds: float = 0.0
    frames: dict[int, Frame] = field(default_factory=dict)  # by control step; a lost frame is absent
    plans: list[PlanRecord] = field(default_factory=list)

    def imagined(self) -> Iterator[tuple[int, int, Frame]]:
        """``(control step, steps of look-ahead, frame)`` for every executed action, from the plan that it came from."""
        ordered = sorted(self.plans, key=lambda plan: plan.step)
        ends = [plan.step for plan in ordered[1:]] + [self.steps]
        for plan, end in zip(ordered, ends, strict=True):
            for ahead in range(1, min(end - plan.step, len(plan.frames)) + 1):
                yield plan.step + ahead, ahead, plan.frames[ahead - 1]


@dataclass(frozen=True, slots=True)
class LookAhead:
    """How well imagined frames match the real ones, ``ahead`` steps after the frame that the plan was made from."""

    ahead: int
    imagined_db: float  # PSNR
    copy_db: float  # PSNR of the frame that the plan was made from, repeated
    frames: int


def look_ahead(records: Iterable[EpisodeRecord]) -> list[LookAhead]:
    """Imagined against real frames, by steps of look-ahead; frames of another size than the camera's are left out."""
    imagined_db: dict[int, list[float]] = {}
    copy_db: dict[int, list[float]] = {}
    for record in records:
        for step, ahead, frame in record.imagined():
            real, start = record.frames.get(step), record.frames.get(step - ahead)
            if real is None or start is None or real.shape != frame.shape:
                continue
            imagined_db.setdefault(ahead, []).append(float(psnr(frame, real)))
            copy_db.setdefault(ahead, []).append(float(psnr(start, real)))
    return [
        LookAhead(ahead, mean(values), mean(copy_db[ahead]), len(values))
        for ahead, values in sorted(imagined_db.items())
    ]


def imagined_and_real(record: EpisodeRecord) -> tuple[Frame, Frame]:
    """The episode as two videos, both (T, H, W, 3) uint8 of the camera's size: what was imagined, what happened.

    The first frame, which nobody had to imagine, is real in both. A frame that was lost or not imagined is black.

    Raises:
        RoboAlignError: not a single camera frame was recorded.
    """
    if not record.frames:
        raise RoboAlignError(f"episode {record.episode}: expected recorded camera frames, found none")
    shape = next(iter(record.frames.values())).shape
    imagined = {step: frame for step, _, frame in record.imagined()}
    if 0 in record.frames:
        imagined.setdefault(0, record.frames[0])
    steps = range(record.steps + 1)
    black = np.zeros(shape, np.uint8)
    return (
        np.stack([_enlarged(imagined.get(step, black), shape) for step in steps]),
        np.stack([record.frames.get(step, black) for step in steps]),
    )


def _enlarged(frame: Frame, shape: tuple[int, ...]) -> Frame:
    """The frame at another size, by nearest neighbour, so that its pixels can be seen."""
    rows = np.arange(shape[0]) * frame.shape[0] // shape[0]
    columns = np.arange(shape[1]) * frame.shape[1] // shape[1]
    return frame[rows][:, columns]
