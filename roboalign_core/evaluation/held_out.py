"""Held-out episodes as the studies read them: frames, actions and states of one length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes.boxes import BOXES
from roboalign_core.episodes.cache import FrameCache
from roboalign_core.episodes.store import EpisodeStore
from roboalign_core.errors import RoboAlignError

STATE = "observation.state"  # the per-frame extra that holds where things are


@dataclass(frozen=True)
class HeldOut:
    """Episodes cut to T + 1 frames.

    Attributes:
        frames: (E, T + 1, H, W, 3) uint8.
        actions: (E, T, A) float32.
        state: (E, T + 1, K) float32; K = 0 where the store records none.
        columns: names of the K.
        boxes: (E, T + 1, J) float32, see :mod:`roboalign_core.episodes.boxes`; J = 0 where the store records none.
        box_columns: names of the J.
        instructions: E sentences.
        source: what the store's episodes carry as theirs.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    state: NDArray[np.float32]
    columns: tuple[str, ...]
    boxes: NDArray[np.float32]
    box_columns: tuple[str, ...]
    instructions: tuple[str, ...] = ()
    source: str = ""

    def of(self, rows: NDArray[np.int64]) -> HeldOut:
        """These episodes alone."""
        told = tuple(self.instructions[row] for row in rows)
        cut = {name: getattr(self, name)[rows] for name in ("frames", "actions", "state", "boxes")}
        return replace(self, **cut, instructions=told)


def check_amounts(settings: Any, **least: int) -> None:
    """Raise RoboAlignError unless there are ``horizons`` of at least 1, and each ``name`` is at least what is given."""
    if not settings.horizons or min(settings.horizons) < 1:
        raise RoboAlignError(f"study.horizons: expected numbers of at least 1, found {settings.horizons}")
    for name, low in least.items():
        if getattr(settings, name) < low:
            raise RoboAlignError(f"study.{name}: expected at least {low}, found {getattr(settings, name)}")


def load_held_out(folder: str, size: tuple[int, int], steps: int, episodes: int) -> HeldOut:
    """The first ``episodes`` (0: all) that are longer than ``steps`` frames, at the frame size (H, W).

    Raises:
        RoboAlignError: the store is damaged, or fewer than two episodes are long enough.
    """
    store = EpisodeStore.open(folder)
    store.verify()
    cache = FrameCache.open_or_build(store, size=size)
    chosen = [index for index in range(len(cache)) if cache.lengths[index] > steps]
    chosen = chosen[:episodes] if episodes else chosen
    if len(chosen) < 2:
        raise RoboAlignError(f"{folder}: expected at least 2 episodes longer than {steps} frames, found {len(chosen)}")
    length = steps + 1
    return HeldOut(
        np.stack([cache.episode_frames(index)[:length] for index in chosen]),
        np.stack([cache.episode_actions(index)[:steps] for index in chosen]),
        _extra(cache, STATE, chosen, length),
        tuple(cache.spec.extras.get(STATE, ())),
        _extra(cache, BOXES, chosen, length),
        tuple(cache.spec.extras.get(BOXES, ())),
        tuple(cache.instructions[index] for index in chosen),
        cache.spec.source,
    )


def _extra(cache: FrameCache, name: str, chosen: list[int], length: int) -> NDArray[np.float32]:
    if name not in cache.extras:
        return np.empty((len(chosen), length, 0), np.float32)
    return np.stack([cache.episode_extra(name, index)[:length] for index in chosen])
