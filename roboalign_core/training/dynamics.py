"""Stage 2: the causal transformer on tokens and actions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roboalign_core.errors import RoboAlignError
from roboalign_core.tensors import load_into
from roboalign_core.training.checkpoints import check_world_model, mean_weights
from roboalign_core.training.state import StateConfig
from roboalign_core.training.windows import WindowCache, WindowConfig, Windows, WindowSource
from roboalign_core.world_model.codes import CodeLogits
from roboalign_core.world_model.config import WorldModelConfig
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Imagination, Prompt, roll
from roboalign_core.world_model.tokenizer import DualBranchTokenizer, to_frames


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
class DynamicsStageConfig(WindowConfig):
    """What stage 2 draws and weighs.

    Attributes:
        frame_head_weight: weight of the one-pass head's loss beside the next-token loss.
        changed_weight: extra weight of tokens that differ from the frame before.
        label_smoothing: of both losses.
        dropout: share of dynamics input tokens that are replaced by random ones, against exposure bias.
        imagined_share: share of the clips whose frames after the first come in as a one-pass rollout imagines them,
            while what is to be predicted stays what really came: so the model learns to go on from its own frames, and
            back towards where the actions lead (cf. DAgger, Ross et al. 2011; scheduled sampling, Bengio et al. 2015).
        start: run folders of this stage whose newest weights, the mean of them, this run starts from; anew where none.
        balance: see :class:`BalanceConfig`.
        state: see :class:`StateConfig`.
    """

    frame_head_weight: float = 1.0
    changed_weight: float = 1.0
    label_smoothing: float = 0.0
    dropout: float = 0.03
    imagined_share: float = 0.0
    start: list[str] = field(default_factory=list)
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

    def start_from(self, runs: Sequence[str], world_model: str) -> None:
        """Begin with the newest weights of other runs of this stage, see :func:`mean_weights`.

        Raises:
            RoboAlignError: no such run, or one on another tokenizer than ``world_model``: its tokens mean other things.
        """
        check_world_model(runs, world_model)
        load_into(self.module, mean_weights(runs), ", ".join(runs))

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
        smoothing = self.config.label_smoothing
        token_loss = (token_logits.cross_entropy(target, smoothing) * weight).mean()
        frame_loss = (frame_logits.cross_entropy(target, smoothing) * weight).mean()
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
        predicted, state = self.module.next_state(hidden, frames), windows.state[:, 1:]
        figures["state_error"] = self.source.state.error(predicted, state)
        return loss + self.config.state.weight * self.source.state.loss(predicted, state), figures

    @torch.no_grad()
    def _imagined(self, windows: Windows) -> Tensor:
        """Codes (B, T, m) to come in; in some clips all after the first as a rollout imagines them."""
        given, frames = windows.given, windows.codes.shape[1]
        count = round(self.config.imagined_share * len(windows))
        if not count:
            return given
        rows = torch.randperm(len(windows))[:count]
        prompt = Prompt(windows.context[rows], windows.start[rows])
        with torch.autocast(self.device.type, enabled=False):
            imagination = Imagination(self._for_inference(), prompt, count, "frame", limit=frames - 1)
            codes = [imagination.step(windows.actions[rows, step]) for step in range(frames - 1)]
        mixed = given.clone()
        mixed[rows, 1:] = torch.stack(codes, dim=1)
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
        config, imagine = self.config, self._imagined_context if self.config.own_drift else None
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
    def _imagined_context(self, pixels: Tensor, bins: Tensor) -> Tensor:
        """Contexts (b, k, 3, H, W) and action bins (b, d + 1, A), the last unused → those d steps later, imagined."""
        model = self._for_inference()
        with torch.autocast(self.device.type, enabled=False):
            context = model.encode(to_frames(pixels))
            rollout = roll(model, context, bins[:, :-1], "plain", self.config.own_drift, "frame")
            return rollout.segments[-1].newest(model)

    def _for_inference(self) -> WorldModel:
        return for_inference(self.source.model, self.tokenizer, self.module.dynamics)

    def state(self) -> dict[str, Any]:
        """Of the samplers."""
        return self.source.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.source.load_state_dict(state)

    def export(self, folder: Path) -> None:
        """The whole world model."""
        WorldModel(self.source.model, self.tokenizer, self.module.dynamics).save_pretrained(folder)


def for_inference(model: WorldModelConfig, tokenizer: DualBranchTokenizer, dynamics: Dynamics) -> WorldModel:
    """The world model with a copy of ``dynamics`` as it is now, in the number format of rollouts, the tokenizer's."""
    dynamics = copy.deepcopy(dynamics)
    dynamics.embedding = nn.Embedding.from_pretrained(dynamics.table().detach())
    return WorldModel(model, tokenizer, dynamics.to(tokenizer.context_position.dtype))


@torch.no_grad()
def _accuracy(logits: CodeLogits, target: Tensor) -> float:
    """Share of right codes in a batch."""
    return (logits.likeliest() == target).float().mean().item()
