"""Imagining the future: one segment at a time, and how segments are joined into long rollouts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.parallel import Choose, FixedNoise, decode_frame
from roboalign_core.world_model.picking import Picker, Sampled, picker
from roboalign_core.world_model.tokenizer import ContextFeatures, in_a_row, to_frames

if TYPE_CHECKING:
    from roboalign_core.world_model.model import WorldModel

Mode = Literal["plain", "frozen", "swr"]
Order = Literal["token", "frame"]
AHEAD = 64
"""Tokens of all candidates that are guessed in one pass, token by token. Beyond it, wrong guesses cost more than right
ones save."""


@dataclass(frozen=True)
class Prompt:
    """The tokens that imagination starts from.

    Attributes:
        codes: (b, context_tokens), b = 1 where all candidates share it.
        start: (b, dynamics_tokens), the current frame: relative to the context where it is a later one, else as
            :meth:`~roboalign_core.world_model.tokenizer.DualBranchTokenizer.encode_start` codes it.
    """

    codes: Tensor
    start: Tensor


@dataclass(frozen=True)
class Context(Prompt):
    """The newest frames of a stream, that imagination starts from.

    Attributes:
        features: what decoding needs of the context.
    """

    features: ContextFeatures


class Imagination:
    """Candidates that imagine on from one context, a frame a step.

    The context and the current frame are run through the transformer once (at batch 1 where all candidates share
    them). ``pending`` holds the tokens that are known but not yet in the cache; both decoding orders leave the same
    tokens in the cache, which has room for ``limit`` frames (for all that have positions where None). ``pick`` chooses
    the codes; where None, as :func:`~roboalign_core.world_model.picking.picker` does at temperature 0. ``expected``
    (N, dim) is the hidden state after the last action: all that the transformer holds of the frame that follows, before
    any of its tokens is chosen.
    """

    def __init__(
        self,
        world_model: WorldModel,
        prompt: Prompt,
        candidates: int,
        order: Order,
        pick: Picker | None = None,
        limit: int | None = None,
    ) -> None:
        if order not in get_args(Order):
            raise RoboAlignError(f"decoding order: expected one of {get_args(Order)}, found {order!r}")
        self.dynamics, self.layout = world_model.dynamics, world_model.config.layout
        self.order = order
        self.pick = pick or picker(order)
        self.decoder = world_model.decoder
        cache = self.decoder.cache(len(prompt.start), None if limit is None else self._room(limit))
        context = self.layout.context_ids(prompt.codes).expand(len(prompt.start), -1)
        hidden = self.decoder.hidden(torch.cat([context, prompt.start], dim=1), cache)
        hidden = hidden[:, -self.layout.dynamics_tokens :]
        self.cache = cache if len(prompt.start) == candidates else cache.repeat(candidates)
        self.pending = prompt.start.new_empty(candidates, 0)
        self.expected = torch.empty(0)
        self._last = prompt.start.expand(candidates, -1)  # codes of the current frame
        self._current = hidden.expand(candidates, -1, -1)  # hidden states of the current frame, as far as in the cache
        self.frames, self.limit = 0, limit

    def follow(self, actions: Tensor, dynamics: Tensor) -> None:
        """Take known history in, without predicting.

        Args:
            actions: bins (N, T, A).
            dynamics: codes (N, T, dynamics_tokens) of the frames that they led to.
        """
        steps = torch.cat([self.layout.action_ids(actions), dynamics], dim=-1).flatten(1)
        ids = torch.cat([self.pending, steps], dim=1)
        self.decoder.hidden(ids[:, : -self.layout.dynamics_tokens], self.cache)
        self.pending = self._last = dynamics[:, -1]
        self._current = self._current[:, :0]
        self.frames += actions.shape[1]

    def rewind(self, frames: int, dynamics: Tensor) -> None:
        """Back to the frame after so many actions, with codes (N, dynamics_tokens) in place of its own.

        What came before it stays in the cache.

        Raises:
            RoboAlignError: there are not as many frames, or candidates share that one.
        """
        length = self.layout.length(frames)
        if not 0 <= frames <= self.frames or length < self.cache.shared:
            raise RoboAlignError(f"imagination: expected a frame of its own, 0 to {self.frames}, found {frames}")
        self.cache.length, self.frames = length, frames
        self.pending = self._last = dynamics
        self._current = self._current[:, :0]

    def fork(self, count: int) -> None:
        """Each candidate becomes ``count`` alike in a row: one past, computed once, and from here on futures apart."""
        self.cache = self.cache.repeat(count)
        self.pending = self.pending.repeat_interleave(count, 0)
        self.expected = self.expected.repeat_interleave(count, 0)
        self._current = self._current.repeat_interleave(count, 0)
        self._last = self._last.repeat_interleave(count, 0)

    def forked(self, count: int) -> Imagination:
        """:meth:`fork` of a copy: this one can be gone on from again."""
        copied = copy(self)
        copied.fork(count)
        return copied

    def keep(self, rows: Tensor) -> None:
        """Go on with candidates ``rows`` (M,) alone; all had one context.

        Raises:
            RoboAlignError: there are several contexts.
        """
        self.cache.keep(rows)
        self.pending, self._current, self._last = self.pending[rows], self._current[rows], self._last[rows]
        self.expected = self.expected[rows]

    def step(self, actions: Tensor) -> Tensor:
        """Action bins (N, A) → dynamics codes (N, dynamics_tokens) of the next frame."""
        self.act(actions)
        return self.draw()

    def act(self, actions: Tensor) -> None:
        """Take action bins (N, A) in: ``expected`` is what they lead to."""
        ids = torch.cat([self.pending, self.layout.action_ids(actions)], dim=1)
        self._current = torch.cat([self._current, self.decoder.hidden(ids, self.cache)], dim=1)
        self.expected = self._current[:, -1]

    def draw(self) -> Tensor:
        """After an action: dynamics codes (N, dynamics_tokens) of the frame that follows it."""
        hidden, self._current = self._current, self._current[:, :0]
        self.frames += 1
        self._last = self._whole_frame(hidden) if self.order == "frame" else self._token_by_token(hidden)
        return self._last

    def _room(self, frames: int) -> int:
        """Tokens of the context, of so many steps, and of the frame after the last."""
        layout = self.layout
        return layout.context_tokens + frames * layout.frame_tokens + layout.dynamics_tokens

    def _whole_frame(self, hidden: Tensor) -> Tensor:
        codes = self.pick(self.dynamics.frame_head(hidden))
        self.pending = codes
        return codes

    def _token_by_token(self, hidden: Tensor) -> Tensor:
        """Frames change little, so the one before is the guess."""
        window = max(1, AHEAD // len(self._last))
        codes = decode_frame(self.decoder, self.cache, hidden[:, -1:], self._last, self._choose(), window)
        self.pending = codes[:, -1:]
        return codes

    def _choose(self) -> Choose:
        """``pick`` as guesses need it: where it draws, by noise that is drawn once for the whole frame."""
        if isinstance(self.pick, Sampled):
            return FixedNoise.draw(self.dynamics.groups, self._last, self.pick.temperature, self.pick.generator)
        return lambda logits, _: self.pick(logits)


@dataclass(frozen=True)
class Segment:
    """Imagined codes (N, W, dynamics_tokens) and the context features (b, …) that they are relative to."""

    features: ContextFeatures
    codes: Tensor

    @property
    def each(self) -> ContextFeatures:
        """The context features of each candidate, (N, …)."""
        return self.features.repeat(len(self.codes) // len(self.features.latent))

    def frames(self, world_model: WorldModel) -> Tensor:
        """What the codes show, (N, W, H, W, 3) uint8."""
        features = self.each
        return torch.stack([world_model.decode(codes, features) for codes in self.codes.unbind(1)], dim=1)

    def newest(self, world_model: WorldModel) -> Tensor:
        """Pixels (N, k, 3, H, W) of the newest frames, as the next context has them: drawn, and seen before that."""
        count = world_model.config.tokenizer.context_frames
        last = Segment(self.each, self.codes[:, -count:])
        drawn = world_model.pixels(last.frames(world_model))
        return in_a_row([*last.features.pixels.unbind(1), *drawn.unbind(1)][-count:])


@dataclass
class Rollout:
    """N imagined futures of T frames; nothing is decoded before it is asked for."""

    world_model: WorldModel = field(repr=False)
    segments: Sequence[Segment]

    @cached_property
    def tokens(self) -> Tensor:
        """Dynamics codes (N, T, dynamics_tokens), each relative to the context of its segment."""
        return torch.cat([segment.codes for segment in self.segments], dim=1)

    @cached_property
    def before(self) -> Tensor:
        """Dynamics codes (N, T, dynamics_tokens) of the frame before each, relative to the context of that one."""
        parts: list[Tensor] = []
        for index, segment in enumerate(self.segments):
            features, last = segment.each, self.segments[index - 1]
            if index and torch.equal(features.newest, last.each.newest):  # a new segment in the same context
                first = last.codes[:, -1]
            else:
                first = self.world_model.encode_dynamics(to_frames(features.newest), features)
            parts.append(torch.cat([first.unsqueeze(1), segment.codes[:, :-1]], dim=1))
        return torch.cat(parts, dim=1)

    @cached_property
    def frames(self) -> np.ndarray:
        """(N, T, H, W, 3) uint8."""
        return torch.cat([segment.frames(self.world_model) for segment in self.segments], dim=1).cpu().numpy()

    def latent(self, step: int) -> Tensor:
        """The imagined frame ``step`` (negative from the end) as tokenizer features (N, h·w, C), without pixels."""
        length = self.tokens.shape[1]
        step = step + length if step < 0 else step
        if not 0 <= step < length:
            raise RoboAlignError(f"rollout step: expected one of {length} steps, found {step}")
        for segment in self.segments:
            if step < segment.codes.shape[1]:
                return self.world_model.latent(segment.codes[:, step], segment.each)
            step -= segment.codes.shape[1]
        raise RoboAlignError("rollout: no segments")


@torch.no_grad()
def roll(
    world_model: WorldModel,
    context: Context,
    actions: Tensor,
    mode: Mode,
    window: int,
    order: Order,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    on_frame: Callable[[Imagination], None] | None = None,
) -> Rollout:
    """Imagine along action bins (N, T, A) from one context.

    ``plain`` keeps the first context and the whole history while the transformer has positions for it; then the oldest
    half is dropped. ``frozen`` restarts every ``window`` frames from the first context and the last frame's tokens
    (RLVR-World's long rollouts). ``swr`` restarts from the newest frames, as many as a context has, decoded and encoded
    again as context (Sliding Window Re-encoding, RoboAlign-R1, A5). ``on_frame`` is called after each frame, for
    measurements.
    """
    if mode not in get_args(Mode):
        raise RoboAlignError(f"rollout mode: expected one of {get_args(Mode)}, found {mode!r}")
    if not 0 <= temperature < math.inf:
        raise RoboAlignError(f"rollout temperature: expected a finite number of 0 or more, found {temperature}")
    pick, limit = picker(order, temperature, generator), world_model.config.dynamics.max_frames - 1
    if mode != "plain" and not 1 <= window <= limit:
        raise RoboAlignError(f"rollout window: expected 1 to {limit} frames, found {window}")
    candidates, steps = actions.shape[:2]
    length = limit if mode == "plain" else window
    segments: list[Segment] = []
    imagination = Imagination(world_model, context, candidates, order, pick, length)
    codes: list[Tensor] = []
    for step in range(steps):
        if imagination.frames == length:
            segments.append(Segment(context.features, torch.stack(codes, dim=1)))
            if mode == "plain":
                history = Rollout(world_model, segments).tokens
                imagination = _slide(world_model, context, actions[:, :step], history, imagination)
            else:
                context = _restart(world_model, context, segments[-1], mode)
                imagination = Imagination(world_model, context, candidates, order, pick, length)
            codes = []
        codes.append(imagination.step(actions[:, step]))
        if on_frame:
            on_frame(imagination)
    segments.append(Segment(context.features, torch.stack(codes, dim=1)))
    return Rollout(world_model, segments)


def _restart(world_model: WorldModel, context: Context, segment: Segment, mode: Mode) -> Context:
    if mode == "frozen":
        last = segment.codes[:, -1]
        return Context(context.codes.expand(len(last), -1), last, segment.each)
    return world_model.context(segment.newest(world_model))


def _slide(world_model: WorldModel, context: Context, actions: Tensor, codes: Tensor, old: Imagination) -> Imagination:
    """A new imagination that keeps the newer half of the history."""
    keep = old.frames // 2
    start = Prompt(context.codes.expand(len(codes), -1), codes[:, -keep - 1])
    new = Imagination(world_model, start, len(codes), old.order, old.pick, old.limit)
    if keep:
        new.follow(actions[:, -keep:], codes[:, -keep:])
    return new
