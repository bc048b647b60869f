"""Videos under an instruction: cells of every frame, slots that the instruction picks from them, layers over time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roboalign_core.reward.config import RewardModelConfig

_INPUTS = 12  # colour; its difference to the frame before, and to the first frame; the largest change in between
_THIN = 8  # channels of the cells that are read each at its own place
_READ, _READER = 16, 192  # the same where positions are read, and the width of that network
_SCALES = (1 / 128, 1 / 64, 1 / 64, 1 / 64)  # that bring each to about -1 to 1


def inputs(summaries: Tensor) -> Tensor:
    """Summaries (B, 2, F, H, W, 3) uint8 → (B, F, 12, H, W) bfloat16 in steps of 1/255 of the brightness.

    All of them are whole numbers up to 256, which bfloat16 holds exactly.
    """
    batch, _, count, height, width, colours = summaries.shape
    planes = torch.empty(
        batch, count, 4, colours, height, width, dtype=torch.bfloat16, device=summaries.device
    )  # written in place: on a CPU the copies of torch.cat would cost as much as the network
    now, before, first, peak = planes.unbind(2)
    now.copy_(summaries[:, 0].permute(0, 1, 4, 2, 3))
    peak.copy_(summaries[:, 1].permute(0, 1, 4, 2, 3))
    before[:, 0] = 0
    torch.sub(now[:, 1:], now[:, :-1], out=before[:, 1:])
    torch.sub(now, now[:, :1], out=first)
    now.sub_(128)
    return planes.flatten(2, 3)


class Film(nn.Module):
    """Channels of (B, L, C) scaled and shifted by what the instruction (B, W) says (FiLM, Perez et al. 2018).

    It starts out as strong as this: whether the video shows what the instruction says is a product of both, and where
    that hardly shows in the features, training stays for long with what either of them says alone.
    """

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.amounts = nn.Linear(text_width, 2 * width)
        nn.init.normal_(self.amounts.weight, std=text_width**-0.5)  # embeddings have a variance of 1
        nn.init.zeros_(self.amounts.bias)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """See the class."""
        scale, shift = self.amounts(text)[:, None].chunk(2, dim=-1)
        return torch.addcmul(x + shift, x, scale)


class CellBlock(nn.Module):
    """Residual block over the cells (N, C, h, w) of B · F = N frames: depth-wise 3×3, then a network on each cell."""

    def __init__(self, width: int, text_width: int, expansion: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.film = Film(width, text_width)
        self.mlp = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))

    def forward(self, cells: Tensor, text: Tensor) -> Tensor:
        """(N, C, h, w) and instruction embeddings (B, W) → (N, C, h, w)."""
        mixed = self.norm(self.mix(cells).permute(0, 2, 3, 1)).reshape(len(text), -1, cells.shape[1])
        changed = self.mlp(self.film(mixed, text))
        return cells + changed.view(len(cells), *cells.shape[2:], -1).permute(0, 3, 1, 2)


class PositionReader(nn.Module):
    """Where things are in a frame, whatever the instruction, and what that says under it.

    Six scores a video are few to learn from; where a simulator recorded where things were, that is K numbers a frame.
    They are read from the cells, each at its own place, before the instruction changes them. What goes on to the scores
    are the numbers and how far they are from those of the first and of the last frame: whether something was pushed far
    enough is a matter of millimetres.
    """

    def __init__(self, config: RewardModelConfig) -> None:
        super().__init__()
        vision, count = config.vision, len(config.positions)
        self.norm = nn.LayerNorm(vision.cell_width)
        self.thin = nn.Linear(vision.cell_width, _READ)
        self.wide = nn.Linear(_READ * config.grid[0] * config.grid[1], _READER)
        self.read = nn.Linear(_READER, count)
        self.embed = nn.Linear(3 * count, vision.width)
        self.mix = nn.Linear(vision.width, vision.width)
        self.film = Film(vision.width, config.text.width)
        self.out = nn.Linear(vision.width, vision.width)

    def forward(self, cells: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """(B · F, C, h, w) and (B, W) → standardised positions (B, F, K) float32, and hidden states (B, F, width)."""
        thin = F.gelu(self.thin(self.norm(cells.permute(0, 2, 3, 1)))).flatten(1)
        places = self.read(F.gelu(self.wide(thin))).unflatten(0, (len(text), -1)).float()
        since, left = places - places[:, :1], places[:, -1:] - places
        known = torch.cat([places, since, left], dim=-1).to(thin.dtype)
        mixed = self.mix(F.gelu(self.film(self.embed(known), text)))
        return places, self.out(F.gelu(self.film(mixed, text)))


class FrameEncoder(nn.Module):
    """Summaries (B, 2, F, H, W, 3) uint8 and instruction embeddings (B, W) → frames' hidden states (B, F, width).

    The instruction picks what to look at, wherever that is; beside it stand a coarse map of the whole frame, in which
    the direction of a motion is a sum with signs and need not be found out from edges, and positions, if the
    configuration names any. These, standardised, come out as well: (B, F, K), K may be 0.
    """

    scales: Tensor

    def __init__(self, config: RewardModelConfig) -> None:
        super().__init__()
        vision, text_width = config.vision, config.text.width
        self.register_buffer("scales", torch.tensor(_SCALES).repeat_interleave(3).view(1, -1, 1, 1), persistent=False)
        self.patches = nn.Conv2d(_INPUTS, vision.patch_width, vision.patch, stride=vision.patch)
        self.cells = nn.Conv2d(vision.patch_width, vision.cell_width, 3, stride=2, padding=1)
        self.position = nn.Parameter(torch.randn(vision.cell_width, *config.grid) * 0.02)
        blocks = [CellBlock(vision.cell_width, text_width, vision.expansion) for _ in range(vision.blocks)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(vision.cell_width)
        self.query = nn.Linear(text_width, vision.slots * vision.cell_width)
        nn.init.normal_(self.query.weight, std=1.5 * text_width**-0.5)  # looks differ from the start
        self.out = nn.Linear(vision.slots * vision.cell_width, vision.width)
        self.thin = nn.Linear(vision.cell_width, _THIN)
        self.map = nn.Linear(_THIN * config.grid[0] * config.grid[1], vision.width)
        self.reader = PositionReader(config) if config.positions else None
        self.slots = vision.slots

    def forward(self, summaries: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        pixels = inputs(summaries).flatten(0, 1)
        if not torch.is_autocast_enabled(pixels.device.type):
            pixels = pixels.to(self.patches.weight.dtype)
        patches = F.conv2d(pixels, self.patches.weight * self.scales, self.patches.bias, self.patches.stride)
        cells = self.cells(F.gelu(patches).contiguous(memory_format=torch.channels_last)) + self.position
        positions, read = self._read(cells, text)
        for block in self.blocks:
            cells = block(cells, text)
        places = self.norm(cells.permute(0, 2, 3, 1)).unflatten(0, (len(text), -1)).flatten(2, 3)  # (B, F, h·w, C)
        query = self.query(text).unflatten(1, (1, self.slots, -1)) * places.shape[-1] ** -0.5
        looks = (query @ places.transpose(2, 3)).softmax(-1)
        return self.out((looks @ places).flatten(2)) + self.map(self.thin(places).flatten(2)) + read, positions

    def _read(self, cells: Tensor, text: Tensor) -> tuple[Tensor, Tensor | float]:
        if self.reader is not None:
            return self.reader(cells, text)
        return cells.new_zeros(len(text), len(cells) // len(text), 0, dtype=torch.float32), 0.0


class VideoEncoder(nn.Module):
    """Summaries (B, 2, F, H, W, 3) uint8 and instruction embeddings (B, W) → (B, 3 · width), what a head reads.

    A head reads the outputs at the token of the instruction, at the last frame, and the mean of those at all frames. A
    position in time is a share of the video, so that videos with fewer frames than ``config.frames`` begin and end
    where the others do. The positions that the frames are read as, (B, F, K), come out as well.
    """

    def __init__(self, config: RewardModelConfig) -> None:
        super().__init__()
        vision = config.vision
        self.frames = FrameEncoder(config)
        self.film = Film(vision.width, config.text.width)
        self.start = nn.Linear(config.text.width, vision.width)
        self.position = nn.Parameter(torch.randn(config.frames, vision.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            vision.width,
            vision.heads,
            vision.expansion * vision.width,
            vision.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(vision.width)
        self.layers = nn.TransformerEncoder(layer, vision.layers, norm, enable_nested_tensor=False)

    def forward(self, summaries: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        frames, positions = self.frames(summaries, text)
        frames = self.film(frames, text) + self._times(summaries.shape[2])
        start = self.start(text)[:, None].to(frames.dtype)
        found = self.layers(torch.cat([start, frames], dim=1))
        return torch.cat([found[:, 0], found[:, -1], found[:, 1:].mean(1)], dim=-1), positions

    def _times(self, count: int) -> Tensor:
        """(count, width), interpolated between the learned ones."""
        if count == len(self.position):
            return self.position
        spread = F.interpolate(self.position.T[None], size=count, mode="linear", align_corners=True)
        return spread[0].T
