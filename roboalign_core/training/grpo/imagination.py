"""Recorded windows as prompts, and G imagined futures of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roboalign_core.episodes import StoreSpec
from roboalign_core.training.data import StoreSampler, TrainingData
from roboalign_core.training.grpo.policy import Groups
from roboalign_core.training.grpo.rewards import Frames
from roboalign_core.world_model.layout import TokenLayout
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.picking import Picker
from roboalign_core.world_model.rollout import Context, Imagination, Order, Rollout, Segment


@dataclass(frozen=True)
class Prompts:
    """P recorded windows of T + 1 frames; the first is what imagination starts from.

    Attributes:
        frames: (P, T + 1, H, W, 3) uint8, after the ``past`` frames that were seen before, which come first.
        actions: (P, T, A) float32; ``actions[:, t]`` leads from frame t to frame t + 1 of the window.
        instructions: P sentences.
        specs: of the stores that they were recorded in; none where that is unknown.
        recordings: identities of the episodes that they are windows of; none where that is unknown.
    """

    frames: Tensor
    actions: Tensor
    instructions: list[str]
    specs: list[StoreSpec] = field(default_factory=list)
    recordings: list[str] = field(default_factory=list)
    past: int = 0

    @property
    def seen(self) -> Tensor:
        """(P, past + 1, H, W, 3) uint8: the frames up to the one that imagination starts from."""
        return self.frames[:, : self.past + 1]

    @property
    def recorded(self) -> Tensor:
        """(P, T + 1, H, W, 3) uint8: that frame and what really followed."""
        return self.frames[:, self.past :]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, rows: slice) -> Prompts:
        told, specs, recordings = self.instructions[rows], self.specs[rows], self.recordings[rows]
        return Prompts(self.frames[rows], self.actions[rows], told, specs, recordings, self.past)


class PromptSampler:
    """Draws windows of episodes."""

    def __init__(self, data: TrainingData, sampler: StoreSampler, past: int) -> None:
        """``sampler`` gives clips of ``past`` + T + 1 frames of ``data``."""
        self._data, self._sampler, self._past = data, sampler, past

    def draw(self, count: int) -> Prompts:
        """``count`` prompts."""
        clip = self._sampler.sample(count)
        told, specs = self._data.instructions(clip.episode), self._data.specs(clip.episode)
        recordings = self._data.recordings(clip.episode)
        return Prompts(clip.frames, clip.actions[:, self._past : -1], told, specs, recordings, self._past)

    def state_dict(self) -> dict[str, Any]:
        """JSON state of all draws."""
        return self._sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._sampler.load_state_dict(state)


@dataclass(frozen=True)
class Futures:
    """G futures of each of P windows, as tokens and as frames; N = P·G, those of one window in a row.

    Attributes:
        prompts: what was recorded.
        groups: the tokens.
        imagined: (N, T + 1, H, W, 3) uint8; frame 0 is the real one.
        still: (N, T) bool: frames whose tokens repeat those of the frame before.
    """

    prompts: Prompts
    groups: Groups
    imagined: Frames
    still: NDArray[np.bool_]

    @cached_property
    def recorded(self) -> Frames:
        """(N, T + 1, H, W, 3) uint8: what really happened, once for each future."""
        return self._each(self.prompts.recorded.numpy())

    @cached_property
    def actions(self) -> NDArray[np.float32]:
        """(N, T, A) float32."""
        return self._each(self.prompts.actions.numpy())

    @property
    def instructions(self) -> list[str]:
        """N sentences."""
        return [text for text in self.prompts.instructions for _ in range(self.groups.size)]

    def repetition(self, threshold: float) -> float:
        """Share of frames that repeat the one before although the recorded frame changed there.

        Changed: a channel of a pixel by more than ``threshold``, in [0, 1]. 0 where nothing was recorded to change.
        """
        frames = self.prompts.recorded.numpy().astype(np.int16)
        moves = self._each(np.abs(np.diff(frames, axis=1)).max(axis=(2, 3, 4)) > 255 * threshold)
        return float((self.still & moves).sum() / max(1, moves.sum()))

    def _each(self, values: NDArray[Any]) -> NDArray[Any]:
        return values.repeat(self.groups.size, axis=0)


@torch.no_grad()
def imagine(model: WorldModel, prompts: Prompts, group: int, order: Order, pick: Picker | None = None) -> Futures:
    """``group`` futures of each prompt along its recorded actions, as frames; ``pick`` as in :class:`Imagination`."""
    context, groups = draw(model, prompts, group, order, pick)
    before = model.tokenizer.encode_dynamics(context.features.newest, context.features)[1].repeat_interleave(group, 0)
    still = (groups.codes == torch.cat([before.unsqueeze(1), groups.codes[:, :-1]], dim=1)).all(-1)
    given = prompts.recorded[:, :1].numpy().repeat(group, axis=0)
    drawn = Rollout(model, [Segment(context.features, groups.codes)]).frames
    return Futures(prompts, groups, np.concatenate([given, drawn], axis=1), still.cpu().numpy())


@torch.no_grad()
def draw(
    model: WorldModel, prompts: Prompts, group: int, order: Order, pick: Picker | None = None
) -> tuple[Context, Groups]:
    """The contexts of the prompts, and ``group`` futures of each as tokens.

    A prompt's context, first frame and first action are run through the transformer once, whatever ``group`` is.
    """
    context = model.encode(prompts.seen)
    actions = model.action_bins(prompts.actions.numpy())
    imagination = Imagination(model, context, len(actions), order, pick, limit=actions.shape[1])
    imagination.act(actions[:, 0])
    imagination.fork(group)
    codes = [imagination.draw()]
    for step in range(1, actions.shape[1]):
        codes.append(imagination.step(actions[:, step].repeat_interleave(group, 0)))
    return context, Groups(context.codes, context.start, actions, torch.stack(codes, dim=1))


@dataclass(frozen=True)
class TokenCost:
    """Tokens that imagining G futures of T frames from each of P windows takes.

    Attributes:
        prefilled: known tokens that are run through the transformer: context, first frame and first action once a
            window, every later action once a future.
        sampled: tokens that are drawn.
        ancestor: prefilled tokens where each future runs all of its past again for every frame, as RLVR-World does.
    """

    prefilled: int
    sampled: int
    ancestor: int

    @classmethod
    def of(cls, layout: TokenLayout, windows: int, group: int, frames: int) -> TokenCost:
        """For these numbers."""
        shared = layout.length(1)
        known = shared + group * (frames - 1) * layout.action_tokens
        again = group * sum(layout.length(seen) for seen in range(1, frames + 1))
        return cls(windows * known, windows * group * frames * layout.dynamics_tokens, windows * again)
