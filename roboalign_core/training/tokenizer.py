"""Stage 1: the dual-branch tokenizer, on pixels only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.perceptual import trained_perceptual
from roboalign_core.training.data import StoreSampler
from roboalign_core.training.discriminator import PatchDiscriminator
from roboalign_core.training.saliency import ReconstructionConfig, psnr
from roboalign_core.world_model.config import WorldModelConfig
from roboalign_core.world_model.model import save_tokenizer
from roboalign_core.world_model.tokenizer import GREY, DualBranchTokenizer, to_pixels


@dataclass
class TokenizerStageConfig(ReconstructionConfig):
    """What stage 1 draws and weighs; the weights of pixels are in :class:`ReconstructionConfig`.

    Attributes:
        clips: clips a step.
        targets: later frames that are drawn of each clip.
        distance: largest distance in frames between context and later frame.
        nearest: the smallest; by default 0, because Sliding Window Re-encoding makes the current frame its own context.
        same_share: share of the later frames at distance 0.
        still_share: share of the clips whose context is one frame, repeated, as where a stream begins; nothing changes
            where a context is one frame anyway.
        own_share: share of the clips whose context is the tokenizer's own drawing (:func:`own_drawings`).
        grey_share: share of the clips whose context is grey, so that start frames can be coded by themselves;
            without ``composite`` they are not, and there are none. Logged figures leave them out.
        perceptual: weight of LPIPS; above 0 its trained network has to be on this machine.
        adversarial: weight of a hinge GAN's loss on later frames; 0: no discriminator.
        adversarial_after: steps before the discriminator begins.
    """

    clips: int = 16
    targets: int = 2
    distance: int = 16
    nearest: int = 0
    same_share: float = 0.1
    still_share: float = 0.25
    own_share: float = 0.25
    grey_share: float = 0.125
    perceptual: float = 0.0
    adversarial: float = 0.0
    adversarial_after: int = 0

    def __post_init__(self) -> None:
        if self.clips < 1 or self.targets < 1:
            raise RoboAlignError(f"stage: expected clips and targets >= 1, found {self.clips} and {self.targets}")
        for name in ("same_share", "still_share", "own_share", "grey_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise RoboAlignError(f"stage.{name}: expected a share in [0, 1], found {getattr(self, name)}")
        if self.own_share + self.grey_share > 1 or self.grey_share == 1:
            raise RoboAlignError(
                "stage.own_share + stage.grey_share: expected at most 1, they are shares of the same clips, and grey "
                f"contexts alone teach nothing, found {self.own_share} + {self.grey_share}"
            )
        for name in ("perceptual", "adversarial", "adversarial_after"):
            if getattr(self, name) < 0:
                raise RoboAlignError(f"stage.{name}: expected 0 or more, found {getattr(self, name)}")
        if not 0 <= self.nearest <= self.distance:
            raise RoboAlignError(f"stage.nearest: expected 0 to distance ({self.distance}), found {self.nearest}")


class TokenizerTraining(nn.Module):
    """The tokenizer, and while training a discriminator of its drawings; one optimiser and one clipping for both."""

    def __init__(self, model: WorldModelConfig, discriminator: bool) -> None:
        super().__init__()
        self.tokenizer = DualBranchTokenizer(model.tokenizer)
        self.discriminator = PatchDiscriminator() if discriminator else None


class TokenizerStage:
    """Reconstruct a context's newest frame alone, and later frames given the context (RoboAlign-R1, A4, stage 1)."""

    def __init__(
        self, config: TokenizerStageConfig, model: WorldModelConfig, sampler: StoreSampler, device: str
    ) -> None:
        self.config, self.model, self.sampler = config, model, sampler
        self.device = torch.device(device)
        self.perceptual = trained_perceptual(self.device) if config.perceptual else None
        self.module = TokenizerTraining(model, config.adversarial > 0).to(self.device)
        self.tokenizer = self.module.tokenizer
        self.steps = 0

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        """Reconstruction losses of both branches on a fresh batch."""
        context, targets = self._draw()
        count = targets.shape[0] // context.shape[0]
        values, context_codes = self.tokenizer.encode_context(context)
        features = self.tokenizer.context_features(values, context)
        drawn = self.tokenizer.decode_context(features)
        repeated = features.repeat(count)
        later, dynamics_codes = self.tokenizer.encode_dynamics(targets, repeated)
        predicted = self.tokenizer.decode_latent(self.tokenizer.latent(later, repeated), repeated)

        newest = features.newest
        context_loss = self.config.drawing_loss(drawn, newest, newest)  # which nothing has changed since
        dynamics_loss = self.config.drawing_loss(predicted, targets, repeated.newest)
        shown = len(context) - self._grey(len(context))
        figures = {
            "context_psnr": psnr(drawn[:shown].detach(), newest[:shown]).item(),
            "dynamics_psnr": psnr(predicted[: shown * count].detach(), targets[: shown * count]).item(),
            "context_codes": float(context_codes.unique().numel()),
            "dynamics_codes": float(dynamics_codes.unique().numel()),
        }
        loss = context_loss + dynamics_loss
        if self.perceptual is not None:
            distance = self.perceptual.loss(drawn, newest) + self.perceptual.loss(predicted, targets)
            loss, figures["perceptual"] = loss + self.config.perceptual * distance, distance.item()
        discriminator, self.steps = self.module.discriminator, self.steps + 1
        if discriminator is not None and self.steps > self.config.adversarial_after:
            judged = discriminator.discriminator_loss(predicted, targets)
            loss = loss + self.config.adversarial * discriminator.generator_loss(predicted) + judged
            figures["discriminator"] = judged.item()
        return loss, figures

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Contexts (B, k, 3, H, W) and later frames (B·targets, 3, H, W)."""
        clip = self.sampler.sample(self.config.clips)
        frames = clip.frames.to(self.device)
        batch, length = frames.shape[:2]
        count, size = self.model.tokenizer.context_frames, self.model.image_size
        newest = count - 1
        steps = torch.randint(newest + self.config.nearest, length, (batch, self.config.targets))
        steps[torch.rand(steps.shape) < self.config.same_share] = newest
        index = torch.arange(batch)[:, None].expand_as(steps)
        own = round(self.config.own_share * batch)
        elsewhere = contexts(frames[:own], torch.randint(newest, length, (own,)), count, size)
        places = torch.full((batch,), newest)
        context = contexts(frames, places, count, size, self.config.still_share)
        context = own_drawings(self.tokenizer, context, elsewhere)
        context[batch - self._grey(batch) :] = GREY
        return context, to_pixels(frames[index, steps].flatten(0, 1), size)

    def _grey(self, batch: int) -> int:
        return round(self.config.grey_share * batch) if self.model.tokenizer.composite else 0

    def state(self) -> dict[str, Any]:
        """Of the sampler, and how far training has come."""
        return {"sampler": self.sampler.state_dict(), "steps": self.steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.sampler.load_state_dict(state["sampler"])
        self.steps = state["steps"]

    def export(self, folder: Path) -> None:
        """The tokenizer and the world model's configuration."""
        save_tokenizer(folder, self.model, self.tokenizer, torch.bfloat16)


