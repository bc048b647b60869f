"""The loop's settings, and losses that are none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from roboalign_core.errors import RoboAlignError
from roboalign_core.training.loop import LoopConfig, Trainer


class Line:
    """One weight that is pulled to 3; after ``good`` steps the loss is ``bad``."""

    def __init__(self, good: int = 10**9, bad: str = "loss") -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)
        self.good, self.bad, self.calls = good, bad, 0

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        self.calls += 1
        error = self.module.weight.squeeze() - 3
        if self.calls <= self.good:
            return error.square(), {"calls": self.calls}
        if self.bad == "loss":
            return error.square() / 0, {}
        return (error * 0).clamp_min(0).sqrt(), {}  # a loss of 0 with a gradient of infinity times 0

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        pass

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "weight").write_text(str(self.module.weight.item()))


def trainer(run: Path, stage: Line, **changes: Any) -> Trainer:
    return Trainer(stage, LoopConfig(**({"steps": 50, "warmup": 2, "lr": 0.3} | changes)), run, {})


def test_it_learns(tmp_path: Path) -> None:
    figures = trainer(tmp_path, Line(), steps=300, lr=0.1, weight_decay=0.0).train()
    assert float((tmp_path / "model" / "weight").read_text()) == pytest.approx(3, abs=0.05)
    assert figures["steps"] == figures["calls"] == 300


@pytest.mark.parametrize(("bad", "message"), [("loss", "finite loss"), ("gradient", "finite gradients")])
def test_training_stops_before_nonsense_reaches_a_checkpoint(tmp_path: Path, bad: str, message: str) -> None:
    with pytest.raises(RoboAlignError, match=f"training step 4: expected a? ?{message}"):
        trainer(tmp_path, Line(good=4, bad=bad), checkpoint_every=1).train()
    again = trainer(tmp_path, Line(), checkpoint_every=1)
    assert again.train()["steps"] == 50


def test_time_can_end_a_run(tmp_path: Path) -> None:
    figures = trainer(tmp_path, Line(), steps=10**9, minutes=0.003).train()
    assert 1 <= figures["steps"] < 10**6
    assert 0.003 <= figures["train_minutes"] < 0.5
    rates = [json.loads(line)["lr"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rates[-1] < 0.5 * max(rates) or len(rates) < 3


def test_a_torn_last_line_of_the_metrics_is_dropped(tmp_path: Path) -> None:
    with pytest.raises(RoboAlignError, match="finite loss"):
        trainer(tmp_path, Line(good=7), checkpoint_every=2, log_every=1).train()
    with (tmp_path / "metrics.jsonl").open("a") as handle:
        handle.write('{"step": 8, "lo')
    trainer(tmp_path, Line(), checkpoint_every=2, log_every=1).train()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 51))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 0}, "steps"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"log_every": -1}, "log_every"),
        ({"minutes": -1.0}, "minutes"),
        ({"minutes": float("inf")}, "minutes"),
        ({"warmup": -1}, "warmup"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"lr": 0.0}, "lr"),
        ({"clip": 0.0}, "clip"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RoboAlignError, match=f"loop.{named}: expected"):
        LoopConfig(**changes)
