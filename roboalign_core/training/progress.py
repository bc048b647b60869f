"""The planner's objective, trained on collected episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.progress import ProgressConfig, ProgressHead, ProgressModel
from roboalign_core.training.data import TrainingData
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Context, Imagination

CONTEXTS = 32  # contexts that are coded at once


@dataclass
class ProgressStageConfig:
    """What the stage learns from.

    Attributes:
        samples: later frames, each with the context that it is seen from.
        pairs: later frames a context.
        distance: frames between context and later frame, at most.
        imagined_share: share of the contexts whose later frames are imagined along the recorded actions, labelled with
            the progress that was really made: the planner only ever scores imagined frames.
        holdout: share of the episodes that only ``holdout_mae`` is measured on.
        batch: samples a step.
        column: per-frame extra of the store that holds progress, one column an instruction.
        state: per-frame extra that holds where things are, which the head learns to read on the way.
        width, slots, hidden: see :class:`roboalign_core.reward.progress.ProgressConfig`.
    """

    samples: int = 40_000
    pairs: int = 8
    distance: int = 8
    imagined_share: float = 0.5
    holdout: float = 0.05
    batch: int = 96
    column: str = "progress"
    state: str = "observation.state"
    width: int = 96
    slots: int = 16
    hidden: int = 256

    def __post_init__(self) -> None:
        for name in ("samples", "pairs", "distance", "batch"):
            if getattr(self, name) < 1:
                raise RoboAlignError(f"stage.{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("imagined_share", "holdout"):
            if not 0 <= getattr(self, name) < 1:
                raise RoboAlignError(f"stage.{name}: expected a share in [0, 1), found {getattr(self, name)}")


@dataclass(frozen=True)
class FeatureBank:
    """Frames as the frozen world model sees them.

    Attributes:
        first: (M, cells, channels), the first frames of the episodes, each relative to its context.
        later: (N, cells, channels), the later frames; ``context`` (N,) says which row of ``first`` belongs to each.
        first_state, later_state: (M, state) and (N, state), standardised.
        target: (N, instructions), progress.
    """

    first: Tensor
    later: Tensor
    context: Tensor
    first_state: Tensor
    later_state: Tensor
    target: Tensor

    def draw(self, count: int, random: torch.Generator) -> FeatureBank:
        """``count`` samples, each with its own first frame."""
        index = torch.randint(len(self.later), (count,), generator=random)
        row = self.context[index]
        first, later = self.first[row].float(), self.later[index].float()
        return FeatureBank(first, later, row, self.first_state[row], self.later_state[index], self.target[index])


class ProgressStage:
    """Regress the progress of all instructions from frames as the frozen world model codes and imagines them."""

    def __init__(self, config: ProgressStageConfig, world_model: WorldModel, data: TrainingData, seed: int) -> None:
        self.config, self.world_model, self.data = config, world_model, data
        names = data.column_names(config.column)
        rows, columns = world_model.config.tokenizer.context_grid
        self.head = ProgressConfig(
            instructions=list(names),
            state=list(data.column_names(config.state)),
            cells=rows * columns,
            channels=world_model.config.tokenizer.latent_width,
            width=config.width,
            slots=config.slots,
            hidden=config.hidden,
        )
        self.mean, self.std = data.column_range(config.state)
        self.module = ProgressHead(self.head).to(world_model.device)
        self.random = torch.Generator().manual_seed(seed)
        shortest = int(data.lengths.min())
        if shortest < 2:
            raise RoboAlignError(f"progress stage: expected episodes of at least 2 frames, found one of {shortest}")
        longest = world_model.config.dynamics.max_frames - 1
        if config.distance > longest:
            raise RoboAlignError(
                f"stage.distance: expected at most {longest} frames, as imagined, found {config.distance}"
            )
        held = max(1, round(config.holdout * data.episodes)) if config.holdout else 0
        kept = data.episodes - held
        self.bank = self._bank(torch.arange(kept), config.samples, "coding and imagining")
        self.held = (
            self._bank(torch.arange(kept, data.episodes), max(1, config.samples // 20), "held out") if held else None
        )

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        """Positions from features, progress from positions (true and read); errors, also on held-out episodes."""
        batch = self.bank.draw(self.config.batch, self.random)
        first, later = self.module.reader(batch.first).float(), self.module.reader(batch.later).float()
        read = self.module.progress(first, later).float()
        known = self.module.progress(batch.first_state, batch.later_state).float()
        states = F.smooth_l1_loss(first, batch.first_state, beta=0.1)
        states = states + F.smooth_l1_loss(later, batch.later_state, beta=0.1)
        progress = F.smooth_l1_loss(read, batch.target, beta=0.02) + F.smooth_l1_loss(known, batch.target, beta=0.02)
        figures = {"mae": _mae(read, batch.target), "known_mae": _mae(known, batch.target)}
        if self.held is not None:
            figures["holdout_mae"] = self._error(self.held)
        return states + 10 * progress, figures

    @torch.no_grad()
    def _error(self, bank: FeatureBank) -> float:
        batch = bank.draw(min(64, self.config.batch), self.random)  # every step: enough for a log
        return _mae(self.module(batch.first, batch.later).float(), batch.target)

    @torch.no_grad()
    def _bank(self, episodes: Tensor, samples: int, label: str) -> FeatureBank:
        blocks = -(-samples // (CONTEXTS * self.config.pairs))
        parts = [self._block(episodes) for _ in track(range(blocks), label)]
        first, later, first_state, later_state, target = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        context = torch.arange(len(first)).repeat_interleave(self.config.pairs)
        return FeatureBank(first, later, context, first_state, later_state, target)

    def _block(self, episodes: Tensor) -> tuple[Tensor, ...]:
        """First frames (CONTEXTS, …), later frames (CONTEXTS · pairs, …), the states of both, and the targets."""
        config, count = self.config, CONTEXTS
        episode = episodes[torch.randint(len(episodes), (count,), generator=self.random)]
        last = self.data.lengths[episode] - 1
        source = (torch.rand(count, generator=self.random) * last).long()
        room = torch.minimum(last - source, torch.tensor(config.distance))
        gap = 1 + (torch.rand((count, config.pairs), generator=self.random) * room[:, None]).long()
        context = self.world_model.encode(self.data.frames(episode, source))
        first = self._latent(self.data.frames(episode, torch.zeros_like(source)), context)
        step = (source[:, None] + gap).flatten()
        repeated = episode.repeat_interleave(config.pairs)
        target = self.data.column(config.column, repeated, step).to(first.device)
        states = [self._state(episode, torch.zeros_like(source)), self._state(repeated, step)]
        if torch.rand((), generator=self.random) < config.imagined_share:
            later = self._imagined(context, episode, source, gap)
        else:
            codes = self.world_model.encode_dynamics(
                self.data.frames(repeated, step), context.features.repeat(config.pairs)
            )
            later = self.world_model.latent(codes, context.features.repeat(config.pairs))
        return first, later, *states, target

    def _state(self, episode: Tensor, step: Tensor) -> Tensor:
        state = (self.data.column(self.config.state, episode, step) - self.mean) / self.std
        return state.to(self.world_model.device)

    def _imagined(self, context: Context, episode: Tensor, source: Tensor, gap: Tensor) -> Tensor:
        """The later frames (contexts · pairs, …) as imagined along the recorded actions."""
        imagination = Imagination(self.world_model, context, len(episode), "frame")
        last = self.data.lengths[episode] - 1
        codes = []
        for step in range(int(gap.max())):
            actions = self.data.actions(episode, torch.minimum(source + step, last))
            codes.append(imagination.step(self.world_model.action_bins(actions.numpy())))
        chosen = torch.stack(codes, dim=1)[torch.arange(len(episode))[:, None], gap - 1]
        return self.world_model.latent(chosen.flatten(0, 1), context.features.repeat(gap.shape[1]))

    def _latent(self, frames: Tensor, context: Context) -> Tensor:
        return self.world_model.latent(self.world_model.encode_dynamics(frames, context.features), context.features)

    def state(self) -> dict[str, Any]:
        """Of the draws; the bank follows from the seed."""
        return {"random": self.random.get_state().tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.random.set_state(torch.tensor(state["random"], dtype=torch.uint8))

    def export(self, folder: Path) -> None:
        """The head."""
        ProgressModel(self.head, self.module).save_pretrained(folder)


def _mae(predicted: Tensor, target: Tensor) -> float:
    return (predicted.detach() - target).abs().mean().item()
