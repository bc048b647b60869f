"""Several processes train one adapter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from roboalign_core.tensors import load_tensors
from roboalign_core.training.loop import LoopConfig, Trainer
from roboalign_core.training.parallel import Replica

torch = pytest.importorskip("torch")
pytest.importorskip("peft", reason="the extra judge is not installed")
pytest.importorskip("accelerate", reason="the extra judge is not installed")


def train(processes: int, batch: int, out: Path, base: Path, data: Path, steps: int = 4) -> None:
    overrides = [f"data=[{data}]", f"out={out}", f"stage.base={base}", f"stage.batch={batch}", "stage.dropout=0"]
    overrides += ["stage.rank=8", "stage.shown.frames=3", "stage.shown.side=16", "stage.checkpointing=false"]
    overrides += [f"loop.steps={steps}", "loop.warmup=1", "loop.lr=1e-2", "loop.checkpoint_every=2", "loop.log_every=1"]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, "-m", "roboalign_core.cli", "train", "stage=judge", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


class Line:
    """y = 2x."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = torch.nn.Linear(1, 1)
        self.drawn = 0

    def loss(self) -> tuple[Any, dict[str, float]]:
        self.drawn += 1
        x = torch.full((4, 1), float(self.drawn))
        return (self.module(x) - 2 * x).square().mean(), {}

    def state(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)


def test_a_replica_goes_on_where_the_first_process_does_and_writes_nothing(tmp_path: Path) -> None:
    config = LoopConfig(steps=6, warmup=1, checkpoint_every=2, log_every=1)
    whole, half = Line(), Line()
    Trainer(whole, config, tmp_path / "whole", {}).train()
    half.export = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        Trainer(half, config, tmp_path / "half", {}).train()
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000006")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "half").rglob("*")}
    replica = Line()
    assert Replica(replica, config, tmp_path / "half", {}).train()["steps"] == 6
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "half").rglob("*")} == before
    assert replica.drawn == 6
    assert torch.equal(replica.module.weight, whole.module.weight)


def interrupt(*arguments: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_learn_what_one_learns_from_twice_the_batch(
    tiny_model: Path, benchmark_folder: Path, tmp_path: Path
) -> None:
    train(1, 2, tmp_path / "one", tiny_model, benchmark_folder)
    train(2, 1, tmp_path / "two", tiny_model, benchmark_folder)
    logs = [
        [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("one", "two")
    ]
    assert [entry["step"] for entry in logs[1]] == [1, 2, 3, 4]
    for one, two in zip(*logs, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=0.02)
        assert two["grad"] == pytest.approx(one["grad"], rel=0.1)
    first, second = (load_tensors(tmp_path / run / "model" / "adapter_model.safetensors") for run in ("one", "two"))
    assert first.keys() == second.keys()
    apart = sum((first[name] - second[name]).square().sum() for name in first) ** 0.5
    size = sum(value.square().sum() for value in first.values()) ** 0.5
    assert apart < 0.1 * size
    files = {path.name for path in (tmp_path / "two").iterdir()}
    assert files == {path.name for path in (tmp_path / "one").iterdir()}
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
