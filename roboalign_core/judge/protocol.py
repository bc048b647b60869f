"""What every judge takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from roboalign_core.episodes import Episode
from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import Scores


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """What is judged: a video with the instruction that it is judged by.

    Attributes:
        frames: (T, H, W, 3) uint8, T >= 2; the first one is where the robot started from.
        instruction: what the robot was to do.
        episode: the recording that the frames are, or the imagined episode, where there is one. Only a judge of states
            looks at it; frames alone do not hold them.

    Raises:
        RoboAlignError: frames of another type or shape, or no instruction.
    """

    frames: npt.NDArray[np.uint8]
    instruction: str
    episode: Episode | None = None

    def __post_init__(self) -> None:
        frames = self.frames
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
            found = f"{frames.dtype} array" if isinstance(frames, np.ndarray) else type(frames).__name__
            raise RoboAlignError(f"video: frames: expected a uint8 array, found {found}")
        if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or len(frames) < 2:
            raise RoboAlignError(f"video: frames: expected shape (T, H, W, 3), T of 2 or more, found {frames.shape}")
        if not isinstance(self.instruction, str) or not self.instruction.strip():
            raise RoboAlignError(f"video: instruction: expected text, found {self.instruction!r}")

    @classmethod
    def of(cls, episode: Episode, instruction: str = "") -> Video:
        """A recorded episode, judged by ``instruction``, or by its own where that is empty."""
        return cls(episode.frames, instruction or episode.instruction, episode)


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """What a judge says about B videos.

    Attributes:
        scores: mean over the judge's samples.
        std: (B, 6) float32, standard deviation of these samples (of n samples, divided by n - 1; 0 where there is one).
        replies: for each video the text of every sample; none of a judge that does not reply in words.

    Raises:
        RoboAlignError: the three disagree in B, or a deviation is negative or not finite.
    """

    scores: Scores
    std: npt.NDArray[np.float32]
    replies: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        std = np.asarray(self.std, np.float32)
        if std.shape != self.scores.raw.shape or len(self.replies) != len(self.scores):
            raise RoboAlignError(
                f"judgement: expected deviations {self.scores.raw.shape} and replies of {len(self.scores)} videos, "
                f"found {std.shape} and {len(self.replies)}"
            )
        if not (np.isfinite(std) & (std >= 0)).all():
            raise RoboAlignError("judgement: deviations: expected finite numbers of 0 or more, found others")
        object.__setattr__(self, "std", std)

    def __len__(self) -> int:
        """B, the number of videos."""
        return len(self.scores)


class Judge(Protocol):
    """Scores videos by the rubric (RoboAlign-R1, the teacher)."""

    @property
    def name(self) -> str:
        """Which judge this is, for people."""

    def describe(self) -> Mapping[str, Any]:
        """Everything that its judgements depend on; JSON can hold it."""

    def judge(self, videos: Sequence[Video]) -> Judgement:
        """Score B videos, in their order.

        Raises:
            RoboAlignError: a video lacks what this judge looks at, or no judgement could be had.
        """

    def score(self, videos: Sequence[npt.NDArray[np.uint8]], instructions: Sequence[str]) -> Judgement:
        """Score B videos (T, H, W, 3) uint8 of any length and size, where there are only frames.

        Raises:
            RoboAlignError: as :meth:`judge`; also where a judge needs recorded episodes.
        """
        return self.judge(pair_up(videos, instructions))


def pair_up(videos: Sequence[npt.NDArray[np.uint8]], instructions: Sequence[str]) -> list[Video]:
    """One instruction to every video.

    Raises:
        RoboAlignError: not as many of the one as of the other.
    """
    if isinstance(instructions, str) or len(videos) != len(instructions):
        found = "one text" if isinstance(instructions, str) else f"{len(instructions)} instructions"
        raise RoboAlignError(f"judge: expected one instruction for each of {len(videos)} videos, found {found}")
    return [Video(frames, instruction) for frames, instruction in zip(videos, instructions, strict=True)]
