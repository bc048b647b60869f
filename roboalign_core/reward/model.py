"""The student reward model as users hold it: load, score, save."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roboalign_core.bundled import resolve_model
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json
from roboalign_core.precision import find_device, native_dtype
from roboalign_core.reward.calibration import Calibration
from roboalign_core.reward.config import RewardModelConfig
from roboalign_core.reward.student import RewardNetwork
from roboalign_core.reward.summary import check_video, small, summarise
from roboalign_core.reward.text import tokenise
from roboalign_core.rubric import HIGHEST, KEYS, Scores
from roboalign_core.tensors import load_into, load_tensors, save_tensors

CONFIG, WEIGHTS = "config.json", "reward.safetensors"
FOLDER = "reward"  # of the student in the folder of a world model
BATCH = 64  # videos that are scored at once

Videos = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]


@dataclass(frozen=True, slots=True, eq=False)
class Predicted(Scores):
    """Scores that a model predicted.

    Attributes:
        uncertainty: (B, 6) float32, the standard error of each score, in its unit.
    """

    uncertainty: NDArray[np.float32]


class RewardModel:
    """Scores a robot video under an instruction, in the six dimensions of the rubric.

    Attributes:
        config: sizes.
        network: the network.
        calibration: from its logits to scores and standard errors.
    """

    def __init__(
        self, config: RewardModelConfig, network: RewardNetwork, calibration: Calibration | None = None
    ) -> None:
        self.config, self.network = config, network.eval()
        self.calibration = Calibration() if calibration is None else calibration

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.heads.weight.device

    # -- files ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> RewardModel:
        """Load a bundled model by name, a folder, or a hub id; of a world model, the student that lies in its folder.

        Args:
            name: a bundled name, a folder, or a hub id ``owner/name``.
            device: where to compute.
            dtype: of the weights; by default bfloat16 where the device computes it natively, else float32. The heads
                stay in float32.

        Raises:
            RoboAlignError: nothing there, or its files do not fit together.
        """
        device = find_device(device)
        folder = _find(name)
        value = read_json(folder / CONFIG)
        try:
            calibration = Calibration(**value.pop("calibration"))
        except (AttributeError, KeyError, TypeError) as error:
            raise RoboAlignError(
                f"{folder / CONFIG}: expected a reward model's settings with its calibration, found a problem: {error}"
            ) from error
        config = RewardModelConfig.from_dict(value)
        network = RewardNetwork(config)
        load_into(network, load_tensors(folder / WEIGHTS), f"{folder}/{WEIGHTS}")
        network.to(device, native_dtype(device) if dtype is None else dtype)
        network.heads.float()
        return cls(config, network, calibration)

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.bfloat16) -> None:
        """Write safetensors and config.json, each file atomically."""
        save_tensors(Path(folder) / WEIGHTS, self.network.state_dict(), dtype)
        write_json(Path(folder) / CONFIG, {**self.config.to_dict(), "calibration": asdict(self.calibration)})

    # -- scores -----------------------------------------------------------------------------------------------------

    def score(self, frames: Videos, instructions: str | Sequence[str], batch: int = BATCH) -> Predicted:
        """Score B videos.

        Args:
            frames: (B, T, H, W, 3) uint8, or B arrays (T, H, W, 3) uint8 of any lengths and sizes. Frames are resized
                (bilinear, antialiased) to ``config.size``; of videos longer than ``config.frames``, that many are
                looked at, evenly from the first to the last, and how much changes between them.
            instructions: one for each video, or one for all.
            batch: videos that are scored at once; memory grows with it.

        Raises:
            RoboAlignError: no videos, wrong shapes, another number of instructions, or one that is no sentence.
        """
        if len(frames) == 0:
            raise RoboAlignError("frames: expected at least one video, found none")
        instructions = [instructions] * len(frames) if isinstance(instructions, str) else list(instructions)
        if len(instructions) != len(frames):
            raise RoboAlignError(
                f"instructions: expected one for each of {len(frames)} videos, or one for all, "
                f"found {len(instructions)}"
            )
        if batch < 1:
            raise RoboAlignError(f"batch: expected at least 1, found {batch}")
        for number, video in enumerate(frames):
            check_video(video, f"frames of video {number}")
        text = self.encode(instructions)
        parts = []
        for start in range(0, len(frames), batch):
            rows = slice(start, start + batch)
            summaries = [self.summarise(video) for video in frames[rows]]
            parts.append(self.logits(summaries, text[rows]))
        return self.scores(torch.cat(parts, dim=1))

    def summarise(self, video: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A video (T, H, W, 3) uint8 as what the network sees of it, see :mod:`roboalign_core.reward.summary`."""
        return summarise(small(video, self.config.size), self.config.frames)

    @torch.no_grad()
    def encode(self, instructions: Sequence[str]) -> Tensor:
        """Instruction embeddings (B, width); every different instruction is encoded once."""
        different = list(dict.fromkeys(instructions))
        ids = tokenise(different, self.config.text).to(self.device)
        places = {text: place for place, text in enumerate(different)}
        encoded: Tensor = self.network.text(ids)
        return encoded[torch.tensor([places[text] for text in instructions], device=self.device)]

    @torch.no_grad()
    def logits(self, summaries: Sequence[NDArray[np.uint8]], text: Tensor) -> Tensor:
        """Logits (heads, B, 6) of B summaries and instruction embeddings; those of one length go together."""
        lengths = np.array([summary.shape[1] for summary in summaries])
        result = torch.empty(self.config.heads, len(summaries), len(KEYS), device=self.device)
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            pixels = torch.from_numpy(np.stack([summaries[row] for row in rows])).to(self.device)
            where = torch.from_numpy(rows).to(self.device)
            result[:, where] = self.network.judge(pixels, text[where])
        return result

    def scores(self, logits: Tensor) -> Predicted:
        """Calibrated scores of logits (heads, B, 6)."""
        shares, errors = self.calibration.apply(logits)
        return Predicted(shares.cpu().numpy() * HIGHEST, errors.cpu().numpy() * HIGHEST)


def _find(name: str | os.PathLike[str]) -> Path:
    """The folder with a student's files."""
    inner = Path(name) / FOLDER
    folder = inner if (inner / CONFIG).is_file() else resolve_model(name)
    folder = folder / FOLDER if (folder / FOLDER / CONFIG).is_file() else folder
    if not (folder / WEIGHTS).is_file():
        raise RoboAlignError(f"model {os.fspath(name)!r}: expected a reward model, found no {WEIGHTS} in {folder}")
    return folder
