"""The dual-branch tokenizer: one frame as context, later frames as what differs from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roboalign_core.world_model.config import NORM_GROUPS, TokenizerConfig
from roboalign_core.world_model.fsq import FSQ
from roboalign_core.world_model.layers import Block, ConvBlock


@dataclass(frozen=True, slots=True)
class ContextFeatures:
    """What decoding a later frame needs of its context frame.

    Attributes:
        latent: (B, h·w, C) at the context grid.
        fine: (B, C_fine, H/patch, W/patch).
    """

    latent: Tensor
    fine: Tensor

    def repeat(self, times: int) -> ContextFeatures:
        """Each context ``times`` times in a row, as later frames of one clip are laid out."""
        if times == 1:
            return self
        return ContextFeatures(self.latent.repeat_interleave(times, 0), self.fine.repeat_interleave(times, 0))

    def __getitem__(self, index: slice | Tensor) -> ContextFeatures:
        return ContextFeatures(self.latent[index], self.fine[index])


class FrameEncoder(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] → (B, h·w, C) at the context grid.

    With ``cross``, blocks also attend to ``source`` (B, S, C).
    """

    def __init__(self, config: TokenizerConfig, cross: bool) -> None:
        super().__init__()
        fine, latent, factor = config.fine_width, config.latent_width, config.context_stride // config.patch
        rows, columns = config.context_grid
        self.stem = nn.Conv2d(3, fine, config.patch, stride=config.patch)
        self.conv = ConvBlock(fine)
        self.down = nn.Conv2d(fine, latent, factor, stride=factor)
        self.mix = ConvBlock(latent)
        self.position = nn.Parameter(torch.randn(1, rows * columns, latent) * 0.1)
        self.blocks = nn.ModuleList(Block(latent, config.heads, cross) for _ in range(config.encoder_blocks))

    def forward(self, pixels: Tensor, source: Tensor | None = None) -> Tensor:
        """(B, 3, H, W), and (B, S, C) with ``cross``, → (B, h·w, C)."""
        pixels = pixels.to(self.stem.weight.dtype)
        x = self.mix(self.down(self.conv(self.stem(pixels * 2 - 1))))
        x = x.flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x, source)
        return x


class PixelHead(nn.Module):
    """(B, h·w, C) at the context grid → fine features (B, C_fine, H/patch, W/patch) → pixels (B, 3, H, W)."""

    def __init__(self, config: TokenizerConfig, conditioned: bool, convs: int) -> None:
        super().__init__()
        factor = config.context_stride // config.patch
        self.grid = config.context_grid
        self.mix = ConvBlock(config.latent_width)
        self.up = nn.Conv2d(config.latent_width, config.fine_width * factor * factor, 1)
        self.shuffle = nn.PixelShuffle(factor)
        self.merge = nn.Conv2d(2 * config.fine_width, config.fine_width, 1) if conditioned else None
        self.convs = nn.Sequential(*(ConvBlock(config.fine_width) for _ in range(convs)))
        self.out = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, config.fine_width),
            nn.GELU(),
            nn.Conv2d(config.fine_width, 3 * config.patch**2, 3, padding=1),
            nn.PixelShuffle(config.patch),
        )

    def features(self, latent: Tensor, fine: Tensor | None = None) -> Tensor:
        """(B, h·w, C), with ``conditioned`` also the context's fine features → fine features."""
        x = self.shuffle(self.up(self.mix(latent.transpose(1, 2).unflatten(2, self.grid))))
        if self.merge is not None and fine is not None:
            x = self.merge(torch.cat([x, fine], dim=1))
        return self.convs(x)

    def pixels(self, features: Tensor) -> Tensor:
        """Fine features → pixels (B, 3, H, W) float32, not clipped."""
        return self.out(features).float() + 0.5


class Bottleneck(nn.Module):
    """(B, n, C) → (B, n, d), ready for FSQ.

    Standardised per channel over batch and positions: without that, what all positions have in common crowds the
    values into a few codes and the codebook collapses early.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, dim)
        self.standardise = nn.BatchNorm1d(dim, affine=False, momentum=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n, C) → (B, n, d)."""
        z = self.linear(self.norm(x))
        return self.standardise(z.flatten(0, 1)).unflatten(0, z.shape[:2])


