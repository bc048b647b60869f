"""How many videos a second the student scores, and how that compares with its teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.benchmarks.timing import timed
from roboalign_core.reward.model import RewardModel

Teacher = Callable[[Sequence[NDArray[np.uint8]], Sequence[str]], object]
_INSTRUCTION = "push the red cube left"


def rate(
    name: str,
    counts: list[int],
    frames: int,
    repeats: int,
    seed: int,
    device: str,
    teacher: Teacher | None = None,
) -> Mapping[str, Any]:
    """Time scoring of ``counts`` videos at once, of ``frames`` frames at the student's own size.

    Args:
        name: the student.
        counts: how many videos at once; the last one gives ``student_videos_per_s``.
        frames: a video.
        repeats: after a call that warms up.
        seed: of the videos.
        device: of the student.
        teacher: scores videos under their instructions; it is given one video at a time. Left out where None.
    """
    model = RewardModel.from_pretrained(name, device)
    random = np.random.default_rng(seed)
    videos = random.integers(0, 256, (max(counts), frames, *model.config.size, 3), dtype=np.uint8)
    figures: dict[str, Any] = {"frames": frames, "parameters": sum(p.numel() for p in model.network.parameters())}
    for count in counts:
        timing = timed(lambda: model.score(videos[:count], _INSTRUCTION), repeats, model.device)  # noqa: B023 - now
        figures[f"student_n{count}_ms"] = timing.median * 1000
        figures[f"student_n{count}_ms_q25"], figures[f"student_n{count}_ms_q75"] = timing.low * 1000, timing.high * 1000
        figures[f"student_n{count}_videos_per_s"] = count / timing.median
    figures["student_videos_per_s"] = counts[-1] / timing.median
    if teacher is None:
        return {**figures, "missing": {"student_over_teacher": "no teacher was named"}}
    asked = timed(lambda: teacher([videos[0]], [_INSTRUCTION]), repeats, model.device)
    figures["teacher_videos_per_s"] = 1 / asked.median
    return {**figures, "student_over_teacher": figures["student_videos_per_s"] * asked.median}
