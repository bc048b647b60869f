"""Episodes: in memory, on disk, from foreign formats, and as clips for training."""

from __future__ import annotations

from roboalign_core.episodes.augment import AugmentationConfig
from roboalign_core.episodes.cache import FrameCache
from roboalign_core.episodes.clips import Clip, ClipConfig, ClipSampler, split_episodes
from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.spec import StoreSpec
from roboalign_core.episodes.store import EpisodeStore, EpisodeSummary

__all__ = [
    "AugmentationConfig",
    "Clip",
    "ClipConfig",
    "ClipSampler",
    "Episode",
    "EpisodeStore",
    "EpisodeSummary",
    "FrameCache",
    "StoreSpec",
    "split_episodes",
]
