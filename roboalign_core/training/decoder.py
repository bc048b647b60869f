"""Stage 3: the tokenizer's decoder learns to draw what the dynamics imagines. Codes stay what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roboalign_core.errors import RoboAlignError
from roboalign_core.training.data import StoreSampler
from roboalign_core.training.saliency import ReconstructionConfig, psnr
from roboalign_core.training.tokenizer import contexts, own_drawings
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import roll
from roboalign_core.world_model.tokenizer import ContextFeatures, DualBranchTokenizer, to_frames, to_pixels

DECODER = ("dynamics_out", "dynamics_position", "dynamics_blocks", "dynamics_head")
"""What draws later frames; no code depends on it."""


@dataclass
class DecoderStageConfig(ReconstructionConfig):
    """What the stage draws; what it weighs is in :class:`ReconstructionConfig`.

    Attributes:
        clips: clips a step.
        targets: later frames that are drawn of each clip.
        distance: largest distance in frames between context and later frame.
        imagined: frames that are imagined along the recorded actions, in one pass each.
        imagined_share: share of the clips whose later frames are drawn from imagined codes; what they are held against
            is what really happened. Cells of an imagined frame may contradict each other; the decoder sees them all.
        still_share: share of the clips whose context is one frame, repeated, as where a stream begins; nothing changes
            where a context is one frame anyway.
        own_share: share of the clips whose context is the tokenizer's own drawing.
    """

    clips: int = 16
    targets: int = 2
    distance: int = 16
    imagined: int = 8
    imagined_share: float = 0.5
    still_share: float = 0.25
    own_share: float = 0.25

    def __post_init__(self) -> None:
        if self.clips < 1 or self.targets < 1:
            raise RoboAlignError(f"stage: expected clips and targets >= 1, found {self.clips} and {self.targets}")
        for name in ("imagined_share", "still_share", "own_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise RoboAlignError(f"stage.{name}: expected a share in [0, 1], found {getattr(self, name)}")
        if not 1 <= self.imagined <= self.distance:
            raise RoboAlignError(f"stage.imagined: expected 1 to distance ({self.distance}), found {self.imagined}")


class DecoderStage:
    """Reconstruction of later frames from codes, recorded and imagined ones, with everything else frozen."""

    def __init__(
        self, config: DecoderStageConfig, world_model: WorldModel, tokenizer: DualBranchTokenizer, sampler: StoreSampler
    ) -> None:
        """``world_model`` codes and imagines; the decoder of ``tokenizer``, the same in float32, learns."""
        limit = world_model.config.dynamics.max_frames - 1
        if config.imagined > limit:
            raise RoboAlignError(f"stage.imagined: expected at most {limit} (max_frames - 1), found {config.imagined}")
        self.config, self.world_model, self.sampler = config, world_model, sampler
        self.module = tokenizer.to(world_model.device)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name.startswith(DECODER))

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        """Reconstruction loss of a fresh batch."""
        _, features, codes, targets = self._draw()
        repeated = features.repeat(self.config.targets)
        predicted = self.module.decode_dynamics(codes, repeated)
        loss = self.config.drawing_loss(predicted, targets, repeated.newest)
        count = self._imagined_clips * self.config.targets
        figures = {
            name: psnr(predicted[rows].detach(), targets[rows]).item()
            for name, rows in {"imagined_psnr": slice(count), "coded_psnr": slice(count, None)}.items()
            if len(targets[rows])
        }
        return loss, figures

    @property
    def _imagined_clips(self) -> int:
        return round(self.config.imagined_share * self.config.clips)

    @torch.no_grad()
    def _draw(self) -> tuple[Tensor, ContextFeatures, Tensor, Tensor]:
        """Contexts (B, k, 3, H, W) and their features, codes (B·targets, m), frames (B·targets, 3, H, W)."""
        config, model, count = self.config, self.world_model, self._imagined_clips
        clip = self.sampler.sample(config.clips)
        frames, length = clip.frames.to(model.device), clip.frames.shape[1]
        rows, size = torch.arange(config.clips), model.config.image_size
        context_frames = model.config.tokenizer.context_frames
        newest = context_frames - 1
        own = round(config.own_share * config.clips)
        drawn = torch.randperm(config.clips)[:own]  # among imagined and recorded ones alike
        context = contexts(frames, torch.full_like(rows, newest), context_frames, size, config.still_share)
        elsewhere = contexts(frames[drawn], torch.randint(newest, length, (own,)), context_frames, size)
        context[drawn] = own_drawings(model.tokenizer, context[drawn], elsewhere)
        steps = torch.randint(1, length - newest, (config.clips, config.targets))
        steps[:count] = torch.randint(1, config.imagined + 1, (count, config.targets))
        targets = to_pixels(frames[rows[:, None], newest + steps].flatten(0, 1), size)
        values, codes = model.tokenizer.encode_context(context)
        features = model.tokenizer.context_features(values, context)
        later = model.tokenizer.encode_dynamics(targets, features.repeat(config.targets))[1]
        if count:
            bins = model.action_bins(clip.actions[:count, newest : newest + config.imagined].numpy())
            start = model.encode(to_frames(context[:count]))
            tokens = roll(model, start, bins, "plain", config.imagined, "frame").tokens
            later[: count * config.targets] = tokens[rows[:count, None], steps[:count] - 1].flatten(0, 1)
        return context, self.module.context_features_of(codes, context), later, targets

    def state(self) -> dict[str, Any]:
        """Of the sampler."""
        return {"sampler": self.sampler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.sampler.load_state_dict(state["sampler"])

    def export(self, folder: Path) -> None:
        """The whole world model, with the decoder as it is now."""
        WorldModel(self.world_model.config, self.module, self.world_model.dynamics).save_pretrained(folder)
