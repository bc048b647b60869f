"""Train a toy stage, killed (SIGKILL) before its first, second, third … file operation, and go on each time.

    python kill_everywhere.py FOLDER

One process for all, because importing torch takes longer than everything else. Prints a JSON object: the number of
operations of an undisturbed run, how many runs were killed, and what was wrong, one line each.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json
from roboalign_core.tensors import load_tensors, save_tensors
from roboalign_core.training.loop import LoopConfig, Trainer

STEPS = 3
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"}


class Toy:
    """Linear regression."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(4, 1)
        self.draws = 0

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        x = torch.randn(8, 4)
        self.draws += 1
        return (self.module(x) - x.sum(1, keepdim=True)).square().mean(), {"draws": self.draws}

    def state(self) -> dict[str, Any]:
        return {"draws": self.draws}

    def load_state(self, state: dict[str, Any]) -> None:
        self.draws = state["draws"]

    def export(self, folder: Path) -> None:
        save_tensors(folder / "model.safetensors", self.module.state_dict())


def child(run: Path, kill_at: int, count_to: Path | None = None, keep: int = 2) -> int:
    """Train in a process of its own; returns its wait status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    status, operations = 1, 0

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal operations
        if event in OPERATIONS and ours(event, arguments):
            operations += 1
            if operations == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def ours(event: str, arguments: tuple[Any, ...]) -> bool:
        relative = event in ("os.remove", "os.rmdir") and arguments[-1] != -1  # inside shutil.rmtree
        return relative or str(arguments[0]).startswith(str(run))

    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 1)
        config = LoopConfig(steps=STEPS, warmup=2, checkpoint_every=1, log_every=1)
        trainer = Trainer(Toy(), config, run, {"toy": 1})
        trainer.checkpoints.keep = keep
        sys.addaudithook(watch)
        trainer.train()
        total = operations
        if count_to is not None:
            count_to.write_text(str(total))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def warm_up(folder: Path) -> None:
    """Have everything imported that is imported late, so that not every child needs a second for it."""
    writer = SummaryWriter(folder)
    writer.add_scalar("x", 0.0, 0)
    writer.close()
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    torch.optim.AdamW([parameter]).step()


def content(folder: Path) -> dict[str, Any]:
    """What a checkpoint or model folder holds; the training time left out."""
    found: dict[str, Any] = {
        path.name: {key: value.tolist() for key, value in load_tensors(path).items()}
        for path in folder.glob("*.safetensors")
    }
    if (folder / "state.json").exists():
        found["state.json"] = {
            key: value for key, value in read_json(folder / "state.json").items() if key != "seconds"
        }
    return found


def problems(run: Path, reference: Path) -> list[str]:
    """Of a run that was killed: every checkpoint must be whole and the right one."""
    found = []
    for folder in (run / "checkpoints").glob("step-*"):
        try:
            if content(folder) != content(reference / "checkpoints" / folder.name):
                found.append(f"{folder.name} is not that of an undisturbed run")
        except RoboAlignError as error:
            found.append(str(error))
    return found


def end_problems(run: Path, reference: Path) -> list[str]:
    """Of a run that went on to its end."""
    found = problems(run, reference)
    if content(run / "model") != content(reference / "model"):
        found.append("the model is not that of an undisturbed run")
    kept = sorted(path.name for path in (run / "checkpoints").iterdir())
    if kept != [f"step-{STEPS - 1:08d}", f"step-{STEPS:08d}"]:
        found.append(f"checkpoints: {kept}")
    if leftovers := [str(path) for path in run.rglob("*.tmp*")]:
        found.append(f"leftovers: {leftovers}")
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    if steps != list(range(1, STEPS + 1)):
        found.append(f"metrics of steps {steps}")
    return found


def main(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    warm_up(folder / "warm-up")
    reference, count = folder / "reference", folder / "operations"
    if child(reference, 0, count, keep=STEPS):
        return {"wrong": ["the undisturbed run failed"]}
    wrong, killed = [], 0
    operations = int(count.read_text())
    for at in range(1, operations + 40):  # a run that removes old checkpoints has more of them
        run = folder / f"killed-{at}"
        status = child(run, at)
        if not os.WIFSIGNALED(status):
            break
        killed += 1
        wrong += [f"operation {at}: {problem}" for problem in problems(run, reference)]
        child(run, 1 + at % 9)  # killed again while it tidies up
        wrong += [f"operation {at}, again: {problem}" for problem in problems(run, reference)]
        if child(run, 0):
            wrong.append(f"operation {at}: does not go on")
        else:
            wrong += [f"operation {at}, at the end: {problem}" for problem in end_problems(run, reference)]
    return {"operations": operations, "killed": killed, "wrong": wrong}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))))
