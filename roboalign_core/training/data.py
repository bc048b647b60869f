"""Stores as training data: one or several, behind one face."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roboalign_core.episodes.augment import AugmentationConfig
from roboalign_core.episodes.cache import FrameCache
from roboalign_core.episodes.clips import Clip, ClipConfig, ClipSampler
from roboalign_core.episodes.identity import identities
from roboalign_core.episodes.spec import StoreSpec
from roboalign_core.episodes.store import EpisodeStore
from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.actions import ActionBinner


class TrainingData:
    """Episodes of one or more stores, decoded once, at the model's frame size.

    Stores must agree in action width; episodes are numbered through in the order of the stores. Nothing is decoded
    (and no cache is written) before frames are asked for, so that a wrong configuration is found first.
    """

    def __init__(self, folders: Sequence[str], size: tuple[int, int]) -> None:
        if not folders:
            raise RoboAlignError("data: expected at least one folder of episodes, found none")
        stores = [EpisodeStore.open(folder) for folder in folders]
        for store in stores:
            store.verify()
        widths = {len(store.spec.action_names) for store in stores}
        if len(widths) > 1:
            raise RoboAlignError(f"data: expected stores of one action width, found {sorted(widths)}")
        self.stores, self.size = stores, size
        self.first = np.cumsum([0, *(len(store) for store in stores)])

    @cached_property
    def caches(self) -> list[FrameCache]:
        """Decoded frames and rows of each store."""
        return [FrameCache.open_or_build(store, size=self.size) for store in self.stores]

    @property
    def episodes(self) -> int:
        """Episodes of all stores."""
        return int(self.first[-1])

    @property
    def lengths(self) -> Tensor:
        """(episodes,) frames of each."""
        return torch.from_numpy(np.concatenate([store.lengths for store in self.stores]))

    @property
    def action_dim(self) -> int:
        """Width of the actions."""
        return len(self.stores[0].spec.action_names)

    @property
    def fps(self) -> float:
        """Frames a second, of the first store."""
        return float(self.stores[0].spec.fps)

    @property
    def identity(self) -> list[list[Any]]:
        """What a resumed run must find again: source, episodes and frames of each store."""
        return [[store.spec.source, len(store), store.frames] for store in self.stores]

    @property
    def digest(self) -> str:
        """Of the contents: changes with every file of every store."""
        content = [[asdict(group) for group in store.info.groups] for store in self.stores]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def action_range(self, bins: int, percentile: float) -> dict[str, list[float]]:
        """Range of the actions, see :meth:`ActionBinner.fit`."""
        binner = ActionBinner.fit(np.concatenate([cache.actions for cache in self.caches]), bins, percentile)
        return {"action_low": list(binner.low), "action_high": list(binner.high)}

    def sampler(
        self,
        length: int,
        augmentation: AugmentationConfig,
        seed: int,
        columns: Sequence[str] = (),
        threshold: float = 0.0,
        share: float = 0.0,
        extra: str = "",
        episodes: NDArray[np.int64] | None = None,
    ) -> StoreSampler:
        """Clips of ``length`` frames, with the per-frame ``extra`` where one is named, of all or of some ``episodes``.

        With ``columns``, a ``share`` of them shows one of these state columns change by more than ``threshold``.
        """
        samplers, first = [], []
        for index, cache in enumerate(self.caches):
            weights = _moving_weights(cache, length, columns, threshold, share) if columns else None
            clips = ClipConfig(length, 1, augmentation, extra)
            chosen = np.arange(len(cache)) if episodes is None else episodes - self.first[index]
            chosen = chosen[(chosen >= 0) & (chosen < len(cache))]
            if len(chosen):
                samplers.append(ClipSampler(cache, clips, seed + index, chosen, weights))
                first.append(int(self.first[index]))
        return StoreSampler(samplers, seed, first)

    # -- single frames ----------------------------------------------------------------------------------------------

    def frames(self, episode: Tensor, step: Tensor) -> Tensor:
        """Frames (B, H, W, 3) uint8 at (episode, step), (B,) each."""
        return torch.from_numpy(np.stack([self.caches[s].frames[row] for s, row in self._rows(episode, step)]))

    def actions(self, episode: Tensor, step: Tensor) -> Tensor:
        """Actions (B, A) float32 at (episode, step), (B,) each."""
        return torch.from_numpy(np.stack([self.caches[s].actions[row] for s, row in self._rows(episode, step)]))

    def instructions(self, episode: Tensor) -> list[str]:
        """The instruction of each of episodes (B,)."""
        texts = [text for store in self.stores for text in store.instructions]
        return [texts[index] for index in episode.tolist()]

    def specs(self, episode: Tensor) -> list[StoreSpec]:
        """The spec of the store of each of episodes (B,)."""
        stores = np.searchsorted(self.first, episode.numpy(), side="right") - 1
        return [self.stores[index].spec for index in stores.tolist()]

    def recordings(self, episode: Tensor) -> list[str]:
        """The identity of each of episodes (B,), the same for all cameras that saw it."""
        return [self._identities[index] for index in episode.tolist()]

    @cached_property
    def _identities(self) -> list[str]:
        return [text for store in self.stores for text in identities(store)]

    def column(self, name: str, episode: Tensor, step: Tensor) -> Tensor:
        """Rows (B, K) float32 of a per-frame extra."""
        return torch.from_numpy(np.stack([self._extra(s, name)[row] for s, row in self._rows(episode, step)]))

    def column_names(self, name: str) -> tuple[str, ...]:
        """Names of an extra's columns, the same in all stores."""
        for index in range(len(self.stores)):
            self._extra(index, name)
        names = {store.spec.extras[name] for store in self.stores}
        if len(names) > 1:
            raise RoboAlignError(f"data: expected one set of column names for {name!r}, found {sorted(names)}")
        return names.pop()

    def column_range(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (K,) of an extra; a constant column gets deviation 1."""
        rows = np.concatenate([self._extra(index, name) for index in range(len(self.stores))])
        std = rows.std(0)
        return torch.from_numpy(rows.mean(0)), torch.from_numpy(np.where(std < 1e-6, 1, std).astype(np.float32))

    def _rows(self, episode: Tensor, step: Tensor) -> list[tuple[int, int]]:
        episodes = episode.numpy()
        store = np.searchsorted(self.first, episodes, side="right") - 1
        local = episodes - self.first[store]
        return [(int(s), int(self.caches[s].starts[e] + t)) for s, e, t in zip(store, local, step.numpy(), strict=True)]

    def _extra(self, store: int, name: str) -> NDArray[np.float32]:
        extras = self.caches[store].extras
        if name not in extras:
            raise RoboAlignError(f"data: expected per-frame column {name!r}, found {', '.join(extras) or 'none'}")
        return extras[name]


class StoreSampler:
    """Draws every batch from stores in proportion to their episodes, which are numbered through from ``first`` on."""

    def __init__(self, samplers: Sequence[ClipSampler], seed: int, first: Sequence[int]) -> None:
        self.samplers, self.first = list(samplers), list(first)
        counts = np.array([len(sampler.episodes) for sampler in samplers], float)
        self.shares = counts / counts.sum()
        self.random = np.random.default_rng(seed)

    def sample(self, batch: int) -> Clip:
        """``batch`` clips."""
        if len(self.samplers) == 1:
            return self._sample(0, batch)
        counts = self.random.multinomial(batch, self.shares)
        clips = [self._sample(index, int(count)) for index, count in enumerate(counts) if count]
        keys = ("frames", "actions", "episode", "start", "extra")
        order = torch.from_numpy(self.random.permutation(batch))  # stages treat the first clips of a batch specially
        return Clip(**{key: torch.cat([getattr(clip, key) for clip in clips])[order] for key in keys})

    def _sample(self, index: int, count: int) -> Clip:
        clip = self.samplers[index].sample(count)
        return replace(clip, episode=clip.episode + self.first[index])

    def state_dict(self) -> dict[str, Any]:
        """JSON state of all draws."""
        return {
            "samplers": [sampler.state_dict() for sampler in self.samplers],
            "random": self.random.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the sampler with this state was."""
        for sampler, saved in zip(self.samplers, state["samplers"], strict=True):
            sampler.load_state_dict(saved)
        self.random.bit_generator.state = state["random"]


def _moving_weights(
    cache: FrameCache, length: int, columns: Sequence[str], threshold: float, share: float
) -> NDArray[np.float64]:
    """A weight for every frame as the start of a clip, so that ``share`` of the clips show motion in ``columns``."""
    names = cache.spec.extras.get("observation.state", ())
    unknown = [column for column in columns if column not in names]
    if unknown:
        known = ", ".join(names) or "none"
        raise RoboAlignError(f"balance.columns: expected names among {known}, found {unknown[0]!r}")
    state = cache.extras["observation.state"][:, [names.index(column) for column in columns]]
    moving, still = np.zeros(len(state), bool), np.zeros(len(state), bool)  # neither where no clip can start
    for start, count in zip(cache.starts, cache.lengths, strict=True):
        rows = state[start : start + count]
        for offset in range(max(0, count - length + 1)):
            moves = (np.ptp(rows[offset : offset + length], axis=0) > threshold).any()
            (moving if moves else still)[start + offset] = True
    weights = moving * share / max(1, moving.sum()) + still * (1 - share) / max(1, still.sum())
    return weights if moving.any() else np.ones(len(state))
