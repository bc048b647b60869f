"""How many videos a second the student scores, and how that compares with a teacher on the same machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from roboalign_core.benchmarks.teacher import Teacher, time_teacher
from roboalign_core.benchmarks.timing import timed
from roboalign_core.judge.frames import shown_frames
from roboalign_core.judge.protocol import Video
from roboalign_core.precision import find_device, native_dtype
from roboalign_core.reward.config import RewardModelConfig
from roboalign_core.reward.model import RewardModel
from roboalign_core.reward.student import RewardNetwork

_INSTRUCTION = "push the red cube left"


def random_student(config: RewardModelConfig, device: str, seed: int) -> RewardModel:
    """A student of a size with random weights, in the number format of a loaded one; as fast as a trained one."""
    where = find_device(device)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        network = RewardNetwork(config).to(where, native_dtype(where))
    network.heads.float()
    return RewardModel(config, network)


def rate(model: RewardModel, counts: list[int], frames: int, repeats: int, seed: int) -> Mapping[str, Any]:
    """Time scoring of ``counts`` videos at once, of ``frames`` frames at the student's own size.

    Args:
        model: the student.
        counts: how many videos at once; the last one gives ``student_videos_per_s``.
        frames: a video.
        repeats: after a call that warms up.
        seed: of the videos.
    """
    random = np.random.default_rng(seed)
    videos = random.integers(0, 256, (max(counts), frames, *model.config.size, 3), dtype=np.uint8)
    parameters = sum(p.numel() for p in model.network.parameters())
    figures: dict[str, Any] = {"frames": frames, "student_parameters": parameters, "threads": torch.get_num_threads()}
    for count in counts:
        timing = timed(lambda: model.score(videos[:count], _INSTRUCTION), repeats, model.device)  # noqa: B023 - now
        figures[f"student_n{count}_ms"] = timing.median * 1000
        figures[f"student_n{count}_ms_q25"], figures[f"student_n{count}_ms_q75"] = timing.low * 1000, timing.high * 1000
        figures[f"student_n{count}_videos_per_s"] = count / timing.median
    figures["student_videos_per_s"] = counts[-1] / timing.median
    return figures


def beside_teacher(model: RewardModel, teacher: Teacher, repeats: int, seed: int) -> Mapping[str, Any]:
    """Time both on one video alone, made of the very frames that the teacher is shown.

    Args:
        model: the student; it is timed before and after the teacher, so that a machine that slows down shows.
        teacher: by its own settings.
        repeats: of the student, after a call that warms up.
        seed: of the video.

    Returns:
        ``student_over_teacher``: how many times faster the student is; ``student_shown_ms`` and the teacher's figures.
    """
    shown = teacher.config.shown
    frames = np.random.default_rng(seed).integers(0, 256, (shown.frames, *model.config.size, 3), dtype=np.uint8)
    video = Video(shown_frames(frames, shown.frames, shown.side), _INSTRUCTION)

    def student() -> float:
        return timed(lambda: model.score([video.frames], _INSTRUCTION), repeats, model.device).median

    before, figures, after = student(), time_teacher(teacher, video), student()
    seconds = (before + after) / 2
    return {
        **figures,
        "student_shown_ms": seconds * 1000,
        "student_over_teacher": 1 / (seconds * figures["teacher_videos_per_s"]),
    }
