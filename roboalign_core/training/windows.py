"""Windows of episodes as tokens: what the dynamics stage learns from, coded anew for each batch or once for all."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roboalign_core.episodes.locking import exclusive
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import remove_leftovers
from roboalign_core.tensors import load_tensors, save_tensors
from roboalign_core.training.data import StoreSampler
from roboalign_core.training.state import StateRange
from roboalign_core.training.tokenizer import contexts, own_drawings
from roboalign_core.world_model.actions import ActionBinner
from roboalign_core.world_model.config import WorldModelConfig
from roboalign_core.world_model.tokenizer import DualBranchTokenizer, to_pixels

logger = logging.getLogger(__name__)

Imagine = Callable[[Tensor, Tensor], Tensor]
"""Contexts (b, k, 3, H, W) and action bins (b, d + 1, A), the last unused → the contexts d steps later, imagined."""


@dataclass
class WindowConfig:
    """Which windows are drawn.

    Attributes:
        clips: windows a step.
        lengths: frames a window, one of these a step (the papers: 8).
        context_distance: the newest context frame lies up to so many frames before the first one; mostly 0.
        moved_share: share of the windows with distance above 0.
        still_share: share of the windows whose context is one frame, repeated, as where a stream begins; nothing
            changes where a context is one frame anyway.
        own_share: share of the windows whose context is a drawing of the model's own, as after re-encoding.
        own_drift: such a context is what the model imagines up to so many frames after a real one, as Sliding Window
            Re-encoding has it; 0: a real frame as the tokenizer draws it.
        cached: windows of each length that are coded once, when the first is needed, and drawn from ever after (those
            with imagined contexts are always coded anew); 0: every batch is coded anew.
        cache: folder of the coded windows, which other runs on the same tokenizer, data and settings share; where
            empty, the run's own.
    """

    clips: int = 16
    lengths: list[int] = field(default_factory=lambda: [9])
    context_distance: int = 8
    moved_share: float = 0.25
    still_share: float = 0.25
    own_share: float = 0.25
    own_drift: int = 0
    cached: int = 0
    cache: str = ""

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 2:
            raise RoboAlignError(f"stage.lengths: expected numbers of at least 2 frames, found {self.lengths}")
        if not 0 <= self.own_drift <= self.context_distance:
            raise RoboAlignError(
                f"stage.own_drift: expected 0 to context_distance ({self.context_distance}), found {self.own_drift}"
            )
        if self.context_distance < 0:
            raise RoboAlignError(f"stage.context_distance: expected 0 or more frames, found {self.context_distance}")
        if self.clips < 1 or self.cached < 0:
            raise RoboAlignError(f"stage: expected clips >= 1 and cached >= 0, found {self.clips} and {self.cached}")
        for name in ("moved_share", "still_share", "own_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise RoboAlignError(f"stage.{name}: expected a share in [0, 1], found {getattr(self, name)}")

    def span(self, length: int, context_frames: int) -> int:
        """Frames of the clips that windows of ``length`` frames and their contexts are cut from."""
        return length + self.context_distance + context_frames - 1

    @property
    def own(self) -> int:
        """Windows a step whose context is the model's own drawing."""
        return round(self.own_share * self.clips)

    @property
    def cached_own(self) -> int:
        """The same of a batch that is coded once: none where such contexts are imagined."""
        return 0 if self.own_drift else self.own


@dataclass(frozen=True)
class Windows:
    """B windows of T frames.

    Attributes:
        context: (B, n) codes of the contexts.
        start: (B, m) codes of the first frames, as a rollout starts from them.
        codes: (B, T, m) codes of all frames, relative to the context.
        actions: (B, T, A) bins; ``actions[:, t]`` leads from frame t to frame t + 1.
        state: (B, T, K) standardised positions.
    """

    context: Tensor
    start: Tensor
    codes: Tensor
    actions: Tensor
    state: Tensor

    @property
    def given(self) -> Tensor:
        """(B, T, m) codes as the transformer sees them: the first frame as rollouts start from it."""
        return torch.cat([self.start.unsqueeze(1), self.codes[:, 1:]], dim=1)

    def __len__(self) -> int:
        return len(self.context)

    def __getitem__(self, rows: Tensor) -> Windows:
        return Windows(*(part[rows] for part in vars(self).values()))

    def to(self, device: torch.device) -> Windows:
        """On another device."""
        return Windows(*(part.to(device) for part in vars(self).values()))

    @classmethod
    def join(cls, parts: Sequence[Windows]) -> Windows:
        """One after the other."""
        return cls(*(torch.cat(tensors) for tensors in zip(*(vars(part).values() for part in parts), strict=True)))


