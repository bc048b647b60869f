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
from roboalign_core.world_model.layers import Block

CONFIG, WEIGHTS = "progress.json", "progress.safetensors"


@dataclass
class ProgressConfig:
    """Sizes of the head.

    Attributes:
        instructions: sentences that the head knows.
        state: names of the positions that are read on the way to progress.
        constant: those of them that never change during an episode, as where a goal lies. Hidden states need not hold
            them; they are taken from the real frame.
        cells, channels: features of a context, tokens by C.
        dim: of the transformer's hidden states.
        width: of the reader of frames.
        slots: places that it looks at.
        hidden: width of the other networks.
    """

    instructions: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    constant: list[str] = field(default_factory=list)
    cells: int = 64
    channels: int = 192
    dim: int = 256
    width: int = 96
    slots: int = 16
    hidden: int = 256


class StateReader(nn.Module):
    """Features of a context (B, cells, channels) → where things are (B, state), standardised.

    All cells share their weights and learned queries pick the cells to read from; a network on the flattened grid would
    have to learn every position anew.
    """

    def __init__(self, config: ProgressConfig) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(config.channels), nn.Linear(config.channels, config.width))
        self.position = nn.Parameter(torch.randn(1, config.cells, config.width) * 0.1)
        self.block = Block(config.width, heads=4, expansion=2)
        self.norm = nn.LayerNorm(config.width)
        self.query = nn.Parameter(torch.randn(config.slots, config.width) * config.width**-0.5)
        self.out = nn.Sequential(
            nn.Linear(config.slots * config.width, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, len(config.state)),
        )

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        cells = self.norm(self.block(self.enter(features) + self.position))
        looks = (self.query @ cells.transpose(1, 2)).softmax(-1)
        return self.out((looks @ cells).flatten(1))


class ProgressHead(nn.Module):
    """Progress (B, instructions) of an imagined frame since a real one.

    The real frame comes as its context features (B, cells, channels), the imagined one as the hidden state (B, dim)
    that the transformer has of it, see :attr:`roboalign_core.world_model.rollout.Imagination.expected`. What lies
    between are the positions of things in either.
    """

    constant: Tensor

    def __init__(self, config: ProgressConfig) -> None:
        super().__init__()
        constant = torch.tensor([name in config.constant for name in config.state])
        self.register_buffer("constant", constant, persistent=False)
        self.reader = StateReader(config)
        self.expectation = nn.Sequential(
            nn.LayerNorm(config.dim),
            nn.Linear(config.dim, 2 * config.hidden),
            nn.GELU(),
            nn.Linear(2 * config.hidden, len(config.state)),
        )
        self.network = nn.Sequential(
            nn.Linear(2 * len(config.state), config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, config.hidden),
            nn.GELU(),
            nn.Linear(config.hidden, len(config.instructions)),
        )

    def progress(self, first: Tensor, later: Tensor) -> Tensor:
        """Standardised states (B, state) of both frames → progress (B, instructions)."""
        return self.network(torch.cat([first, torch.where(self.constant, first, later)], dim=-1))

    def forward(self, first: Tensor, expected: Tensor) -> Tensor:
        """See the class."""
        return self.progress(self.reader(first), self.expectation(expected))


class ProgressModel:
    """Predicts task progress in [0, 1] of imagined frames: no pixels are drawn, the simulator is not asked."""

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
    def score(self, first: Tensor, expected: Tensor, instruction: str) -> np.ndarray:
        """Progress (N, T) float32 of imagined frames, from their hidden states ``expected`` (N, T, dim).

        ``first`` (1, cells, channels) are the context features of the frame that progress is measured from.
        """
        index = self.check_instruction(instruction)
        dtype = self.head.reader.position.dtype
        later = self.head.expectation(expected.to(dtype))
        before = self.head.reader(first.to(dtype))[:, None].expand(*later.shape[:2], -1)
        return self.head.progress(before, later)[..., index].float().cpu().numpy()
