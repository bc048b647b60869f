"""Rollouts of world models as benchmark videos, scored from the state that a probe reads in them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from roboalign_core.benchmark.pairs import provenance
from roboalign_core.bundled import resolve_model
from roboalign_core.episodes import Episode, StoreSpec
from roboalign_core.episodes.resize import resize
from roboalign_core.evaluation.held_out import STATE
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.world_model.model import WEIGHT_FILES, WorldModel
from roboalign_core.world_model.rollout import Mode, roll

MODE: Mode = "swr"


class Generator:
    """One world model, imagining episodes along recorded actions.

    Args:
        name: a bundled name or a folder.
        probe: reads the state from frames; the same for all models, so that their scores compare.

    Raises:
        RoboAlignError: there is no such model.
    """

    def __init__(self, name: str, probe: StateProbe) -> None:
        self.name, self.probe = name, probe
        self.model = WorldModel.from_pretrained(name)

    def fits(self, spec: StoreSpec) -> bool:
        """Whether it can imagine a store's episodes, and the probe reads the state that the store records."""
        state = list(spec.extras.get(STATE, ()))
        return len(spec.action_names) == self.model.config.action_dim and state == self.probe.config.columns

    @cached_property
    def provenance(self) -> str:
        """The model, its weights' checksum, and how it imagined."""
        digest = hashlib.sha256()
        folder = resolve_model(self.name)
        for file in WEIGHT_FILES:
            if (folder / file).is_file():
                digest.update((folder / file).read_bytes())
        return provenance(
            model=self.name, weights=digest.hexdigest()[:16], mode=MODE, window=self.model.config.window, order="frame"
        )

    def imagine(self, episodes: Sequence[Episode]) -> list[Episode]:
        """Imagine each episode (all of one length) from its first frame along its actions.

        Returns:
            episodes of the recordings' size and length, beginning with the recorded first frame; their
            ``observation.state`` is what the probe reads in the imagined frames, all other extras are dropped.
        """
        first = torch.from_numpy(np.stack([episode.frames[0] for episode in episodes]))
        actions = np.stack([episode.actions[:-1] for episode in episodes])
        with torch.no_grad():
            context = self.model.encode(first)
            rollout = roll(
                self.model, context, self.model.action_bins(actions), MODE, self.model.config.window, "frame"
            )
        return [self._episode(*pair) for pair in zip(episodes, rollout.frames, strict=True)]

    def _episode(self, episode: Episode, imagined: npt.NDArray[np.uint8]) -> Episode:
        frames = np.concatenate(
            [episode.frames[:1], resize(imagined, (episode.frames.shape[1], episode.frames.shape[2]))]
        )
        read = self.probe.read(frames)
        return replace(episode, frames=frames, success=None, extras={STATE: read})
