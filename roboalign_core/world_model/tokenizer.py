"""The dual-branch tokenizer: the newest frames as context, later frames as what differs from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.config import NORM_GROUPS, TokenizerConfig
from roboalign_core.world_model.fsq import FSQ
from roboalign_core.world_model.layers import Block, ConvBlock

GREY = 0.5  # of the frames that a start frame is coded relative to


@dataclass(frozen=True, slots=True)
class ContextFeatures:
    """What coding and decoding a later frame need of its context of k frames.

    Attributes:
        latent: (B, k·h·w, C) at the context grid, decoded from the context's codes, oldest frame first.
        fine: (B, C_fine, H/patch, W/patch), decoded from the codes of the newest frame.
        pixels: (B, k, 3, H, W) float32 in [0, 1], the context frames themselves, oldest first.
    """

    latent: Tensor
    fine: Tensor
    pixels: Tensor

    @property
    def newest(self) -> Tensor:
        """(B, 3, H, W), the newest context frame: what does not change is copied from here."""
        return self.pixels[:, -1]

    def repeat(self, times: int) -> ContextFeatures:
        """Each context ``times`` times in a row, as later frames of one clip are laid out."""
        if times == 1:
            return self
        return ContextFeatures(*(part.repeat_interleave(times, 0) for part in (self.latent, self.fine, self.pixels)))

    def __getitem__(self, index: slice | Tensor) -> ContextFeatures:
        return ContextFeatures(self.latent[index], self.fine[index], self.pixels[index])


class FrameEncoder(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] → (B, h·w, C) at the context grid.

    ``conditioned``, its blocks attend to the context's latent, and with ``composite`` it also sees what changed since
    the newest context frame.
    """

    def __init__(self, config: TokenizerConfig, conditioned: bool) -> None:
        super().__init__()
        fine, latent, factor = config.fine_width, config.latent_width, config.context_stride // config.patch
        rows, columns = config.context_grid
        self.compares = conditioned and config.composite
        self.stem = nn.Conv2d(6 if self.compares else 3, fine, config.patch, stride=config.patch)
        self.conv = ConvBlock(fine)
        self.down = nn.Conv2d(fine, latent, factor, stride=factor)
        self.mix = ConvBlock(latent)
        self.position = nn.Parameter(torch.randn(1, rows * columns, latent) * 0.1)
        self.blocks = nn.ModuleList(Block(latent, config.heads, conditioned) for _ in range(config.encoder_blocks))

    def forward(self, pixels: Tensor, context: ContextFeatures | None = None) -> Tensor:
        """(B, 3, H, W), and the context of each where ``conditioned``, → (B, h·w, C)."""
        seen = pixels
        if self.compares and context is not None:
            seen = torch.cat([pixels, 0.5 + pixels - context.newest], dim=1)
        x = self.mix(self.down(self.conv(self.stem((seen * 2 - 1).to(self.stem.weight.dtype)))))
        x = x.flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x, None if context is None else context.latent)
        return x


