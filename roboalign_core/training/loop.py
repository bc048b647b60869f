"""One loop for every stage: schedule, checkpoints that are whole or absent, exact resume, logs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, remove_leftovers, write_json, write_text
from roboalign_core.precision import autocast
from roboalign_core.tensors import load_into, load_tensors
from roboalign_core.training.checkpoints import CHECKPOINTS, MODEL, RUN, STATE, Checkpoints, only_process
from roboalign_core.training.optimizer import OPTIMIZERS, Optimizer

_SHOWN = 12  # figures beside the progress bar; all are in the log


@dataclass
class LoopConfig:
    """How long and how fast to train.

    Attributes:
        steps: optimiser steps.
        minutes: stop earlier, after so much training time; the schedule then runs on time. 0: no limit.
        optimizer: ``adamw``, or ``muon`` for the hidden matrices with AdamW for the rest.
        lr, warmup, weight_decay, betas, clip: linear warm-up over ``warmup`` steps, then cosine decay to zero.
        checkpoint_every, log_every: steps.
        seed: of weights, sampling and augmentation.
        device: torch device.
    """

    steps: int = 1000
    minutes: float = 0.0
    optimizer: str = "adamw"
    lr: float = 5e-4
    warmup: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    checkpoint_every: int = 100
    log_every: int = 20
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise RoboAlignError(f"loop.optimizer: expected one of {', '.join(OPTIMIZERS)}, found {self.optimizer!r}")
        for name in ("steps", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise RoboAlignError(f"loop.{name}: expected at least 1, found {getattr(self, name)}")
        if self.seed < 0:
            raise RoboAlignError(f"loop.seed: expected 0 or more, found {self.seed}")
        for name in ("minutes", "warmup", "weight_decay"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RoboAlignError(f"loop.{name}: expected a number of 0 or more, found {getattr(self, name)}")
        for name in ("lr", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise RoboAlignError(f"loop.{name}: expected a number above 0, found {getattr(self, name)}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise RoboAlignError(f"loop.betas: expected two numbers in [0, 1), found {self.betas}")


class Stage(Protocol):
    """What the loop needs of a stage."""

    @property
    def module(self) -> nn.Module:
        """Everything that is trained."""

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        """Draw the next batch; the loss to minimise and figures to log."""

    def state(self) -> dict[str, Any]:
        """JSON state of samplers."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""

    def export(self, folder: Path) -> None:
        """Write the trained artefact."""


