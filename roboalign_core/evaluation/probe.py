"""Reads positions out of frames, so that imagined frames can be measured in centimetres."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roboalign_core.bundled import resolve_model
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json
from roboalign_core.tensors import load_into, load_tensors, save_tensors
from roboalign_core.world_model.tokenizer import to_pixels

CONFIG, WEIGHTS = "probe.json", "probe.safetensors"


@dataclass
class ProbeConfig:
    """Sizes of the probe and the columns of ``observation.state`` that it reads (in the columns' units)."""

    columns: list[str] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    height: int = 64
    width: int = 64
    channels: int = 64


class ProbeNetwork(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] → standardised state (B, columns), through the places of learned keypoints."""

    grid: Tensor

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__()
        wide = config.channels
        self.convs = nn.Sequential(
            nn.Conv2d(3, wide // 2, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(wide // 2, wide, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(wide, wide, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(wide, wide, 3, padding=1),
        )
        y, x = torch.meshgrid(
            torch.linspace(-1, 1, config.height // 4), torch.linspace(-1, 1, config.width // 4), indexing="ij"
        )
        self.register_buffer("grid", torch.stack([x.flatten(), y.flatten()], dim=1), persistent=False)
        self.read = nn.Sequential(
            nn.Linear(3 * wide, 4 * wide),
            nn.GELU(),
            nn.Linear(4 * wide, 4 * wide),
            nn.GELU(),
            nn.Linear(4 * wide, len(config.columns)),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        maps = self.convs(pixels * 2 - 1).flatten(2).float()
        places = maps.softmax(-1) @ self.grid
        return self.read(torch.cat([places.flatten(1), F.gelu(maps).mean(-1)], dim=1))


class StateProbe:
    """Trained on real frames only; what it reads from imagined frames says where the model put things."""

    def __init__(self, config: ProbeConfig, network: ProbeNetwork) -> None:
        self.config, self.network = config, network.eval()

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str]) -> StateProbe:
        """Load from a model folder.

        Raises:
            RoboAlignError: the folder holds no probe, or a damaged one.
        """
        folder = resolve_model(name, CONFIG)
        try:
            config = ProbeConfig(**read_json(folder / CONFIG))
        except TypeError as error:
            raise RoboAlignError(f"{folder / CONFIG}: expected the keys of ProbeConfig, found: {error}") from error
        network = ProbeNetwork(config)
        load_into(network, load_tensors(folder / WEIGHTS), f"{folder}/{WEIGHTS}")
        return cls(config, network)

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> None:
        """Write safetensors and configuration, each file atomically."""
        save_tensors(Path(folder) / WEIGHTS, self.network.state_dict(), dtype)
        write_json(Path(folder) / CONFIG, asdict(self.config))

    @torch.no_grad()
    def read(self, frames: np.ndarray) -> np.ndarray:
        """Frames (N, H, W, 3) uint8 → state (N, columns) float32."""
        pixels = to_pixels(torch.from_numpy(np.ascontiguousarray(frames)), (self.config.height, self.config.width))
        parts = [self.network(part) for part in pixels.split(256)]
        return (torch.cat(parts) * torch.tensor(self.config.std) + torch.tensor(self.config.mean)).numpy()