class PixelHead(nn.Module):
    """(B, h·w, C) at the context grid → fine features (B, C_fine, H/patch, W/patch) → ``channels`` per pixel.

    ``conditioned``, fine features also see those of the newest context frame, and with ``composite`` its pixels, too.
    """

    def __init__(self, config: TokenizerConfig, channels: int, convs: int, conditioned: bool) -> None:
        super().__init__()
        factor, fine, area = config.context_stride // config.patch, config.fine_width, config.patch**2
        self.composite = config.composite
        self.grid, self.patch = config.context_grid, config.patch
        self.mix = ConvBlock(config.latent_width)
        self.up = nn.Conv2d(config.latent_width, fine * factor * factor, 1)
        self.shuffle = nn.PixelShuffle(factor)
        self.merge = nn.Conv2d(2 * fine + 3 * area * self.composite, fine, 1) if conditioned else None
        self.convs = nn.Sequential(*(ConvBlock(fine) for _ in range(convs)))
        self.out = nn.Sequential(
            nn.GroupNorm(NORM_GROUPS, fine),
            nn.GELU(),
            nn.Conv2d(fine, channels * area, 3, padding=1),
            nn.PixelShuffle(config.patch),
        )

    def features(self, latent: Tensor, context: ContextFeatures | None = None) -> Tensor:
        """(B, h·w, C), and the context of each where ``conditioned``, → fine features."""
        x = self.shuffle(self.up(self.mix(latent.transpose(1, 2).unflatten(2, self.grid))))
        if self.merge is not None and context is not None:
            known = [x, context.fine]
            if self.composite:
                known.append(F.pixel_unshuffle(context.newest * 2 - 1, self.patch).to(x.dtype))
            x = self.merge(torch.cat(known, dim=1))
        return self.convs(x)

    def forward(self, features: Tensor) -> Tensor:
        """Fine features → (B, channels, H, W) float32."""
        return self.out(features).float()


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

    The context is the newest ``context_frames`` = k frames, oldest first. The context branch codes each of them alone;
    what its codes are decoded to knows how old it is. The dynamics branch codes a later frame in far fewer tokens:
    encoder and decoder cross-attend to features that are decoded from the codes of all k, so that both sides see the
    same. The decoder draws what changed and how far it covers the newest context frame; the rest is that frame's own
    pixels (as in Finn et al. 2016), so that what stands still neither blurs nor drifts, also when drawn frames become
    contexts. A dynamics token whose pixels have not changed since the newest context frame always is ``still_code``: a
    code that is free to vary would vary, and the transformer would have to predict what means nothing. A frame that
    rollouts start from would be nothing but such tokens, so it is coded relative to grey (:meth:`encode_start`).
    Without ``composite`` there is none of this, and later frames are drawn from codes alone.
    Pixels are float (B, 3, H, W) in [0, 1], those of contexts (B, k, 3, H, W); codes are int64.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        latent, heads = config.latent_width, config.heads
        rows, columns = config.context_grid
        self.factor = config.dynamics_stride // config.context_stride
        self.context_fsq = FSQ(config.context_levels)
        self.dynamics_fsq = FSQ(config.dynamics_levels)

        self.context_encoder = FrameEncoder(config, conditioned=False)
        self.context_in = Bottleneck(latent, self.context_fsq.dim)
        self.context_out = nn.Linear(self.context_fsq.dim, latent)
        self.context_position = nn.Parameter(torch.randn(1, rows * columns, latent) * 0.1)
        older = range(config.context_frames - 1)
        self.context_ages = nn.ParameterList(nn.Parameter(torch.randn(latent) * 0.1) for _ in older)  # oldest first
        self.context_blocks = nn.ModuleList(Block(latent, heads) for _ in range(config.encoder_blocks))
        self.context_head = PixelHead(config, channels=3, convs=1, conditioned=False)

        self.dynamics_encoder = FrameEncoder(config, conditioned=True)
        self.dynamics_in = Bottleneck(latent * self.factor**2, self.dynamics_fsq.dim)
        self.dynamics_out = nn.Linear(self.dynamics_fsq.dim, latent * self.factor**2)
        self.dynamics_position = nn.Parameter(torch.randn(1, rows * columns, latent) * 0.1)
        self.dynamics_blocks = nn.ModuleList(Block(latent, heads, cross=True) for _ in range(config.decoder_blocks))
        self.dynamics_head = PixelHead(config, channels=3 + config.composite, convs=2, conditioned=True)

    # -- context branch ---------------------------------------------------------------------------------------------

    def encode_context(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, k, 3, H, W) → values (B, k·n, d) with gradient, codes (B, k·n).

        Raises:
            RoboAlignError: not as many frames as a context has.
        """
        batch = self._contexts(pixels)
        values, codes = self.context_fsq(self.context_in(self.context_encoder(pixels.flatten(0, 1))))
        return values.unflatten(0, batch).flatten(1, 2), codes.unflatten(0, batch).flatten(1)

    def context_features(self, values: Tensor, pixels: Tensor) -> ContextFeatures:
        """Values (B, k·n, d) and the frames that they code (B, k, 3, H, W) → what the dynamics branch sees of them."""
        batch = self._contexts(pixels)
        x = self.context_out(values.to(self.context_position.dtype)).unflatten(1, (batch[1], -1))
        x = (x + self.context_position + self._ages()).flatten(0, 1)
        for block in self.context_blocks:
            x = block(x)
        x = x.unflatten(0, batch)
        return ContextFeatures(x.flatten(1, 2), self.context_head.features(x[:, -1]), pixels)

    def context_features_of(self, codes: Tensor, pixels: Tensor) -> ContextFeatures:
        """Codes (B, k·n) and the frames that they code (B, k, 3, H, W) → context features."""
        return self.context_features(self.context_fsq.values(codes), pixels)

    def decode_context(self, features: ContextFeatures) -> Tensor:
        """Context features → pixels (B, 3, H, W) of the newest context frame, not clipped."""
        return self.context_head(features.fine) + 0.5

    def _ages(self) -> Tensor:
        """(k, 1, C), what is added to the features of each context frame: nothing to those of the newest."""
        newest = torch.zeros_like(self.context_position[0, 0])
        return torch.stack([*self.context_ages, newest]).unsqueeze(1)

    def _contexts(self, pixels: Tensor) -> tuple[int, int]:
        """B and k of the pixels of contexts."""
        expected, found = self.config.context_frames, tuple(pixels.shape)
        if len(found) != 5 or found[1] != expected:
            raise RoboAlignError(f"context: expected pixels (B, {expected}, 3, H, W), found {found}")
        return found[0], found[1]

    # -- dynamics branch --------------------------------------------------------------------------------------------

    def encode_dynamics(self, pixels: Tensor, context: ContextFeatures) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W) and the context of each → values (B, m, d) with gradient, codes (B, m)."""
        x = self._gather(self.dynamics_encoder(pixels, context))
        values, codes = self.dynamics_fsq(self.dynamics_in(x))
        if not self.config.composite:
            return values, codes
        changed = self._changed(pixels, context.newest)
        return values * changed.unsqueeze(-1), torch.where(changed, codes, self.still_code)

    def encode_start(self, pixels: Tensor, context: ContextFeatures) -> Tensor:
        """Pixels (B, 3, H, W), the newest of their contexts, → codes (B, m) of the frame that a rollout starts from.

        With ``composite`` relative to grey frames: relative to itself it would say nothing, and what lies where would
        stand in the context tokens alone, none of which covers the cell of a dynamics token.
        """
        if not self.config.composite:
            return self.encode_dynamics(pixels, context)[1]
        grey = latest(torch.full_like(pixels[:1], GREY).unsqueeze(1), self.config.context_frames)
        features = self.context_features(self.encode_context(grey)[0], grey)
        return self.encode_dynamics(pixels, features.repeat(len(pixels)))[1]

    @property
    def still_code(self) -> int:
        """The dynamics code that says: as in the newest context frame. Its values are zeros."""
        return self.dynamics_fsq.centre

    def latent(self, values: Tensor, context: ContextFeatures) -> Tensor:
        """Values (B, m, d) → (B, h·w, C): the later frame at the context grid, before any pixel is drawn."""
        x = self._spread(self.dynamics_out(values.to(self.dynamics_position.dtype))) + self.dynamics_position
        for block in self.dynamics_blocks:
            x = block(x, context.latent)
        return x

    def decode_latent(self, latent: Tensor, context: ContextFeatures) -> Tensor:
        """Latent (B, h·w, C) → pixels (B, 3, H, W), not clipped."""
        drawn = self.dynamics_head(self.dynamics_head.features(latent, context))
        colour = drawn[:, :3] + 0.5
        return torch.lerp(context.newest, colour, drawn[:, 3:].sigmoid()) if self.config.composite else colour

    def decode_dynamics(self, codes: Tensor, context: ContextFeatures) -> Tensor:
        """Codes (B, m) → pixels (B, 3, H, W), not clipped."""
        return self.decode_latent(self.latent(self.dynamics_fsq.values(codes), context), context)

    def _changed(self, pixels: Tensor, context: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), twice → (B, m): whether anything differs visibly where a dynamics token lies."""
        difference = (pixels - context).abs().amax(1, keepdim=True)
        return F.max_pool2d(difference, self.config.dynamics_stride).flatten(1) > self.config.still_threshold

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


def latest(pixels: Tensor, count: int) -> Tensor:
    """Frames (B, j, …) of streams, oldest first → the newest ``count`` of them, (B, count, …).

    Where there are fewer, the oldest one stands for those before it, as if it had been still until then.
    """
    missing = count - pixels.shape[1]
    if missing > 0:
        pixels = torch.cat([pixels[:, :1].repeat_interleave(missing, 1), pixels], dim=1)
    return pixels[:, -count:]


def in_a_row(pixels: Sequence[Tensor]) -> Tensor:
    """Pixels (B, 3, H, W) of j points in time → (B, j, 3, H, W).

    Channels lie side by side in memory, as in frames: how convolutions round depends on it.
    """
    return torch.stack([each.movedim(-3, -1) for each in pixels], dim=1).movedim(-1, -3)


def to_pixels(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames uint8 (…, H, W, 3) → float (N, 3, h, w) in [0, 1], resized with antialiasing where the size differs."""
    x = frames.reshape(-1, *frames.shape[-3:]).permute(0, 3, 1, 2).float() / 255
    if tuple(x.shape[-2:]) != size:
        x = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
    return x


def to_frames(pixels: Tensor) -> Tensor:
    """Pixels float (…, 3, H, W) → uint8 (…, H, W, 3); values outside [0, 1] saturate, as any display does."""
    return (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1)
