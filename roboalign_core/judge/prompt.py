"""What a judge is asked: the rubric, the instruction, where the robot started, and the video."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.frames import shown_frames
from roboalign_core.judge.protocol import Video
from roboalign_core.rubric import DIMENSIONS, Dimension

VERSION = 1  # of the wording; another one makes other judgements, and an adapter is trained on one
Part = str | npt.NDArray[np.uint8]  # a passage of text, or an image (H, W, 3)


@dataclass
class PromptConfig:
    """What of a video is shown.

    Attributes:
        frames: frames shown at most, the first one included; see :func:`roboalign_core.judge.frames.sample_indices`.
        side: shorter side of the shown frames, in pixels; 0: as they are.
    """

    frames: int = 16
    side: int = 256

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise RoboAlignError(f"judge prompt: frames: expected at least 2, found {self.frames}")
        if self.side < 0 or 0 < self.side < 16:
            raise RoboAlignError(f"judge prompt: side: expected 0 or at least 16 pixels, found {self.side}")


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One question: text and images in the order in which the judge reads them."""

    parts: tuple[Part, ...]

    @property
    def images(self) -> list[npt.NDArray[np.uint8]]:
        """The images, in order."""
        return [part for part in self.parts if not isinstance(part, str)]

    def digest(self) -> str:
        """SHA-256 of the wording and of every pixel."""
        digest = hashlib.sha256(f"prompt {VERSION}".encode())
        for part in self.parts:
            content = part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes()
            shape = "text" if isinstance(part, str) else str(part.shape)
            digest.update(f"\n{shape} {len(content)}\n".encode() + content)
        return digest.hexdigest()


def build_prompt(video: Video, config: PromptConfig) -> Prompt:
    """The question about one video."""
    frames = shown_frames(video.frames, config.frames, config.side)
    parts: list[Part] = [_opening(video, len(frames)), frames[0]]
    for number, frame in enumerate(frames[1:], start=1):
        parts += [f"\nFrame {number} of {len(frames) - 1}:\n", frame]
    return Prompt((*parts, _closing()))


def _opening(video: Video, shown: int) -> str:
    left_out = f" (evenly spaced, out of {len(video.frames) - 1})" if shown < len(video.frames) else ""
    return "\n".join(
        [
            "You are checking a video of a robot arm. It may be a recording, a damaged recording, or the invention of",
            "a model that was given the initial frame and the instruction. Rate what the frames show, not what was",
            "meant to happen; where you are not sure that something happened, it did not.",
            "",
            f"Instruction to the robot: {json.dumps(video.instruction, ensure_ascii=False)}",
            "",
            "Rate six things, each on its own scale:",
            *(_scale(dimension) for dimension in DIMENSIONS),
            "",
            f"Below are the initial frame and then {shown - 1} frames of the video in order{left_out}.",
            "",
            "Initial frame:\n",
        ]
    )


def _scale(dimension: Dimension) -> str:
    steps = "; ".join(f"{score} = {meaning}" for score, meaning in enumerate(dimension.steps))
    return f"- {dimension.key}: {dimension.question} {steps}."


def _closing() -> str:
    keys: Sequence[str] = [f'"{dimension.key}": <0 to {dimension.highest}>' for dimension in DIMENSIONS]
    return "\n".join(
        [
            "\n",
            "First think it through: what moves from frame to frame, what touches what, how things lie at the end.",
            "Then finish with exactly one JSON object and nothing after it, numbers only as scores:",
            '{"reasoning": "<one or two sentences>", ' + ", ".join(keys) + "}",
        ]
    )
