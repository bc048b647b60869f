"""The planner's objective, trained on collected episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
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
_STILL = 1e-5  # in the columns' unit: less than this is no change


@dataclass
class ProgressStageConfig:
    """What the stage learns from.

    Attributes:
        contexts: frames that imagination starts from; each gives ``distance`` imagined frames, labelled with what
            really happened: the planner only ever scores imagined frames.
        distance: frames that are imagined from each.
        holdout: share of the episodes that only ``holdout_mae`` is measured on.
        batch: samples a step.
        states: recorded frames a step, whose progress is learned from where things were alone: there are many more of
            them than imagined ones, and no network has to run for them.
        column: per-frame extra of the store that holds progress, one column an instruction.
        state: per-frame extra that holds where things are, which the head learns to read on the way.
        width, slots, hidden: see :class:`roboalign_core.reward.progress.ProgressConfig`.
    """

    contexts: int = 10_000
    distance: int = 8
    holdout: float = 0.05
    batch: int = 128
    states: int = 2048
    column: str = "progress"
    state: str = "observation.state"
    width: int = 96
    slots: int = 16
    hidden: int = 256

    def __post_init__(self) -> None:
        for name in ("contexts", "distance", "batch", "states"):
            if getattr(self, name) < 1:
                raise RoboAlignError(f"stage.{name}: expected at least 1, found {getattr(self, name)}")
        if not 0 <= self.holdout < 1:
            raise RoboAlignError(f"stage.holdout: expected a share in [0, 1), found {self.holdout}")


@dataclass(frozen=True)
class Batch:
    """Samples of a :class:`FeatureBank`: features as float32, states standardised.

    Attributes:
        first, source: (B, cells, channels), context features of the episode's first frame and of the frame that
            imagination started from.
        expected: (B, dim), hidden state of the imagined frame.
        first_state, source_state, later_state: (B, state).
        target: (B, instructions), progress.
    """

    first: Tensor
    source: Tensor
    expected: Tensor
    first_state: Tensor
    source_state: Tensor
    later_state: Tensor
    target: Tensor


@dataclass(frozen=True)
class FeatureBank(Batch):
    """Frames as the frozen world model sees and imagines them, for M contexts in place of B samples.

    What belongs to imagined frames is (M, distance, …); ``known`` (M, distance) says which of them were recorded.
    """

    known: Tensor

    def draw(self, count: int, random: torch.Generator) -> Batch:
        """``count`` samples."""
        rows, steps = self.known.nonzero(as_tuple=True)
        pick = torch.randint(len(rows), (count,), generator=random)
        row, step = rows[pick], steps[pick]
        return Batch(
            self.first[row].float(),
            self.source[row].float(),
            self.expected[row, step].float(),
            self.first_state[row],
            self.source_state[row],
            self.later_state[row, step],
            self.target[row, step],
        )


@dataclass(frozen=True)
class RecordedStates:
    """All recorded frames of some episodes, by where things were.

    Attributes:
        first, later: (N, state), standardised, of the episode's first frame and of the frame.
        target: (N, instructions), progress.
    """

    first: Tensor
    later: Tensor
    target: Tensor

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """``count`` rows of each."""
        pick = torch.randint(len(self.target), (count,), generator=random).to(self.target.device)
        return self.first[pick], self.later[pick], self.target[pick]


class ProgressStage:
    """Regress the progress of all instructions from frames as the frozen world model codes and imagines them."""

    def __init__(self, config: ProgressStageConfig, world_model: WorldModel, data: TrainingData, seed: int) -> None:
        self.config, self.world_model, self.data = config, world_model, data
        state = list(data.column_names(config.state))
        self.head = ProgressConfig(
            instructions=list(data.column_names(config.column)),
            state=state,
            constant=[name for name, still in zip(state, _constant(data, config.state), strict=True) if still],
            cells=world_model.config.layout.context_tokens,
            channels=world_model.config.tokenizer.latent_width,
            dim=world_model.config.dynamics.dim,
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
        if kept < 1:
            raise RoboAlignError(
                f"stage.holdout: expected to leave episodes to learn from, found {held} of {held} held"
            )
        self.recorded = self._recorded(torch.arange(kept))
        self.bank = self._bank(torch.arange(kept), config.contexts, "coding and imagining")
        self.held = (
            self._bank(torch.arange(kept, data.episodes), max(1, config.contexts // 20), "held out") if held else None
        )

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        """Positions from features, progress from positions (true and read); errors, also on held-out episodes."""
        batch = self.bank.draw(self.config.batch, self.random)
        first, source = self.module.reader(torch.cat([batch.first, batch.source])).float().chunk(2)
        later = self.module.expectation(batch.expected).float()
        read = self.module.progress(first, later).float()
        before, after, target = self.recorded.draw(self.config.states, self.random)
        known = self.module.progress(before, after).float()
        states = F.smooth_l1_loss(first, batch.first_state, beta=0.1)
        states = states + F.smooth_l1_loss(source, batch.source_state, beta=0.1)
        moved = ~self.module.constant
        states = states + F.smooth_l1_loss(later[:, moved], batch.later_state[:, moved], beta=0.1)
        progress = F.smooth_l1_loss(read, batch.target, beta=0.02) + F.smooth_l1_loss(known, target, beta=0.02)
        figures = {"mae": _mae(read, batch.target), "known_mae": _mae(known, target)}
        if self.held is not None:
            figures["holdout_mae"] = self._error(self.held)
        return states + 10 * progress, figures

    @torch.no_grad()
    def _error(self, bank: FeatureBank) -> float:
        batch = bank.draw(min(64, self.config.batch), self.random)  # every step: enough for a log
        return _mae(self.module(batch.first, batch.expected).float(), batch.target)

    @torch.no_grad()
    def _bank(self, episodes: Tensor, contexts: int, label: str) -> FeatureBank:
        blocks = [self._block(episodes) for _ in track(range(-(-contexts // CONTEXTS)), label)]
        names = [each.name for each in fields(FeatureBank)]
        return FeatureBank(**{name: torch.cat([getattr(block, name) for block in blocks]) for name in names})

    def _recorded(self, episodes: Tensor) -> RecordedStates:
        lengths = self.data.lengths[episodes]
        episode = episodes.repeat_interleave(lengths)
        step = torch.cat([torch.arange(length) for length in lengths.tolist()])
        first = self._state(episodes, torch.zeros_like(episodes)).repeat_interleave(
            lengths.to(self.world_model.device), dim=0
        )
        target = self.data.column(self.config.column, episode, step).to(self.world_model.device)
        return RecordedStates(first, self._state(episode, step), target)

    def _block(self, episodes: Tensor) -> FeatureBank:
        """Of ``CONTEXTS`` contexts."""
        count = CONTEXTS
        episode = episodes[torch.randint(len(episodes), (count,), generator=self.random)]
        last = self.data.lengths[episode] - 1
        source = (torch.rand(count, generator=self.random) * last).long()
        ahead = source[:, None] + 1 + torch.arange(self.config.distance)
        later = torch.minimum(ahead, last[:, None])
        context = self.world_model.encode(self._newest(episode, source))
        first = self.world_model.encode(self.data.frames(episode, torch.zeros_like(source)))
        repeated = episode.repeat_interleave(self.config.distance)
        target = self.data.column(self.config.column, repeated, later.flatten()).unflatten(0, later.shape)
        return FeatureBank(
            first=first.features.latent,
            source=context.features.latent,
            expected=self._imagined(context, episode, source),
            first_state=self._state(episode, torch.zeros_like(source)),
            source_state=self._state(episode, source),
            later_state=self._state(repeated, later.flatten()).unflatten(0, later.shape),
            target=target.to(self.world_model.device),
            known=ahead <= last[:, None],
        )

    def _newest(self, episode: Tensor, step: Tensor) -> Tensor:
        """Frames (B, k, H, W, 3) uint8 up to (episode, step); the first one stands for those before the episode."""
        count = self.world_model.config.tokenizer.context_frames
        steps = (step[:, None] + torch.arange(1 - count, 1)).clamp(min=0)
        return self.data.frames(episode.repeat_interleave(count), steps.flatten()).unflatten(0, steps.shape)

    def _state(self, episode: Tensor, step: Tensor) -> Tensor:
        state = (self.data.column(self.config.state, episode, step) - self.mean) / self.std
        return state.to(self.world_model.device)

    def _imagined(self, context: Context, episode: Tensor, source: Tensor) -> Tensor:
        """Hidden states (contexts, distance, dim) along the recorded actions."""
        imagination = Imagination(self.world_model, context, len(episode), "frame")
        last = self.data.lengths[episode] - 1
        expected = []
        for step in range(self.config.distance):
            actions = self.data.actions(episode, torch.minimum(source + step, last))
            imagination.step(self.world_model.action_bins(actions.numpy()))
            expected.append(imagination.expected)
        return torch.stack(expected, dim=1)

    def state(self) -> dict[str, Any]:
        """Of the draws; the bank follows from the seed."""
        return {"random": self.random.get_state().tolist()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.random.set_state(torch.tensor(state["random"], dtype=torch.uint8))

    def export(self, folder: Path) -> None:
        """The head."""
        ProgressModel(self.head, self.module).save_pretrained(folder)


def _constant(data: TrainingData, name: str) -> list[bool]:
    """Which columns of an extra stay as they are from the first to the last frame of every episode."""
    still = np.ones(len(data.column_names(name)), bool)
    for cache in data.caches:
        for episode in range(len(cache)):
            still &= np.ptp(cache.episode_extra(name, episode), axis=0) < _STILL
    return still.tolist()


def _mae(predicted: Tensor, target: Tensor) -> float:
    return (predicted.detach() - target).abs().mean().item()
