"""Short clips of episodes for training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roboalign_core.episodes.augment import AugmentationConfig, augment
from roboalign_core.episodes.cache import FrameCache
from roboalign_core.errors import RoboAlignError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipConfig:
    """The shape of clips.

    Attributes:
        length: T, frames of a clip.
        stride: distance of its frames in the episode; with a stride above 1 only the action at each frame is kept.
        augmentation: how clips are changed.
        extra: a per-frame extra of the store that comes along with each frame; none where empty.
    """

    length: int = 8
    stride: int = 1
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    extra: str = ""

    def __post_init__(self) -> None:
        if self.length < 1 or self.stride < 1:
            raise RoboAlignError(f"clips: expected length, stride >= 1, found {self.length}, {self.stride}")

    @property
    def span(self) -> int:
        """Frames of an episode that a clip covers."""
        return (self.length - 1) * self.stride + 1


@dataclass(frozen=True)
class Clip:
    """A batch of clips.

    Attributes:
        frames: (B, T, H, W, 3) uint8.
        actions: (B, T, A) float32; ``actions[:, t]`` leads from frame t to frame t+1.
        episode: (B,) int64, the episode of each clip.
        start: (B,) int64, its first frame in the episode.
        extra: (B, T, K) float32, the extra that was asked for; K = 0 without one.
    """

    frames: Tensor
    actions: Tensor
    episode: Tensor
    start: Tensor
    extra: Tensor

    def images(self) -> Tensor:
        """(B, T, 3, H, W) float32 in [0, 1]."""
        return self.frames.permute(0, 1, 4, 2, 3).float() / 255.0


class ClipSampler:
    """Draws clips: an episode uniformly, then a start uniformly among those at which a clip fits.

    The same seed gives the same clips; `state_dict` and `load_state_dict` go on exactly where another sampler stopped.
    """

    def __init__(
        self,
        cache: FrameCache,
        config: ClipConfig,
        seed: int = 0,
        episodes: Sequence[int] | NDArray[np.int64] | None = None,
        weights: NDArray[np.floating[Any]] | None = None,
    ) -> None:
        """Prepare.

        Args:
            cache: the frames.
            config: the shape of clips and their augmentation.
            seed: of all draws.
            episodes: the indices to draw from, e.g. one side of `split_episodes`; None means all.
            weights: (N,) for each frame of the cache, how often a clip should start there, relative to the others;
                clips are then drawn by these weights over all starts at which one fits, instead of episode first.

        Raises:
            RoboAlignError: no episode is long enough, the store lacks the extra, or the weights have a wrong shape, are
                negative, or are all zero.
        """
        self.cache = cache
        self.config = config
        self._extra = _extra_rows(cache, config.extra)
        chosen = np.arange(len(cache)) if episodes is None else np.asarray(episodes, dtype=np.int64)
        self._episodes = _long_enough(cache, chosen, config)
        self._starts = cache.lengths[self._episodes] - config.span + 1  # number of possible starts in each
        self._first_window = np.cumsum(self._starts) - self._starts  # of each episode, among the windows of all
        self._cumulative = None if weights is None else self._window_weights(weights)
        self._rng = np.random.default_rng(seed)

    @property
    def episodes(self) -> NDArray[np.int64]:
        """The episodes that clips are drawn from."""
        return self._episodes

    def sample(self, batch: int) -> Clip:
        """Draw ``batch`` clips."""
        episode, start = self._draw(batch)
        first = self.cache.starts[episode] + start
        frames = torch.from_numpy(self._gather(self.cache.frames, first))
        return Clip(
            frames=augment(frames, self.config.augmentation, self._rng),
            actions=torch.from_numpy(self._gather(self.cache.actions, first)),
            episode=torch.from_numpy(episode),
            start=torch.from_numpy(start),
            extra=torch.from_numpy(self._gather(self._extra, first)),
        )

    def state_dict(self) -> dict[str, Any]:
        """The state of all draws; plain numbers and strings, so that JSON holds it."""
        return {"rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the sampler with this state was.

        Raises:
            RoboAlignError: it is not a state of a sampler.
        """
        try:
            self._rng.bit_generator.state = state["rng"]
        except (KeyError, TypeError, ValueError) as error:
            raise RoboAlignError(f"clip sampler: expected the state of a sampler, found: {error}") from error

    def _draw(self, batch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._cumulative is None:
            pick = self._rng.integers(len(self._episodes), size=batch)
            return self._episodes[pick], self._rng.integers(self._starts[pick])
        window = np.searchsorted(self._cumulative, self._rng.random(batch) * self._cumulative[-1], side="right")
        pick = np.searchsorted(self._first_window, window, side="right") - 1
        return self._episodes[pick], window - self._first_window[pick]

    def _window_weights(self, weights: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        if weights.shape != (len(self.cache.frames),):
            raise RoboAlignError(f"clip weights: expected shape ({len(self.cache.frames)},), found {weights.shape}")
        if not np.isfinite(weights).all() or (weights < 0).any():
            raise RoboAlignError("clip weights: expected finite numbers of 0 or more, found others")
        parts = [
            weights[start : start + count]
            for start, count in zip(self.cache.starts[self._episodes], self._starts, strict=True)
        ]
        cumulative = np.cumsum(np.concatenate(parts), dtype=np.float64)
        if cumulative[-1] <= 0:
            raise RoboAlignError("clip weights: expected a weight above 0 at some possible start, found none")
        return cumulative

    def _gather(self, rows: NDArray[Any], first: NDArray[np.int64]) -> NDArray[Any]:
        """(B, T, ...) from (N, ...); slice by slice, because a mapped file reads slices faster than scattered rows."""
        out = np.empty((len(first), self.config.length, *rows.shape[1:]), rows.dtype)
        for clip, start in zip(out, first, strict=True):
            clip[:] = rows[start : start + self.config.span : self.config.stride]
        return out


def split_episodes(count: int, holdout: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split episode indices into those for training and those held out.

    Each episode falls on its side by a draw of its own, so it stays there when more episodes are added to the store;
    the share that is held out is therefore ``holdout`` on average only. Neither side is left empty.

    Args:
        count: number of episodes.
        holdout: the share to hold out, in [0, 1); 0 holds out none.
        seed: of the draws.

    Raises:
        RoboAlignError: the share is out of range, or there are too few episodes to split.
    """
    if not 0 <= holdout < 1:
        raise RoboAlignError(f"holdout: expected a share in [0, 1), found {holdout}")
    if holdout == 0:
        return np.arange(count), np.arange(0)
    if count < 2:
        raise RoboAlignError(f"holdout: expected at least 2 episodes to split, found {count}")
    draws = np.random.default_rng(seed).random(count)
    held = draws < holdout
    held[draws.argmin()] = True
    held[draws.argmax()] = False
    return np.flatnonzero(~held), np.flatnonzero(held)


def _extra_rows(cache: FrameCache, name: str) -> NDArray[np.float32]:
    if not name:
        return np.empty((len(cache.frames), 0), np.float32)
    if name not in cache.extras:
        found = ", ".join(cache.extras) or "none"
        raise RoboAlignError(f"clips: expected a store with the per-frame extra {name!r}, found {found}")
    return cache.extras[name]


def _long_enough(cache: FrameCache, chosen: NDArray[np.int64], config: ClipConfig) -> NDArray[np.int64]:
    if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(cache)):
        raise RoboAlignError(f"clips: expected episodes 0 to {len(cache) - 1}, found {chosen.min()} to {chosen.max()}")
    fits = cache.lengths[chosen] >= config.span
    if not fits.any():
        longest = int(cache.lengths[chosen].max()) if len(chosen) else 0
        raise RoboAlignError(
            f"clips: expected episodes of {config.span} frames (length {config.length}, stride {config.stride}), "
            f"found {len(chosen)} episodes, the longest of {longest}"
        )
    if not fits.all():
        logger.warning(
            "%d of %d episodes are shorter than a clip of %d frames and are left out",
            (~fits).sum(),
            len(fits),
            config.span,
        )
    return chosen[fits].astype(np.int64)