@runtime_checkable
class UpdatesStage(Protocol):
    """A stage that makes several updates of what it draws once (reinforcement learning), in place of :class:`Stage`."""

    @property
    def module(self) -> nn.Module:
        """Everything that is trained or kept in checkpoints."""

    @property
    def stopped(self) -> str:
        """Why training ends after this step; empty while it goes on."""

    def updates(self) -> Iterator[Iterator[Tensor]]:
        """A step: for each update the losses whose sum it descends, one backward pass each.

        They are asked for one by one, after the weights have changed, and in the stage's own number format.
        """

    def figures(self) -> Mapping[str, float]:
        """To log of the last step."""

    def images(self) -> Mapping[str, NDArray[np.uint8]]:
        """(H, W, 3) to log of the last step."""

    def state(self) -> dict[str, Any]:
        """JSON state of samplers."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""

    def export(self, folder: Path) -> None:
        """Write the trained artefact."""

    def results(self) -> Mapping[str, Any]:
        """What ``results.json`` holds beside the last figures."""

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Further tensors that checkpoints hold, by the name of their file: what the stage trains by itself."""

    def load_tensors(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inverse of :meth:`tensors`, before :meth:`load_state`."""


class Trainer:
    """Runs a stage in a run folder: ``checkpoints/step-N/`` while training, the artefact in ``model/`` at the end.

    The newest checkpoint is where the same command goes on, with the same random numbers. One process at a time works
    in a run folder.
    """

    shown = True  # whether there is a progress bar

    def __init__(self, stage: Stage | UpdatesStage, config: LoopConfig, run: Path, identity: Mapping[str, Any]) -> None:
        self.stage, self.config, self.run = stage, config, run
        self.checkpoints = Checkpoints(run / CHECKPOINTS)
        self.metrics = run / "metrics.jsonl"
        self.identity = json.loads(json.dumps(identity))
        self.parameters = [p for p in stage.module.parameters() if p.requires_grad]
        self.optimizer = Optimizer(stage.module, config.optimizer, config.lr, config.weight_decay, config.betas)
        self.step, self.seconds = 0, 0.0

    def train(self) -> dict[str, Any]:
        """Train to the end; returns the last figures.

        Raises:
            RoboAlignError: the run folder is another configuration's or another process's, or the loss is not finite.
        """
        with only_process(self.run):
            return self._train()

    def _train(self) -> dict[str, Any]:
        from torch.utils.tensorboard import SummaryWriter

        figures = self._resume()
        writer = SummaryWriter(self.run / "tensorboard", purge_step=self.step + 1)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.stage.module.train()
        with Progress(*columns, refresh_per_second=2, disable=not self.shown) as progress:
            task = progress.add_task(type(self.stage).__name__, total=self.config.steps, completed=self.step)
            while not self._over():
                began = time.perf_counter()
                logged = self._update()
                self.seconds += time.perf_counter() - began
                self.step += 1
                last = self._over()
                if self.step % self.config.log_every == 0 or last:
                    figures = {**{key: float(value) for key, value in logged.items()}, "seconds": self.seconds}
                    self._log(writer, figures)
                if self.step % self.config.checkpoint_every == 0 or last:
                    self._save()
                shown = [f"{key} {value:.4g}" for key, value in figures.items() if key != "seconds"]
                text = " ".join(shown[:_SHOWN])
                progress.update(task, completed=self.step, description=f"{type(self.stage).__name__} {text}")
        writer.close()
        self.stage.module.eval()
        self.stage.export(self.run / "model")
        results = self.stage.results() if isinstance(self.stage, UpdatesStage) else {}
        return {**figures, **results, "steps": self.step, "train_minutes": self.seconds / 60}

    def _over(self) -> bool:
        return self._fraction() >= 1 or (isinstance(self.stage, UpdatesStage) and bool(self.stage.stopped))

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
        if isinstance(self.stage, UpdatesStage):
            descents = [self._descend(losses, rate) for losses in self.stage.updates()]
            loss, norm = np.mean(descents, axis=0).tolist()
            return {"loss": loss, **self.stage.figures(), "grad": norm, "lr": rate}
        with autocast(torch.device(self.config.device)):
            total, logged = self.stage.loss()
        loss, norm = self._descend([total], rate)
        return {"loss": loss, **logged, "grad": norm, "lr": rate}

    def _descend(self, losses: Iterable[Tensor], rate: float) -> tuple[float, float]:
        """One update; the sum of its losses, and the norm of their gradient."""
        self.stage.module.zero_grad(set_to_none=True)
        total = 0.0
        for loss in losses:
            if not torch.isfinite(loss):
                raise RoboAlignError(f"training step {self.step}: expected a finite loss, found {loss.item()}")
            loss.backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        if not torch.isfinite(norm):
            raise RoboAlignError(f"training step {self.step}: expected finite gradients, found a norm of {norm.item()}")
        self.optimizer.step(rate)
        return total, norm.item()

    def _log(self, writer: Any, figures: Mapping[str, float]) -> None:
        for key, value in figures.items():
            writer.add_scalar(key, value, self.step)
        if isinstance(self.stage, UpdatesStage):
            for key, image in self.stage.images().items():
                writer.add_image(key, image, self.step, dataformats="HWC")
        with self.metrics.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"step": self.step, **figures}) + "\n")

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        tensors = {
            MODEL: self.stage.module.state_dict(),
            "optimizer": self.optimizer.state(),
            "random": _random_state(self.config.device),
            **self._further(),
        }
        state = {"step": self.step, "seconds": self.seconds, "identity": self.identity, "stage": self.stage.state()}
        self.checkpoints.save(self.step, tensors, state)

    def _further(self) -> Mapping[str, Mapping[str, Tensor]]:
        return self.stage.tensors() if isinstance(self.stage, UpdatesStage) else {}

    def _resume(self) -> dict[str, float]:
        """Go on at the newest checkpoint, if there is one; returns the figures that were logged last."""
        self.checkpoints.tidy()
        remove_leftovers(self.run)
        folder = self.checkpoints.newest()
        if folder is not None:
            self._load(folder)
        else:
            write_json(self.run / RUN, {"identity": self.identity, "loop": asdict(self.config)})
        return self._rewind_metrics()

    def _rewind_metrics(self) -> dict[str, float]:
        """Drop what was logged after the checkpoint, because it is about to be logged again."""
        if not self.metrics.is_file():
            return {}
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that was being written when the process was killed
            if entry["step"] <= self.step:
                kept.append(entry)
        write_text(self.metrics, "".join(json.dumps(entry) + "\n" for entry in kept))
        return {key: value for key, value in kept[-1].items() if key != "step"} if kept else {}

    def _load(self, folder: Path) -> None:
        state = read_json(folder / STATE)
        if state["identity"] != self.identity:
            raise RoboAlignError(
                f"{folder}: expected a checkpoint of this configuration, found another one "
                f"({_difference(self.identity, state['identity'])}); choose a new out= or remove the folder"
            )
        load_into(self.stage.module, load_tensors(folder / f"{MODEL}.safetensors"), str(folder))
        self.optimizer.load_state(load_tensors(folder / "optimizer.safetensors"))
        _set_random_state(load_tensors(folder / "random.safetensors"), self.config.device)
        if isinstance(self.stage, UpdatesStage):
            self.stage.load_tensors({name: load_tensors(folder / f"{name}.safetensors") for name in self._further()})
        self.stage.load_state(state["stage"])
        self.step, self.seconds = state["step"], state["seconds"]


def _random_state(device: str) -> dict[str, Tensor]:
    state = {"torch": torch.get_rng_state()}
    return {**state, "device": torch.cuda.get_rng_state(device)} if torch.device(device).type == "cuda" else state


def _set_random_state(state: Mapping[str, Tensor], device: str) -> None:
    torch.set_rng_state(state["torch"])
    if torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["device"], device)


def _difference(expected: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    keys = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
    return ", ".join(f"{key}: {expected.get(key)!r} against {found.get(key)!r}" for key in keys[:3])
