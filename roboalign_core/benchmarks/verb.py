"""``roboalign bench suite=decode|planner|session|reward``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import MISSING

from roboalign_core.benchmarks.decode import WAYS, decode, plot
from roboalign_core.benchmarks.planner import plan
from roboalign_core.benchmarks.random_model import save_random_model
from roboalign_core.benchmarks.reward import beside_teacher, random_student, rate
from roboalign_core.benchmarks.session import stream
from roboalign_core.benchmarks.teacher import Teacher, teacher_config
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import atomic_path
from roboalign_core.planning import objective_config, search_config
from roboalign_core.reward.config import RewardModelConfig
from roboalign_core.reward.model import RewardModel
from roboalign_core.verb import Verb

SUITES = ("decode", "planner", "session", "reward")


@dataclass
class BenchConfig:
    """Settings; ``configs/bench.yaml`` explains each."""

    out: str = MISSING
    suite: str = "decode"
    world_model: str = "tabletop"
    model: Any = None
    reward: str = "tabletop"
    reward_model: Any = None
    teacher: Any = None
    ways: list[str] = field(default_factory=lambda: list(WAYS))
    candidates: list[int] = field(default_factory=lambda: [1, 16, 64])
    frames: int = 8
    session_frames: int = 1000
    order: str = "frame"
    repeats: int = 5
    seed: int = 0
    device: str = "cpu"
    planner: Any = field(default_factory=lambda: {"name": "cem", "candidates": 64, "horizon": 8})
    objective: Any = field(default_factory=lambda: {"name": "progress"})

    def __post_init__(self) -> None:
        if self.suite not in SUITES:
            raise RoboAlignError(f"suite: expected one of {', '.join(SUITES)}, found {self.suite!r}")
        unknown = [way for way in self.ways if way not in WAYS]
        if unknown or not self.ways:
            found = repr(unknown[0]) if unknown else "none"
            raise RoboAlignError(f"ways: expected some of {', '.join(WAYS)}, found {found}")
        if not self.candidates or min(self.candidates) < 1:
            raise RoboAlignError(f"candidates: expected numbers of at least 1, found {self.candidates}")
        for name in ("frames", "repeats"):
            if getattr(self, name) < 1:
                raise RoboAlignError(f"{name}: expected at least 1, found {getattr(self, name)}")


def run(config: BenchConfig) -> Mapping[str, Any]:
    """Run one suite."""
    if config.suite == "planner":
        search, objective = search_config(config.planner), objective_config(config.objective)
        return plan(config.world_model, search, objective, config.order, config.repeats, config.device)
    if config.suite == "session":
        return stream(config.world_model, config.session_frames, config.order, config.seed, config.device)
    if config.suite == "reward":
        return _reward(config)
    return _decode(config)


def _decode(config: BenchConfig) -> Mapping[str, Any]:
    with TemporaryDirectory() as folder:
        name = config.world_model if config.model is None else folder
        if config.model is not None:
            save_random_model(config.model, Path(folder), config.seed)
        figures = decode(
            name, config.ways, config.candidates, config.frames, config.repeats, config.seed, config.device
        )
    if find_spec("matplotlib"):
        with atomic_path(Path(config.out) / "decode.png") as path:
            path.write_bytes(plot(figures["detail"]["rows"]))
    return {"weights": config.world_model if config.model is None else "random", **figures}


def _reward(config: BenchConfig) -> Mapping[str, Any]:
    settings = None if config.teacher is None else teacher_config(config.teacher)
    if config.reward_model is None:
        model, weights = RewardModel.from_pretrained(config.reward, config.device), f"trained: {config.reward}"
    else:
        size = RewardModelConfig.from_dict(config.reward_model)
        model, weights = random_student(size, config.device, config.seed), "random: speed does not depend on them"
    teacher = None if settings is None else Teacher(settings, config.device, config.seed)
    figures = {"student_weights": weights, **rate(model, config.candidates, config.frames, config.repeats, config.seed)}
    if teacher is None:
        return {**figures, "missing": {"student_over_teacher": "no teacher was named: teacher=qwen3_vl_2b"}}
    return {**figures, **beside_teacher(model, teacher, config.repeats, config.seed)}


VERB = Verb("bench", "times decoding, planning, long streams and scoring on this machine", BenchConfig, run)
