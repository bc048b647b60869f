"""Weights on disk: safetensors only, written atomically."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import atomic_path


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write tensors; floating ones are cast to ``dtype`` where it is given."""
    ready = {name: _plain(tensor, dtype) for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(ready, temporary, metadata={"format": "pt"})


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read tensors.

    Raises:
        RoboAlignError: the file is absent, truncated, or not safetensors.
    """
    if not Path(path).is_file():
        raise RoboAlignError(f"{path}: expected weights (safetensors), found nothing there")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise RoboAlignError(f"{path}: expected a whole safetensors file, found: {error}") from error


def digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits that change with every name and value."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + _plain(tensors[name], None).reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fill a module; every name and shape must fit.

    Raises:
        RoboAlignError: names or shapes differ; the message says which.
    """
    check_fit(module.state_dict(), tensors, where)
    module.load_state_dict(dict(tensors))


def check_fit(model: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise RoboAlignError unless these tensors have all names and shapes of ``model``'s; it says which not."""
    expected = {name: tuple(value.shape) for name, value in model.items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    wrong = [
        f"{name}: expected {expected.get(name, 'nothing')}, found {found.get(name, 'nothing')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if wrong:
        more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
        raise RoboAlignError(f"{where}: weights do not fit the configuration: {'; '.join(wrong[:3])}{more}")


def _plain(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor).contiguous().clone()
