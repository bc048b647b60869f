"""A run goes on bit by bit after Ctrl-C, after ``kill -9``, and after a reward that failed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roboalign_core import cli
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json
from roboalign_core.tensors import load_tensors
from roboalign_core.training.grpo.rewards import Brightness
from roboalign_core.training.grpo.stage import GrpoStage
from roboalign_core.training.verb import TrainConfig, train

Settings = Callable[..., TrainConfig]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_seconds(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != "seconds"}


def assert_same_run(found: Path, expected: Path) -> None:
    """After 6 steps: weights, moments, random numbers, logs and the exported model."""
    last = Path("checkpoints") / "step-00000006"
    for name in ("model", "optimizer", "random"):
        ours, theirs = (load_tensors(run / last / f"{name}.safetensors") for run in (found, expected))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    states = [without_seconds(read_json(run / last / "state.json")) for run in (found, expected)]
    assert states[0] == states[1]
    logs = [[without_seconds(entry) for entry in metrics(run)] for run in (found, expected)]
    assert logs[0] == logs[1]
    for path in (expected / "model").rglob("*"):
        if path.is_file():
            assert (found / "model" / path.relative_to(expected / "model")).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("order", ["frame", "token"])
def test_an_interrupted_run_goes_on_bit_by_bit(
    settings: Settings, tmp_path: Path, world_model: Path, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    whole, broken = (settings("grpo", tmp_path / out, world_model=world_model, order=order) for out in ("a", "b"))
    train(whole)
    draw = GrpoStage._draw
    for after in (1, 3):  # before the first checkpoint, and between two
        calls: list[int] = []

        def interrupted(self: GrpoStage, calls: list[int] = calls, after: int = after) -> Any:
            calls.append(1)
            batch = draw(self)  # draws are made, weights are not changed
            if len(calls) > after:
                raise KeyboardInterrupt
            return batch

        with monkeypatch.context() as patch:
            patch.setattr(GrpoStage, "_draw", interrupted)
            with pytest.raises(KeyboardInterrupt):
                train(broken)
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["step-00000002"]
    train(broken)
    assert_same_run(tmp_path / "b", tmp_path / "a")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_real_run_survives_being_killed(store: Path, tmp_path: Path, world_model: Path) -> None:
    def command(out: str) -> list[str]:
        small = [
            "prompts=4",
            "group=4",
            "frames=3",
            "rewards=[brightness]",
            "validation.windows=4",
            "validation.every=2",
            "guard.divergence=100",
        ]
        loop = ["loop.steps=6", "loop.checkpoint_every=2", "loop.lr=1e-3"]
        given = [f"data=[{store}]", f"world_model={world_model}", f"out={tmp_path / out}"]
        return ["train", "stage=grpo", *given, *(f"stage.{each}" for each in small), *loop]

    def start() -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "roboalign_core.cli", *command("killed")]
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})

    process, log = start(), tmp_path / "killed" / "metrics.jsonl"
    while not log.is_file() or len(log.read_text().splitlines()) < 3:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert start().wait() == 0
    assert cli.main(command("whole")) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    results = [read_json(tmp_path / out / "results.json") for out in ("killed", "whole")]
    assert results[0]["reward"] == results[1]["reward"]
    assert {"command", "seed", "git", "prefill_share", "validation_best"} <= results[0].keys()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda values: values * np.nan, "reward brightness: expected finite numbers, found nan for future 0 of 16"),
        (lambda values: values[:, :1], r"reward brightness: expected shape \(16,\)"),
    ],
)
def test_a_bad_score_leaves_a_run_to_go_on_with(
    settings: Settings,
    tmp_path: Path,
    world_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad: Callable[[Any], Any],
    message: str,
) -> None:
    config, whole = (settings("grpo", tmp_path / out, steps=4, world_model=world_model) for out in ("run", "whole"))
    score, calls = Brightness.__call__, []

    def spoilt(self: Brightness, *given: Any) -> Any:
        calls.append(1)
        found = score(self, *given)
        training = len(given[0]) == 16
        return {"brightness": bad(found["brightness"])} if training and len(calls) > 4 else found

    with monkeypatch.context() as patch:
        patch.setattr(Brightness, "__call__", spoilt)
        with pytest.raises(RoboAlignError, match=message):
            train(config)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000002"]
    assert not (tmp_path / "run" / "model").exists()
    assert not list((tmp_path / "run").rglob("*.tmp*"))
    train(config)
    train(whole)
    weights = [load_tensors(tmp_path / out / "model" / "frame_head.safetensors") for out in ("run", "whole")]
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())
