"""One loop for every stage: schedule, checkpoints that are whole or absent, exact resume, logs."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json
from roboalign_core.precision import autocast
from roboalign_core.tensors import load_into, load_tensors, save_tensors


@dataclass
class LoopConfig:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        minutes: stop earlier, after so much training time; the schedule then runs on time. 0: no limit.
        lr, warmup, weight_decay, betas, clip: AdamW with linear warm-up over ``warmup`` steps and cosine decay to zero.
        checkpoint_every, log_every: steps.
        seed: of weights, sampling and augmentation.
        device: torch device.
    """

    steps: int = 1000
    minutes: float = 0.0
    lr: float = 5e-4
    warmup: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    checkpoint_every: int = 200
    log_every: int = 20
    seed: int = 0
    device: str = "cpu"


class Stage(Protocol):
    """What the loop needs of a stage.

    Attributes:
        module: everything that is trained.
    """

    module: nn.Module

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        """Draw the next batch; the loss to minimise and figures to log."""

    def state(self) -> dict[str, Any]:
        """JSON state of samplers."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""

    def export(self, folder: Path) -> None:
        """Write the trained artefact."""


class Trainer:
    """Runs a stage in a run folder: ``checkpoints/step-N/`` while training, the artefact in ``model/`` at the end.

    A checkpoint folder is written under a temporary name and renamed, so it is whole or absent; the newest one is
    where the same command goes on, with the same random numbers.
    """

    def __init__(self, stage: Stage, config: LoopConfig, run: Path, identity: Mapping[str, Any]) -> None:
        self.stage, self.config, self.run = stage, config, run
        self.checkpoints = run / "checkpoints"
        self.identity = json.loads(json.dumps(identity))
        self.parameters = [p for p in stage.module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(_groups(stage.module, config), lr=config.lr, betas=config.betas)
        self.step, self.seconds = 0, 0.0

    def train(self) -> dict[str, float]:
        """Train to the end; returns the last figures."""
        from torch.utils.tensorboard import SummaryWriter

        self._resume()
        writer = SummaryWriter(self.run / "tensorboard", purge_step=self.step)
        figures: dict[str, float] = {}
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.stage.module.train()
        with Progress(*columns, refresh_per_second=2) as progress:
            task = progress.add_task(type(self.stage).__name__, total=self.config.steps, completed=self.step)
            while self._fraction() < 1:
                began = time.perf_counter()
                logged = self._update()
                self.seconds += time.perf_counter() - began
                self.step += 1
                last = self._fraction() >= 1
                if self.step % self.config.log_every == 0 or last:
                    figures = {**{key: float(value) for key, value in logged.items()}, "seconds": self.seconds}
                    self._log(writer, figures)
                if self.step % self.config.checkpoint_every == 0 or last:
                    self._save()
                text = " ".join(f"{key} {value:.4g}" for key, value in figures.items() if key != "seconds")
                progress.update(task, completed=self.step, description=f"{type(self.stage).__name__} {text}")
        writer.close()
        self.stage.module.eval()
        self.stage.export(self.run / "model")
        return {**figures, "steps": self.step, "train_minutes": self.seconds / 60}

    def _fraction(self) -> float:
        by_steps = self.step / self.config.steps
        by_time = self.seconds / 60 / self.config.minutes if self.config.minutes else 0.0
        return max(by_steps, by_time)

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup))
        cosine = 0.5 * (1 + torch.cos(torch.tensor(min(1.0, self._fraction()) * torch.pi)).item())
        return self.config.lr * warm * cosine

    def _update(self) -> Mapping[str, float]:
        rate = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with autocast(torch.device(self.config.device)):
            loss, logged = self.stage.loss()
        if not torch.isfinite(loss):
            raise RoboAlignError(f"training step {self.step}: expected a finite loss, found {loss.item()}")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        self.optimizer.step()
        return {"loss": loss.item(), **logged, "grad": norm.item(), "lr": rate}

    def _log(self, writer: Any, figures: Mapping[str, float]) -> None:
        for key, value in figures.items():
            writer.add_scalar(key, value, self.step)
        with (self.run / "metrics.jsonl").open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": self.step, **figures}) + "\n")

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoints / f".tmp-{self.step:08d}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_tensors(temporary / "model.safetensors", self.stage.module.state_dict())
        save_tensors(temporary / "optimizer.safetensors", self._optimizer_tensors())
        save_tensors(temporary / "random.safetensors", {"torch": torch.get_rng_state()})
        state = {"step": self.step, "seconds": self.seconds, "identity": self.identity, "stage": self.stage.state()}
        write_json(temporary / "state.json", state)
        target = self.checkpoints / f"step-{self.step:08d}"
        shutil.rmtree(target, ignore_errors=True)
        os.replace(temporary, target)
        for old in _whole(self.checkpoints)[:-2]:
            shutil.rmtree(old)

    def _resume(self) -> None:
        self.run.mkdir(parents=True, exist_ok=True)
        found = _whole(self.checkpoints)
        if not found:
            write_json(self.run / "run.json", {"identity": self.identity, "loop": asdict(self.config)})
            return
        folder = found[-1]
        state = read_json(folder / "state.json")
        if state["identity"] != self.identity:
            raise RoboAlignError(
                f"{folder}: expected a checkpoint of this configuration, found another one "
                f"({_difference(self.identity, state['identity'])}); choose a new out= or remove the folder"
            )
        load_into(self.stage.module, load_tensors(folder / "model.safetensors"), str(folder))
        self._load_optimizer(load_tensors(folder / "optimizer.safetensors"))
        torch.set_rng_state(load_tensors(folder / "random.safetensors")["torch"])
        self.stage.load_state(state["stage"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        return {
            f"{index}.{key}": value
            for index, entry in self.optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def _groups(module: nn.Module, config: LoopConfig) -> list[dict[str, Any]]:
    """Matrices decay, vectors and position tables do not."""
    decay, keep = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            (decay if parameter.ndim >= 2 and "position" not in name else keep).append(parameter)
    return [{"params": decay, "weight_decay": config.weight_decay}, {"params": keep, "weight_decay": 0.0}]


def _whole(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    keys = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    return ", ".join(f"{key}: {expected.get(key)!r} against {found.get(key)!r}" for key in keys[:3])
