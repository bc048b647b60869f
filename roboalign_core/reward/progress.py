"""The planner's objective: how far does an imagined frame fulfil the instruction?"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from roboalign_core.bundled import resolve_model
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json
from roboalign_core.tensors import load_into, load_tensors, save_tensors

CONFIG, WEIGHTS = "progress.json", "progress.safetensors"


@dataclass
class ProgressConfig:
    """Sizes of the head.

    Attributes:
        instructions: sentences that the head knows.
        cells, channels: the tokenizer's features, h·w by C.
        narrow: channels that a cell is reduced to.
        hidden: width of the network.
    """

    instructions: list[str] = field(default_factory=list)
    cells: int = 64
    channels: int = 192
    narrow: int = 12
    hidden: int = 384


class ProgressHead(nn.Module):
    """Features of the first frame and of a later one, both (B, cells, channels), → progress (B, instructions).

    Both frames are seen relative to the same context. Positions matter, so cells are not pooled.
    """

    def __init__(self, config: ProgressConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.channels)
        self.narrow = nn.Linear(config.channels, config.narrow)
        self.network = nn.Sequential(
            nn.Linear(2 * config.cells * config.narrow, config.hidden),
            nn.GELU(),
            nn.LayerNorm(config.hidden),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.LayerNorm(config.hidden),
            nn.Linear(config.hidden, len(config.instructions)),
        )

    def forward(self, first: Tensor, later: Tensor) -> Tensor:
        """Two (B, cells, channels) → (B, instructions)."""
        pair = torch.cat([self.narrow(self.norm(first)).flatten(1), self.narrow(self.norm(later)).flatten(1)], dim=1)
        return self.network(pair)


class ProgressModel:
    """Predicts task progress in [0, 1] from tokenizer features: no pixels are drawn, no simulator state is read."""

    def __init__(self, config: ProgressConfig, head: ProgressHead) -> None:
        self.config, self.head = config, head.eval()

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], device: str | torch.device = "cpu") -> ProgressModel:
        """Load from its own folder, or from that of the world model beside which it lies.

        Raises:
            RoboAlignError: the folder holds no progress head, or a damaged one.
        """
        folder = resolve_model(name, CONFIG)
        try:
            config = ProgressConfig(**read_json(folder / CONFIG))
        except TypeError as error:
            raise RoboAlignError(f"{folder / CONFIG}: expected the keys of ProgressConfig, found: {error}") from error
        head = ProgressHead(config)
        load_into(head, load_tensors(folder / WEIGHTS), f"{folder}/{WEIGHTS}")
        return cls(config, head.to(device))

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.bfloat16) -> None:
        """Write safetensors and configuration, each file atomically."""
        save_tensors(Path(folder) / WEIGHTS, self.head.state_dict(), dtype)
        write_json(Path(folder) / CONFIG, asdict(self.config))

    def check_instruction(self, instruction: str) -> int:
        """Index of an instruction.

        Raises:
            RoboAlignError: empty, or not among those that the head was trained on.
        """
        if not isinstance(instruction, str) or not instruction.strip():
            raise RoboAlignError(f"instruction: expected a sentence, found {instruction!r}")
        if instruction not in self.config.instructions:
            known = "; ".join(self.config.instructions)
            raise RoboAlignError(f"instruction: expected one of [{known}], found {instruction!r}")
        return self.config.instructions.index(instruction)

    @torch.no_grad()
    def score(self, first: Tensor, later: Tensor, instruction: str) -> np.ndarray:
        """Progress (N,) float32 of frames ``later`` (N, cells, channels) since ``first`` (1 or N, cells, channels)."""
        index = self.check_instruction(instruction)
        dtype = self.head.narrow.weight.dtype
        first = first.to(dtype).expand(len(later), -1, -1)
        return self.head(first, later.to(dtype))[:, index].float().cpu().numpy()