class DualBranchTokenizer(nn.Module):
    """Frames ↔ codes (RoboAlign-R1, A4; iVideoGPT's conditional tokenizer with FSQ in both branches).

    The context branch codes one frame alone. The dynamics branch codes a later frame in far fewer tokens: encoder and
    decoder cross-attend to features that are decoded from the context's codes, so that both sides see the same.
    Pixels are float (B, 3, H, W) in [0, 1]; codes are int64.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        latent, heads = config.latent_width, config.heads
        rows, columns = config.context_grid
        self.factor = config.dynamics_stride // config.context_stride
        self.context_fsq = FSQ(config.context_levels)
        self.dynamics_fsq = FSQ(config.dynamics_levels)

        self.context_encoder = FrameEncoder(config, cross=False)
        self.context_in = Bottleneck(latent, self.context_fsq.dim)
        self.context_out = nn.Linear(self.context_fsq.dim, latent)
        self.context_position = nn.Parameter(torch.randn(1, rows * columns, latent) * 0.1)
        self.context_blocks = nn.ModuleList(Block(latent, heads) for _ in range(config.encoder_blocks))
        self.context_head = PixelHead(config, conditioned=False, convs=1)

        self.dynamics_encoder = FrameEncoder(config, cross=True)
        self.dynamics_in = Bottleneck(latent * self.factor**2, self.dynamics_fsq.dim)
        self.dynamics_out = nn.Linear(self.dynamics_fsq.dim, latent * self.factor**2)
        self.dynamics_position = nn.Parameter(torch.randn(1, rows * columns, latent) * 0.1)
        self.dynamics_blocks = nn.ModuleList(Block(latent, heads, cross=True) for _ in range(config.decoder_blocks))
        self.dynamics_head = PixelHead(config, conditioned=True, convs=2)

    # -- context branch ---------------------------------------------------------------------------------------------

    def encode_context(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) → values (B, n, d) with gradient, codes (B, n)."""
        values, codes = self.context_fsq(self.context_in(self.context_encoder(pixels)))
        return values, codes

    def context_features(self, values: Tensor) -> ContextFeatures:
        """Values (B, n, d) → what the dynamics branch attends to."""
        x = self.context_out(values.to(self.context_position.dtype)) + self.context_position
        for block in self.context_blocks:
            x = block(x)
        return ContextFeatures(x, self.context_head.features(x))

    def context_features_of(self, codes: Tensor) -> ContextFeatures:
        """Codes (B, n) → context features."""
        return self.context_features(self.context_fsq.values(codes))

    def decode_context(self, features: ContextFeatures) -> Tensor:
        """Context features → pixels (B, 3, H, W), not clipped."""
        return self.context_head.pixels(features.fine)

    # -- dynamics branch --------------------------------------------------------------------------------------------

    def encode_dynamics(self, pixels: Tensor, context: ContextFeatures) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) and the context of each → values (B, m, d) with gradient, codes (B, m)."""
        x = self._gather(self.dynamics_encoder(pixels, context.latent))
        values, codes = self.dynamics_fsq(self.dynamics_in(x))
        return values, codes

    def latent(self, values: Tensor, context: ContextFeatures) -> Tensor:
        """Values (B, m, d) → (B, h·w, C): the later frame at the context grid, before any pixel is drawn."""
        x = self._spread(self.dynamics_out(values.to(self.dynamics_position.dtype))) + self.dynamics_position
        for block in self.dynamics_blocks:
            x = block(x, context.latent)
        return x

    def decode_latent(self, latent: Tensor, context: ContextFeatures) -> Tensor:
        """Latent (B, h·w, C) → pixels (B, 3, H, W), not clipped."""
        return self.dynamics_head.pixels(self.dynamics_head.features(latent, context.fine))

    def decode_dynamics(self, codes: Tensor, context: ContextFeatures) -> Tensor:
        """Codes (B, m) → pixels (B, 3, H, W), not clipped."""
        return self.decode_latent(self.latent(self.dynamics_fsq.values(codes), context), context)

    # -- grids ------------------------------------------------------------------------------------------------------

    def _gather(self, x: Tensor) -> Tensor:
        """(B, h·w, C) → (B, m, C·f²): the f×f cells that one dynamics token covers, side by side."""
        (rows, columns), f = self.config.context_grid, self.factor
        x = x.unflatten(1, (rows // f, f, columns // f, f)).permute(0, 1, 3, 2, 4, 5)
        return x.flatten(3).flatten(1, 2)

    def _spread(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`_gather`."""
        (rows, columns), f = self.config.dynamics_grid, self.factor
        x = x.unflatten(-1, (f, f, -1)).unflatten(1, (rows, columns)).permute(0, 1, 3, 2, 4, 5)
        return x.flatten(1, 4)


def to_pixels(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames uint8 (…, H, W, 3) → float (N, 3, h, w) in [0, 1], resized with antialiasing where the size differs."""
    x = frames.reshape(-1, *frames.shape[-3:]).permute(0, 3, 1, 2).float() / 255
    if tuple(x.shape[-2:]) != size:
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
    return x


def to_frames(pixels: Tensor) -> Tensor:
    """Pixels float (N, 3, H, W) → uint8 (N, H, W, 3); values outside [0, 1] saturate, as any display does."""
    return (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
