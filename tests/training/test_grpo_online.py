"""The student is taught along the way: the gap to its teacher is measured, closes, or ends the run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_benchmark import make_benchmark, toy_model

from roboalign_core.benchmark import Benchmark, Origin
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json
from roboalign_core.judge.budget import BudgetError
from roboalign_core.judge.parser import ReplyError
from roboalign_core.judge.protocol import Judge, Judgement, Video
from roboalign_core.reward import RewardModel
from roboalign_core.reward.student import RewardNetwork
from roboalign_core.rubric import HIGHEST, KEYS, Scores
from roboalign_core.tensors import load_tensors
from roboalign_core.training.grpo.online.drift import drift
from roboalign_core.training.grpo.online.student import MixedRewardStage
from roboalign_core.training.grpo.stage import GrpoStage
from roboalign_core.training.verb import TrainConfig, train

Settings = Callable[..., TrainConfig]
ONLINE: dict[str, Any] = {
    "every": 2,
    "rollouts": 8,
    "steps": 3,
    "alarm": 10.0,
    "learn": {"pairs": 6, "shortest": 4, "validation": 4},
}


class Strict(Judge):
    """A teacher to whom brightness is all; what it is asked is counted, and from some question on it fails."""

    def __init__(self, scale: float = 1.0, fails: int = 10**9, error: RoboAlignError | None = None) -> None:
        self.scale, self.fails, self.error = scale, fails, error
        self.asked: list[int] = []

    @property
    def name(self) -> str:
        return "strict"

    def describe(self) -> Mapping[str, Any]:
        return {"scale": self.scale}

    def judge(self, videos: Sequence[Video]) -> Judgement:
        self.asked.append(len(videos))
        if len(self.asked) > self.fails and self.error:
            raise self.error
        bright = [self.scale * min(1.0, float(video.frames[1:].mean()) / 255) for video in videos]
        raw = np.outer(bright, HIGHEST).astype(np.float32)
        return Judgement(Scores(raw), np.zeros_like(raw), ((),) * len(videos))


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the student knew before."""
    return make_benchmark(tmp_path_factory.mktemp("online") / "benchmark", videos=20).path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has learned nothing yet: about half of every score."""
    folder = tmp_path_factory.mktemp("online") / "student"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        RewardModel(toy_model(), RewardNetwork(toy_model())).save_pretrained(folder)
    return folder


@pytest.fixture
def taught(
    settings: Settings, world_model: Path, benchmark: Path, student: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TrainConfig]:
    """Settings of a run whose teacher is ``teacher``; ``changes`` are settings of ``stage.online``."""

    def make(out: Path, teacher: Judge, steps: int = 6, **changes: Any) -> TrainConfig:
        monkeypatch.setattr("roboalign_core.training.grpo.online.build.make_judge", lambda *given, **more: teacher)
        online = {**ONLINE, **changes}
        config = settings("grpo", out, steps, world_model, rewards=["student"], online=online)
        config.stage["reward_model"] = str(student)
        config.benchmark, config.judge = str(benchmark), {"name": "server", "model": "strict"}
        return config

    return make


def metrics(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


# -- teaching -------------------------------------------------------------------------------------------------------


def test_the_gap_to_the_teacher_closes(taught: Callable[..., TrainConfig], tmp_path: Path) -> None:
    results = train(taught(tmp_path / "run", Strict(scale=0.2), 7, steps=25, lr=3e-3))
    lessons = {entry["drift_step"]: entry for entry in metrics(tmp_path / "run")}
    print([(k, v["drift_total"], v["drift_total_after"], v["drift_bias"], v.get("drift_spearman"), v["student_validation_mae"]) for k, v in lessons.items()])
    assert list(lessons) == [0, 2, 4, 6]
    print(results)