def contexts(frames: Tensor, newest: Tensor, count: int, size: tuple[int, int], still_share: float = 0.0) -> Tensor:
    """The contexts of ``count`` frames that end at places ``newest`` (B,) of clips (B, T, H, W, 3) uint8.

    Returns:
        pixels (B, count, 3, h, w) of the given size; in ``still_share`` of the clips, spread evenly among the others,
        the newest frame alone, repeated.
    """
    rows = torch.arange(len(frames))
    still = ((rows + 1) * still_share).floor() > (rows * still_share).floor()
    places = newest[:, None] + torch.arange(1 - count, 1) * ~still[:, None]
    return to_pixels(frames[rows[:, None], places], size).unflatten(0, places.shape)


@torch.no_grad()
def own_drawings(tokenizer: DualBranchTokenizer, frames: Tensor, elsewhere: Tensor) -> Tensor:
    """Contexts as long rollouts have them, which encode anew what they drew.

    Args:
        tokenizer: what draws.
        frames: (B, k, 3, H, W), the contexts.
        elsewhere: (b, k, 3, H, W), b ≤ B, for the first of them another context of the same clip.

    Returns:
        ``frames``, the first b of them as drawn relative to ``elsewhere``.
    """
    if not len(elsewhere):
        return frames
    own, count = elsewhere.shape[:2]
    features = tokenizer.context_features(tokenizer.encode_context(elsewhere)[0], elsewhere).repeat(count)
    codes = tokenizer.encode_dynamics(frames[:own].flatten(0, 1), features)[1]
    drawn = tokenizer.decode_dynamics(codes, features).clamp(0, 1)
    return torch.cat([drawn, frames[own:].flatten(0, 1)]).unflatten(0, frames.shape[:2])
