"""Stage 2: the causal transformer on tokens and actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json
from roboalign_core.tensors import load_into
from roboalign_core.training.checkpoints import RUN, newest_weights
from roboalign_core.training.windows import WindowCache, WindowConfig, Windows, WindowSource
from roboalign_core.world_model.config import WorldModelConfig
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.model import WorldModel


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
class DynamicsStageConfig(WindowConfig):
    """What stage 2 draws and weighs.

    Attributes:
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

    frame_head_weight: float = 1.0
    changed_weight: float = 1.0
    label_smoothing: float = 0.0
    dropout: float = 0.03
    imagined_share: float = 0.0
    start: str = ""
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    state: StateConfig = field(default_factory=StateConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("imagined_share", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise RoboAlignError(f"stage.{name}: expected a share in [0, 1], found {getattr(self, name)}")


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
    """Next-token loss on the dynamics tokens after the first frame (RoboAlign-R1, A4, stage 2)."""

    def __init__(
        self, config: DynamicsStageConfig, source: WindowSource, coded: Callable[[int], WindowCache] | None = None
    ) -> None:
        """``coded`` gives the windows of a length that are coded once; without it ``source`` codes every batch anew."""
        self.config, self.source, self.coded = config, source, coded
        self._caches: dict[int, WindowCache] = {}
        self.device, self.tokenizer = source.device, source.tokenizer
        self.module = DynamicsTraining(source.model, len(source.state.columns)).to(self.device)

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
        windows = self._windows()
        dynamics, frames = self.module.dynamics, windows.codes.shape[1]
        given = self._disturb(self._imagined(windows))
        hidden = dynamics.hidden(dynamics.layout.sequence(windows.context, given, windows.actions))
        target = windows.codes[:, 1:]
        changed = target != windows.codes[:, :-1]
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
        state = windows.state[:, 1:]
        error = (predicted.detach() - state).abs() * self.source.state.std.to(state)
        figures["state_error"] = error.mean().item()
        return loss + self.config.state.weight * F.smooth_l1_loss(predicted, state, beta=0.1), figures

    def _cross_entropy(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        each = F.cross_entropy(
            logits.flatten(0, -2).float(),
            target.flatten(),
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )
        return (each * weight.flatten()).mean()

    @torch.no_grad()
    def _imagined(self, windows: Windows) -> Tensor:
        """Codes (B, T, m) to come in; in some clips all but the first as imagined from the recorded frame before."""
        given, frames = windows.given, windows.codes.shape[1]
        count = round(self.config.imagined_share * len(windows))
        if not count:
            return given
        rows, dynamics = torch.randperm(len(windows))[:count], self.module.dynamics
        ids = dynamics.layout.sequence(windows.context[rows], given[rows], windows.actions[rows])
        mixed = given.clone()
        mixed[rows, 1:] = dynamics.frame_logits(dynamics.hidden(ids), frames).argmax(-1)
        return mixed

    def _disturb(self, codes: Tensor) -> Tensor:
        if not self.config.dropout:
            return codes
        noise = torch.randint(0, self.module.dynamics.layout.dynamics_codes, codes.shape, device=codes.device)
        drop = torch.rand(codes.shape, device=codes.device) < self.config.dropout
        drop[:, 0] = False
        return torch.where(drop, noise, codes)

    def _windows(self) -> Windows:
        """The next batch."""
        config, imagine = self.config, self._imagined_frame if self.config.own_drift else None
        length = config.lengths[int(torch.randint(len(config.lengths), ()))]
        if self.coded is None or (imagine is not None and config.own == config.clips):
            return self.source.draw(length, config.clips, config.own, imagine)
        if length not in self._caches:
            self._caches[length] = self.coded(length)
        if imagine is None or not config.own:
            return self._caches[length].draw(config.clips).to(self.device)
        rest = self._caches[length].draw(config.clips - config.own).to(self.device)
        return Windows.join([self.source.draw(length, config.own, config.own, imagine), rest])

    @torch.no_grad()
    def _imagined_frame(self, pixels: Tensor, bins: Tensor) -> Tensor:
        """Frames (b, 3, H, W) and action bins (b, k + 1, A), the last unused → the frames k steps later, imagined."""
        dynamics = self.module.dynamics
        with torch.autocast(self.device.type, enabled=False):
            values, context = self.tokenizer.encode_context(pixels)
            features = self.tokenizer.context_features(values, pixels)
            codes = self.tokenizer.encode_start(pixels, features).unsqueeze(1)
        for frames in range(2, bins.shape[1] + 1):
            # The frame to come is not seen by the head; its place only has to be filled.
            hidden = dynamics.hidden(
                dynamics.layout.sequence(context, torch.cat([codes, codes[:, -1:]], dim=1), bins[:, :frames])
            )
            following = dynamics.frame_logits(hidden, frames)[:, -1:].argmax(-1)
            codes = torch.cat([codes, following], dim=1)
        with torch.autocast(self.device.type, enabled=False):
            return self.tokenizer.decode_dynamics(codes[:, -1], features).clamp(0, 1)

    def state(self) -> dict[str, Any]:
        """Of the samplers."""
        return self.source.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.source.load_state_dict(state)

    def export(self, folder: Path) -> None:
        """The whole world model."""
        WorldModel(self.source.model, self.tokenizer, self.module.dynamics).save_pretrained(folder)


@torch.no_grad()
def _accuracy(logits: Tensor, target: Tensor) -> float:
    """Share of right codes among the first clips of a batch: enough for a log."""
    return (logits[:2].argmax(-1) == target[:2]).float().mean().item()
