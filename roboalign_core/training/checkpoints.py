"""Checkpoint folders that are whole or absent, and run folders that belong to one process."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json
from roboalign_core.tensors import check_fit, load_tensors, save_tensors

CHECKPOINTS = "checkpoints"  # folder in a run folder
RUN = "run.json"  # in a run folder: what is trained there
MODEL = "model"  # name of the weights in a checkpoint
STATE = "state.json"
_TEMPORARY = ".tmp-"


class Checkpoints:
    """A folder of checkpoints ``step-N/``.

    Each is written under a temporary name and renamed, and renamed again before it is removed: whatever happens,
    ``step-N/`` is whole or absent.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def newest(self) -> Path | None:
        """The checkpoint to go on from."""
        found = self._whole()
        return found[-1] if found else None

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Write ``<name>.safetensors`` for every name, and ``state.json``; all but the newest few checkpoints go."""
        temporary = self.folder / f"{_TEMPORARY}{step:08d}"
        temporary.mkdir(parents=True)
        for name, values in tensors.items():
            save_tensors(temporary / f"{name}.safetensors", values)
        write_json(temporary / STATE, state)
        os.replace(temporary, self.folder / f"step-{step:08d}")
        self._remove_old()

    def tidy(self) -> None:
        """Remove what a killed process left half-written, half-removed, or was about to remove."""
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path)
        self._remove_old()

    def _remove_old(self) -> None:
        for old in self._whole()[: -self.keep]:
            doomed = self.folder / f"{_TEMPORARY}{old.name}"
            os.replace(old, doomed)
            shutil.rmtree(doomed)

    def _whole(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"))


def newest_weights(run: Path) -> dict[str, Tensor]:
    """Weights of everything that was trained in a run folder, as of its newest checkpoint.

    Raises:
        RoboAlignError: the folder holds no checkpoint.
    """
    folder = Checkpoints(run / CHECKPOINTS).newest()
    if folder is None:
        raise RoboAlignError(f"{run}: expected a run folder with a checkpoint, found none")
    return load_tensors(folder / f"{MODEL}.safetensors")


def mean_weights(runs: Sequence[str]) -> dict[str, Tensor]:
    """The mean of what :func:`newest_weights` gives of each run (model soups, Wortsman et al. 2022, arXiv 2203.05482).

    A place to go on from, for runs that went on from the same weights; whether the mean itself is better than each of
    them is to be measured.

    Raises:
        RoboAlignError: a folder holds no checkpoint, or one of another size than the first.
    """
    found = [newest_weights(Path(run)) for run in runs]
    for run, other in zip(runs[1:], found[1:], strict=True):
        check_fit(found[0], other, run)
    return {name: _mean([one[name] for one in found]) for name in found[0]}


def check_world_model(runs: Sequence[str], world_model: str) -> None:
    """Raise RoboAlignError where a run is not there, or has another ``world_model``, whose tokens mean other things."""
    for run in runs:
        made = Path(run) / RUN
        found = (read_json(made)["identity"] if made.is_file() else {}).get("world_model")
        if found != world_model:
            raise RoboAlignError(f"stage.start: {run}: expected a run with world_model={world_model}, found {found!r}")


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """In their own type; of whole numbers, which are not trained, the first."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(tensors[0].dtype)


@contextmanager
def only_process(run: Path) -> Iterator[None]:
    """Hold a run folder, which is made if need be; the lock goes with the process, however that ends.

    Raises:
        RoboAlignError: another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RoboAlignError(f"{run}: expected nobody else to train in there, found a process that does") from error
        yield
