"""``roboalign score``: the six scores of videos, by the student."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import MISSING

from roboalign_core.episodes.video import decode
from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.model import Predicted, RewardModel
from roboalign_core.reward.summary import small
from roboalign_core.rubric import DIMENSIONS, KEYS
from roboalign_core.verb import Verb

_BLOCK = 64  # frames that are decoded before they are resized
_BAR = 24  # characters of a full bar


@dataclass
class ScoreConfig:
    """Settings; ``configs/score.yaml`` explains each."""

    videos: list[str] = field(default_factory=list)
    instruction: str = MISSING
    reward: str = "tabletop"
    out: str = ""
    device: str = "cpu"


def run(config: ScoreConfig) -> Mapping[str, Any]:
    """Score videos under one instruction; the flat figures are means over them."""
    paths = config.videos
    if not paths:
        raise RoboAlignError("score: expected videos, found none; say roboalign score a.mp4 b.mp4 instruction=TEXT")
    model = RewardModel.from_pretrained(config.reward, config.device)
    frames = [read_video(path, model.config.size) for path in paths]
    scores = model.score(frames, config.instruction)
    _show(paths, config.instruction, scores)
    rows = zip(paths, scores.rows(), scores.total.tolist(), scores.uncertainty.tolist(), strict=True)
    detail = [
        {"video": path, **row, "total": total, "uncertainty": dict(zip(KEYS, unsure, strict=True))}
        for path, row, total, unsure in rows
    ]
    means = dict(zip(KEYS, map(float, scores.raw.mean(0)), strict=True))
    return {**means, "total": float(scores.total.mean()), "videos": len(paths), "detail": {"rows": detail}}


def read_video(path: str | os.PathLike[str], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A video file as (T, H, W, 3) uint8 at the size (H, W); large frames are not all held at once.

    Raises:
        RoboAlignError: the file is absent, no video, damaged, or holds no frame.
    """
    frames = decode(path)
    blocks = []
    while block := list(islice(frames, _BLOCK)):
        blocks.append(small(np.stack(block), size))
    if not blocks:
        raise RoboAlignError(f"{path}: expected a video with frames, found none")
    return np.concatenate(blocks)


def _show(paths: list[str], instruction: str, scores: Predicted) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for row, path in enumerate(paths):
        title = Text(f"{path}: “{instruction}”, {scores.total[row]:.1f} of 10")
        table = Table(title=title, show_header=False, title_justify="left")
        for k, dimension in enumerate(DIMENSIONS):
            score, error = scores.raw[row, k], scores.uncertainty[row, k]
            table.add_row(
                dimension.title,
                _bar(score / dimension.highest),
                f"{score:.2f} ± {error:.2f}",
                f"of {dimension.highest}",
            )
        console.print(table)


def _bar(share: float) -> str:
    full = round(_BAR * share)
    return "█" * full + "░" * (_BAR - full)


VERB = Verb("score", "scores videos under an instruction in the six dimensions", ScoreConfig, run, positional="videos")
