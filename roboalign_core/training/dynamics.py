"""Stage 2: the causal transformer on tokens and actions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json
from roboalign_core.precision import native_dtype
from roboalign_core.tensors import load_into
from roboalign_core.training.checkpoints import RUN, newest_weights
from roboalign_core.training.data import StoreSampler, TrainingData
from roboalign_core.training.tokenizer import own_drawings
from roboalign_core.world_model.actions import ActionBinner
from roboalign_core.world_model.config import WorldModelConfig
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.tokenizer import DualBranchTokenizer, to_pixels

STATE = "observation.state"  # the per-frame extra that holds where things are


@dataclass
class BalanceConfig:
    """Draw windows in which something other than the robot moves more often.

    Attributes:
        columns: names of per-frame columns (of ``observation.state``) that hold object positions; none: no balancing.
        threshold: change over the window, in the columns' unit, that counts as motion.
        share: share of drawn windows with motion.
    """

    columns: list[str] = field(default_factory=list)
    threshold: float = 0.01
    share: float = 0.6


@dataclass
class StateConfig:
    """What is also read off the hidden states while training: where things will be after each action.

    The next frame's tokens say where things are only in a roundabout way. The reading head is dropped after training;
    what stays is a backbone whose hidden states hold positions (cf. Dreamer's heads, Hafner et al. 2020).

    Attributes:
        columns: names of per-frame columns (of ``observation.state``); none: no such head.
        weight: of its loss.
    """

    columns: list[str] = field(default_factory=list)
    weight: float = 4.0


@dataclass
class DynamicsStageConfig:
    """What stage 2 draws and weighs.

    Attributes:
        clips: clips a step.
        lengths: frames a clip, one of these a step (the papers: 8).
        context_distance: the context frame lies up to so many frames before the first one; mostly 0.
        moved_share: share of the clips with distance above 0.
        own_share: share of the clips whose context is a drawing of the model's own, as after re-encoding.
        own_drift: such a context is what the model imagines up to so many frames after a real one, as Sliding Window
            Re-encoding has it; 0: a real frame as the tokenizer draws it.
        frame_head_weight: weight of the one-pass head's loss beside the next-token loss.
        changed_weight: extra weight of tokens that differ from the frame before.
        label_smoothing: of both losses.
        dropout: share of dynamics input tokens that are replaced by random ones, against exposure bias.
        imagined_share: share of the clips whose frames after the first come in as the one-pass head imagines them, so
            that the model learns to go on from its own frames.
        start: run folder of this stage whose newest weights this run starts from; anew where empty.
        balance: see :class:`BalanceConfig`.
        state: see :class:`StateConfig`.
    """

    clips: int = 16
    lengths: list[int] = field(default_factory=lambda: [9])
    context_distance: int = 8
    moved_share: float = 0.25
    own_share: float = 0.25
    own_drift: int = 0
    frame_head_weight: float = 1.0
    changed_weight: float = 1.0
    label_smoothing: float = 0.0
    dropout: float = 0.03
    imagined_share: float = 0.0
    start: str = ""
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    state: StateConfig = field(default_factory=StateConfig)

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 2:
            raise RoboAlignError(f"stage.lengths: expected numbers of at least 2 frames, found {self.lengths}")
        if not 0 <= self.own_drift <= self.context_distance:
            raise RoboAlignError(
                f"stage.own_drift: expected 0 to context_distance ({self.context_distance}), found {self.own_drift}"
            )
        if self.context_distance < 0:
            raise RoboAlignError(f"stage.context_distance: expected 0 or more frames, found {self.context_distance}")
        for name in ("moved_share", "own_share", "imagined_share", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise RoboAlignError(f"stage.{name}: expected a share in [0, 1], found {getattr(self, name)}")


@dataclass(frozen=True)
class StateRange:
    """Which columns of the recorded state are read, and their mean and standard deviation (K,)."""

    columns: Tensor
    mean: Tensor
    std: Tensor

    @classmethod
    def none(cls) -> StateRange:
        """No columns."""
        return cls(torch.empty(0, dtype=torch.long), torch.empty(0), torch.empty(0))

    @classmethod
    def of(cls, data: TrainingData, columns: Sequence[str]) -> StateRange:
        """The named columns of ``observation.state``.

        Raises:
            RoboAlignError: the data lacks one of them.
        """
        if not columns:
            return cls.none()
        names = data.column_names(STATE)
        unknown = [column for column in columns if column not in names]
        if unknown:
            raise RoboAlignError(f"stage.state.columns: expected names among {', '.join(names)}, found {unknown[0]!r}")
        chosen = torch.tensor([names.index(column) for column in columns])
        mean, std = data.column_range(STATE)
        return cls(chosen, mean[chosen], std[chosen])

    def standardised(self, state: Tensor) -> Tensor:
        """Recorded states (…, all columns) → (…, K)."""
        return (state[..., self.columns] - self.mean) / self.std


class DynamicsTraining(nn.Module):
    """The dynamics, and while training the head that reads positions (``columns`` of them) off its hidden states."""

    def __init__(self, model: WorldModelConfig, columns: int) -> None:
        super().__init__()
        dim = model.dynamics.dim
        self.dynamics = Dynamics(model)
        self.state = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, columns)) if columns else None

    def next_state(self, hidden: Tensor, frames: int) -> Tensor:
        """Hidden states of a whole sequence → standardised positions (B, frames − 1, columns) after each action."""
        if self.state is None:
            raise RoboAlignError("dynamics stage: expected state columns, found none")
        return self.state(hidden[:, self.dynamics.layout.step_positions(frames)[:-1, -1]])


class DynamicsStage:
    """Next-token loss on the dynamics tokens after the first frame (RoboAlign-R1, A4, stage 2).

    The frozen tokenizer codes every batch anew, so that augmentation reaches the tokens too.
    """

    def __init__(
        self,
        config: DynamicsStageConfig,
        model: WorldModelConfig,
        tokenizer: DualBranchTokenizer,
        samplers: Mapping[int, StoreSampler],
        state: StateRange,
        device: str,
    ) -> None:
        self.config, self.model, self.samplers = config, model, dict(samplers)
        self.target = state
        self.device = torch.device(device)
        # In the number format of inference, so that the codes learned from are the codes met later.
        self.tokenizer = tokenizer.to(self.device, native_dtype(self.device)).eval().requires_grad_(False)
        self.binner = ActionBinner(tuple(model.action_low), tuple(model.action_high), model.action_bins)
        self.module = DynamicsTraining(model, len(state.columns)).to(self.device)

    def start_from(self, run: Path, world_model: str) -> None:
        """Begin with the newest weights of another run of this stage.

        Raises:
            RoboAlignError: no such run, or one on another tokenizer than ``world_model``: its tokens mean other things.
        """
        identity = read_json(run / RUN)["identity"] if (run / RUN).is_file() else {}
        found = identity.get("world_model")
        if found != world_model:
            raise RoboAlignError(f"stage.start: {run}: expected a run with world_model={world_model}, found {found!r}")
        load_into(self.module, newest_weights(run), str(run))

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        """Losses of the token head, of the one-pass head and of the positions on a fresh batch."""
        context, codes, bins, state = self._tokens()
        dynamics, frames = self.module.dynamics, codes.shape[1]
        ids = dynamics.layout.sequence(context, self._disturb(self._imagined(context, codes, bins)), bins)
        hidden = dynamics.hidden(ids)
        target = codes[:, 1:]
        changed = target != codes[:, :-1]
        weight = 1 + self.config.changed_weight * changed.float()
        weight = weight / weight.mean()
        token_logits = dynamics.token_logits(hidden, frames)
        frame_logits = dynamics.frame_logits(hidden, frames)
        token_loss = self._cross_entropy(token_logits, target, weight)
        frame_loss = self._cross_entropy(frame_logits, target, weight)
        figures = {
            "token_loss": token_loss.item(),
            "frame_loss": frame_loss.item(),
            "token_accuracy": _accuracy(token_logits, target),
            "frame_accuracy": _accuracy(frame_logits, target),
            "changed": changed.float().mean().item(),
        }
        loss = token_loss + self.config.frame_head_weight * frame_loss
        if self.module.state is None:
            return loss, figures
        predicted = self.module.next_state(hidden, frames).float()
        figures["state_error"] = ((predicted.detach() - state[:, 1:]).abs() * self.target.std.to(state)).mean().item()
        return loss + self.config.state.weight * F.smooth_l1_loss(predicted, state[:, 1:], beta=0.1), figures

    def _cross_entropy(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        each = F.cross_entropy(
            logits.flatten(0, -2).float(),
            target.flatten(),
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )
        return (each * weight.flatten()).mean()

    @torch.no_grad()
    def _imagined(self, context: Tensor, codes: Tensor, bins: Tensor) -> Tensor:
        """Codes (B, T, m); in some clips all frames but the first as imagined from the recorded frame before each."""
        count, frames = round(self.config.imagined_share * len(codes)), codes.shape[1]
        if not count:
            return codes
        rows, dynamics = torch.randperm(len(codes))[:count], self.module.dynamics
        hidden = dynamics.hidden(dynamics.layout.sequence(context[rows], codes[rows], bins[rows]))
        mixed = codes.clone()
        mixed[rows, 1:] = dynamics.frame_logits(hidden, frames).argmax(-1)
        return mixed

    def _disturb(self, codes: Tensor) -> Tensor:
        if not self.config.dropout:
            return codes
        noise = torch.randint(0, self.module.dynamics.layout.dynamics_codes, codes.shape, device=codes.device)
        drop = torch.rand(codes.shape, device=codes.device) < self.config.dropout
        drop[:, 0] = False
        return torch.where(drop, noise, codes)

    @torch.no_grad()
    def _tokens(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Context codes (B, n), dynamics codes (B, T, m), action bins (B, T, A), states (B, T, K) of a fresh batch."""
        length = self.config.lengths[int(torch.randint(len(self.config.lengths), ()))]
        clip = self.samplers[length + self.config.context_distance].sample(self.config.clips)
        batch = clip.frames.shape[0]
        start, source = self._places(batch)
        rows, own = torch.arange(batch), round(self.config.own_share * batch)
        drift = int(torch.randint(1, self.config.own_drift + 1, ())) if own and self.config.own_drift else 0
        source[:own] = source[:own].clamp(min=drift)
        start = torch.maximum(start, source)
        steps = start[:, None] + torch.arange(length)
        size = self.model.image_size
        pixels = to_pixels(clip.frames[rows, source].to(self.device), size)
        later = to_pixels(clip.frames[rows[:, None], steps].to(self.device), size)
        if drift:
            past = source[:own, None] - drift + torch.arange(drift + 1)
            bins = self.binner(clip.actions[rows[:own, None], past]).to(self.device)
            real = to_pixels(clip.frames[rows[:own], past[:, 0]].to(self.device), size)
            pixels = torch.cat([self._imagined_frame(real, bins), pixels[own:]])
        else:
            elsewhere = clip.frames[rows[:own], torch.randint(clip.frames.shape[1], (own,))]
            pixels = own_drawings(self.tokenizer, pixels, to_pixels(elsewhere.to(self.device), size))
        redrawn = (rows < own) & (start == source)  # re-encoding starts from the drawing, not from what was drawn
        later = torch.where(_first(redrawn, length).to(self.device), pixels.repeat_interleave(length, 0), later)
        values, context = self.tokenizer.encode_context(pixels)
        features = self.tokenizer.context_features(values, pixels)
        _, codes = self.tokenizer.encode_dynamics(later, features.repeat(length))
        bins = self.binner(clip.actions[rows[:, None], steps]).to(self.device)
        state = self.target.standardised(clip.extra[rows[:, None], steps]).to(self.device)
        return context, codes.unflatten(0, (batch, length)), bins, state

    @torch.no_grad()
    def _imagined_frame(self, pixels: Tensor, bins: Tensor) -> Tensor:
        """Frames (b, 3, H, W) and action bins (b, k + 1, A), the last unused → the frames k steps later, imagined."""
        dynamics = self.module.dynamics
        values, context = self.tokenizer.encode_context(pixels)
        features = self.tokenizer.context_features(values, pixels)
        codes = self.tokenizer.encode_dynamics(pixels, features)[1].unsqueeze(1)
        for frames in range(2, bins.shape[1] + 1):
            # The frame to come is not seen by the head; its place only has to be filled.
            hidden = dynamics.hidden(
                dynamics.layout.sequence(context, torch.cat([codes, codes[:, -1:]], dim=1), bins[:, :frames])
            )
            following = dynamics.frame_logits(hidden, frames)[:, -1:].argmax(-1)
            codes = torch.cat([codes, following], dim=1)
        return self.tokenizer.decode_dynamics(codes[:, -1], features).clamp(0, 1)

    def _places(self, batch: int) -> tuple[Tensor, Tensor]:
        """Where in each clip the window starts, and where its context frame lies: there too, or before it."""
        room = self.config.context_distance
        if not room:
            return torch.zeros(batch, dtype=torch.long), torch.zeros(batch, dtype=torch.long)
        far = torch.rand(batch) < self.config.moved_share
        # A window that is its own context may start anywhere: otherwise no episode's beginning would ever be seen.
        start = torch.where(far, room, torch.randint(0, room + 1, (batch,)))
        return start, torch.where(far, start - torch.randint(1, room + 1, (batch,)), start)

    def state(self) -> dict[str, Any]:
        """Of the samplers."""
        return {str(length): sampler.state_dict() for length, sampler in self.samplers.items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        for length, sampler in self.samplers.items():
            sampler.load_state_dict(state[str(length)])

    def export(self, folder: Path) -> None:
        """The whole world model."""
        WorldModel(self.model, self.tokenizer, self.module.dynamics).save_pretrained(folder)


def _first(chosen: Tensor, length: int) -> Tensor:
    """Clips (B,) → (B · length, 1, 1, 1): true at the first frame of the chosen ones."""
    mask = torch.zeros(len(chosen), length, dtype=torch.bool)
    mask[:, 0] = chosen
    return mask.flatten()[:, None, None, None]


@torch.no_grad()
def _accuracy(logits: Tensor, target: Tensor) -> float:
    """Share of right codes among the first clips of a batch: enough for a log."""
    return (logits[:2].argmax(-1) == target[:2]).float().mean().item()