class WindowSource:
    """Draws windows and codes them with the frozen tokenizer, after augmentation."""

    def __init__(
        self,
        config: WindowConfig,
        model: WorldModelConfig,
        tokenizer: DualBranchTokenizer,
        samplers: Mapping[int, StoreSampler],
        state: StateRange,
        device: torch.device,
    ) -> None:
        self.config, self.model, self.tokenizer, self.device = config, model, tokenizer, device
        self.samplers, self.state = dict(samplers), state
        self.binner = ActionBinner(tuple(model.action_low), tuple(model.action_high), model.action_bins)

    @torch.no_grad()
    def draw(self, length: int, clips: int, own: int, imagine: Imagine | None = None) -> Windows:
        """``clips`` windows of ``length`` frames, the first ``own`` of them with contexts of the model's own.

        With ``imagine`` these contexts are imagined up to ``own_drift`` frames ahead.
        """
        count, size = self.model.tokenizer.context_frames, self.model.image_size
        clip = self.samplers[self.config.span(length, count)].sample(clips)
        frames, rows = clip.frames.to(self.device), torch.arange(clips)
        start, source = (place + count - 1 for place in self._places(clips))
        drift = int(torch.randint(1, self.config.own_drift + 1, ())) if own and imagine else 0
        source[:own] = source[:own].clamp(min=drift + count - 1)
        start = torch.maximum(start, source)
        steps = start[:, None] + torch.arange(length)
        pixels = contexts(frames, source, count, size, self.config.still_share)
        later = to_pixels(frames[rows[:, None], steps], size)
        if imagine and drift:
            past = source[:own, None] - drift + torch.arange(drift + 1)
            bins = self.binner(clip.actions[rows[:own, None], past]).to(self.device)
            real = contexts(frames[:own], past[:, 0], count, size)
            pixels = torch.cat([imagine(real, bins), pixels[own:]])
        else:
            places = torch.randint(count - 1, frames.shape[1], (own,))
            pixels = own_drawings(self.tokenizer, pixels, contexts(frames[:own], places, count, size))
        here = start == source  # the window starts at its context, as rollouts do
        redrawn = (rows < own) & here  # re-encoding starts from the drawing, not from what was drawn
        newest = pixels[:, -1]
        later = torch.where(_first(redrawn, length).to(self.device), newest.repeat_interleave(length, 0), later)
        with torch.autocast(self.device.type, enabled=False):  # codes as inference finds them
            values, context = self.tokenizer.encode_context(pixels)
            features = self.tokenizer.context_features(values, pixels)
            codes = self.tokenizer.encode_dynamics(later, features.repeat(length))[1].unflatten(0, (clips, length))
            first = self.tokenizer.encode_start(newest, features)
        return Windows(
            context,
            torch.where(here[:, None].to(self.device), first, codes[:, 0]),
            codes,
            self.binner(clip.actions[rows[:, None], steps]).to(self.device),
            self.state.standardised(clip.extra[rows[:, None], steps]).to(self.device),
        )

    def _places(self, batch: int) -> tuple[Tensor, Tensor]:
        """Where the window starts, and where its newest context frame lies: there too, or before it.

        In frames after the first that the older context frames leave room for.
        """
        room = self.config.context_distance
        if not room:
            return torch.zeros(batch, dtype=torch.long), torch.zeros(batch, dtype=torch.long)
        far = torch.rand(batch) < self.config.moved_share
        # A window that is its own context may start anywhere: otherwise no episode's beginning would ever be seen.
        start = torch.where(far, room, torch.randint(0, room + 1, (batch,)))
        return start, torch.where(far, start - torch.randint(1, room + 1, (batch,)), start)

    def state_dict(self) -> dict[str, Any]:
        """Of the samplers."""
        return {str(length): sampler.state_dict() for length, sampler in self.samplers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        for length, sampler in self.samplers.items():
            sampler.load_state_dict(state[str(length)])


class WindowCache:
    """Windows that were coded once, in memory and in a file: coding costs a fifth of a training step.

    The file's name is a digest of everything that its windows depend on, so nothing stale is ever read.
    """

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    @classmethod
    def open_or_build(
        cls, folder: Path, source: WindowSource, length: int, depends: Mapping[str, Any], seed: int
    ) -> WindowCache:
        """The cache of windows of ``length`` frames; ``depends`` says what they depend on beside ``source``, as JSON.

        Random numbers of the run stay as they are. One process at a time builds; a killed one leaves no cache.
        """
        key = json.dumps({**_key(source, length), **depends, "seed": seed}, sort_keys=True)
        path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"
        with exclusive(folder / ".build.lock"):
            if not path.is_file():
                remove_leftovers(folder, below=False)  # others may have folders of their own here
                save_tensors(path, {name: _small(value) for name, value in vars(_coded(source, length, seed)).items()})
        tensors = load_tensors(path)
        return cls(Windows(**{each.name: _large(tensors[each.name]) for each in fields(Windows)}))

    def draw(self, clips: int) -> Windows:
        """``clips`` of them at random."""
        return self.windows[torch.randint(len(self.windows), (clips,))]


def _key(source: WindowSource, length: int) -> dict[str, Any]:
    config, model = source.config, source.model
    return {
        "length": length,
        "own": config.cached_own,
        **{name: getattr(config, name) for name in ("cached", "clips", "context_distance")},
        **{name: getattr(config, name) for name in ("moved_share", "still_share")},
        "tokenizer": asdict(model.tokenizer),
        "weights": _digest(source.tokenizer),
        "dtype": str(source.tokenizer.context_position.dtype),
        "device": source.device.type,
        "actions": [source.binner.low, source.binner.high, model.action_bins],
    }


def _coded(source: WindowSource, length: int, seed: int) -> Windows:
    config, device = source.config, source.device
    batches = -(-config.cached // config.clips)
    logger.info("coding %d windows of %d frames", batches * config.clips, length)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        parts = [source.draw(length, config.clips, config.cached_own).to(torch.device("cpu")) for _ in range(batches)]
    return Windows.join(parts)


def _first(chosen: Tensor, length: int) -> Tensor:
    """Windows (B,) → (B · length, 1, 1, 1): true at the first frame of the chosen ones."""
    mask = torch.zeros(len(chosen), length, dtype=torch.bool)
    mask[:, 0] = chosen
    return mask.flatten()[:, None, None, None]


def _digest(tokenizer: DualBranchTokenizer) -> str:
    """Of all its weights."""
    found = hashlib.sha256()
    for name, value in sorted(tokenizer.state_dict().items()):
        found.update(name.encode())
        found.update(value.float().cpu().numpy().tobytes())
    return found.hexdigest()


def _small(value: Tensor) -> Tensor:
    return value.int() if value.dtype == torch.int64 else value


def _large(value: Tensor) -> Tensor:
    return value.long() if value.dtype == torch.int32 else value
