"""Rollouts that a teacher has scored, kept in the run folder as a benchmark of their own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.benchmark import Origin, Pair, Split
from roboalign_core.benchmark.benchmark import INFO, PAIRS, STORES, finish
from roboalign_core.benchmark.pairs import provenance, read_pairs
from roboalign_core.benchmark.sources import split_of
from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec
from roboalign_core.episodes.cache import FrameCache
from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import Scores
from roboalign_core.training.grpo.imagination import Futures

PREFIX = "online-"  # of its stores
SPLITS = {"train": 0.8, "validation": 0.2}  # of recorded episodes


@dataclass(frozen=True)
class Rollout:
    """One imagined future.

    Attributes:
        episode: what was imagined, its real first frame included; the last action is none (zeros).
        spec: of the store that the window was recorded in.
        parent: identity of the recorded episode of that window.
    """

    episode: Episode
    spec: StoreSpec
    parent: str


def rollouts(futures: Futures, rows: Sequence[int]) -> list[Rollout]:
    """These of the futures."""
    found = []
    for row in rows:
        window = row // futures.groups.size
        spec = futures.prompts.specs[window]
        actions = futures.actions[row]
        episode = Episode(
            frames=futures.imagined[row],
            actions=np.concatenate([actions, np.zeros_like(actions[:1])]),
            instruction=futures.prompts.instructions[window],
            success=None,
            fps=spec.fps,
            source=spec.source,
            camera=spec.camera,
        )
        found.append(Rollout(episode, spec, futures.prompts.recordings[window]))
    return found


class Replay:
    """Scored rollouts in the order in which they came; a folder that ``roboalign benchmark`` reads.

    What a process that was killed had added after its newest checkpoint is removed by the next one: :meth:`load` says
    how much belongs to the checkpoint, and before the first :meth:`add` nothing does.

    Attributes:
        pairs: a pair for each; ``scores`` are the teacher's.
    """

    def __init__(self, folder: Path, size: tuple[int, int], about: Mapping[str, Any]) -> None:
        """Touches nothing yet.

        Args:
            folder: of the benchmark.
            size: (H, W) of the frames that :meth:`frames` gives.
            about: who scored, and why; kept in the benchmark's settings.
        """
        self.folder, self.about = folder, about
        self.pairs: list[Pair] = []
        self._size = size
        self._caches: dict[str, FrameCache] = {}

    def __len__(self) -> int:
        """Rollouts."""
        return len(self.pairs)

    def subset(self, split: Split) -> list[Pair]:
        """The pairs of a split: TRAIN to learn from, VALIDATION to calibrate with."""
        return [pair for pair in self.pairs if pair.split is split]

    def frames(self, pair: Pair) -> NDArray[np.uint8]:
        """(T, H, W, 3) uint8 of one of the pairs."""
        if pair.store not in self._caches:
            store = EpisodeStore.open(self.folder / STORES / pair.store)
            self._caches[pair.store] = FrameCache.open_or_build(store, self._size, progress=False)
        return self._caches[pair.store].episode_frames(pair.episode)

    def add(self, step: int, found: Sequence[Rollout], student: Scores, teacher: Scores, labeller: str) -> None:
        """Keep rollouts of a step with what both think of them; ``labeller`` is the teacher."""
        self._remove_others()
        stores: dict[str, list[Rollout]] = {}
        for rollout, before, scores in zip(found, student.raw.tolist(), teacher.raw.tolist(), strict=True):
            name = f"{PREFIX}{step:08d}-{rollout.spec.source}-{rollout.spec.camera}"
            stores.setdefault(name, []).append(rollout)
            pair = Pair(
                number=len(self.pairs),
                split=split_of(rollout.parent, 0, SPLITS),
                instruction=rollout.episode.instruction,
                store=name,
                episode=len(stores[name]) - 1,
                source=rollout.spec.source,
                parent=rollout.parent,
                origin=Origin.GENERATED,
                degradations=(),
                scores=tuple(scores),
                labeller=labeller,
                provenance=provenance(step=step, student=before),
            )
            self.pairs.append(pair)
        for name, members in stores.items():
            spec = replace(StoreSpec.like(members[0].episode, lossless=True), action_names=members[0].spec.action_names)
            store = EpisodeStore.create(self.folder / STORES / name, spec)
            store.append([rollout.episode for rollout in members])
        finish(self.folder, self.pairs, self.about)

    def load(self, count: int) -> None:
        """Go on with the first ``count`` rollouts of the folder; the others are removed.

        Raises:
            RoboAlignError: it holds fewer, or is damaged.
        """
        pairs = read_pairs(self.folder / PAIRS) if count else []
        if len(pairs) < count:
            raise RoboAlignError(f"{self.folder / PAIRS}: expected at least {count} rollouts, found {len(pairs)}")
        self.pairs = pairs[:count]
        self._remove_others()
        for name in sorted({pair.store for pair in self.pairs}):
            EpisodeStore.open(self.folder / STORES / name).verify()
        if count:
            finish(self.folder, self.pairs, self.about)

    def _remove_others(self) -> None:
        """Whatever does not belong to the pairs; without ``benchmark.json`` the folder is unfinished."""
        (self.folder / INFO).unlink(missing_ok=True)
        kept = {pair.store for pair in self.pairs}
        for store in (self.folder / STORES).glob("*"):
            if store.name not in kept:
                shutil.rmtree(store)
        if not self.pairs:
            (self.folder / PAIRS).unlink(missing_ok=True)
