"""What a benchmark is made from: stores of recorded episodes, and who scores them as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from roboalign_core.benchmark.degradations import DEGRADATIONS, Pool, degrade, kept
from roboalign_core.benchmark.oracles import READ, StateOracle, load_oracle
from roboalign_core.benchmark.pairs import Applied, Split
from roboalign_core.episodes import Episode, EpisodeStore
from roboalign_core.episodes.identity import identities
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.held_out import STATE
from roboalign_core.rubric import HIGHEST, OUTCOME

# A recorded episode without privileged state: real cameras see real physics, so only the task can be amiss. Where the
# source says that the robot failed, how far it came is unknown: the right action, incomplete; not done.
_FAILED = np.array([2, 0, 1, 1, 1, 2], np.float32)
_NOTHING = np.zeros(len(HIGHEST), np.float32)


@dataclass(frozen=True)
class Source:
    """One store of recorded episodes.

    Attributes:
        name: of the store that its videos go to.
        store: the recorded episodes.
        oracle: scores them from their state; None where there is none for the source.
    """

    name: str
    store: EpisodeStore
    oracle: StateOracle | None

    @property
    def labeller(self) -> str:
        """Who scores its episodes."""
        return "oracle" if self.oracle else "rule"

    @cached_property
    def parents(self) -> list[str]:
        """An identity for each episode, the same for all cameras that saw it."""
        return identities(self.store)

    @cached_property
    def instructions(self) -> tuple[str, ...]:
        """The instructions that its episodes may be judged by."""
        own = {text for text in self.store.instructions if text}
        return tuple(sorted(own | set(self.oracle.instructions))) if self.oracle else tuple(sorted(own))

    def scores(self, episode: Episode, instruction: str) -> npt.NDArray[np.float32]:
        """(6,) of an undamaged episode under an instruction that may be another than its own.

        Raises:
            RoboAlignError: there is no oracle to judge another instruction than the episode's own.
        """
        if self.oracle:
            return self.oracle.score(episode, instruction)
        if instruction != episode.instruction:
            raise RoboAlignError(f"{self.store.path}: expected an oracle to judge {instruction!r}, found none")
        return _FAILED.copy() if episode.success is False else HIGHEST.copy()

    def damaged(
        self, episode: Episode, applied: Sequence[Applied], pool: Pool
    ) -> tuple[Episode, npt.NDArray[np.float32]]:
        """A recorded episode after degradations, and its scores (6,).

        An oracle judges by the state what a rule can only guess: other words for the same video, and what a video that
        was cut, stopped or turned back comes to. Where things in the picture were moved, the state is not what is seen.
        """
        if not self.oracle:
            return degrade(episode, self.scores(episode, episode.instruction), applied, pool)
        words, rest = _parted(applied, "meaning")
        told = degrade(episode, _NOTHING, words, pool)[0]
        seen, scores = degrade(told, self.scores(told, told.instruction), rest, pool)
        time, others = _parted(rest, "temporal")
        if time and all(DEGRADATIONS[change.name].family == "appearance" for change in others):
            outcome = self.oracle.score(seen, seen.instruction)
            for change in others:
                outcome = kept(outcome, DEGRADATIONS[change.name].losses(change.strength))
            scores[:OUTCOME] = outcome[:OUTCOME]
        return seen, scores

    def scores_imagined(self, episode: Episode) -> npt.NDArray[np.float32]:
        """(6,) of an imagined episode whose state was read from its frames.

        Raises:
            RoboAlignError: there is no oracle to judge it.
        """
        if not self.oracle:
            raise RoboAlignError(f"{self.store.path}: expected an oracle to judge imagined episodes, found none")
        seen = self.oracle.as_seen(episode.extras[STATE], episode.frames)
        return self.oracle.score_states(seen, episode.actions, episode.instruction, READ)


def open_sources(folder: Path) -> list[Source]:
    """Open a store, or the stores one folder below (one for each camera).

    Raises:
        RoboAlignError: the folder holds no store, or a store is empty.
    """
    sources: list[Source] = []
    for path in _store_paths(folder):
        store = EpisodeStore.open(path)
        if not len(store):
            raise RoboAlignError(f"{store.path}: expected episodes, found an empty store")
        sources.append(Source(f"{store.spec.source}-{store.spec.camera}", store, load_oracle(store.spec.source)))
    return sources


def split_of(parent: str, seed: int, shares: dict[str, float]) -> Split:
    """The split of an episode: decided by its identity alone, so that it stays there when episodes are added."""
    digest = hashlib.sha256(f"{seed}:{parent}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares.values())
    for name, share in shares.items():
        draw -= share
        if draw < 0:
            return Split(name)
    return Split(list(shares)[-1])


def train_rows(source: Source, seed: int, shares: Mapping[str, float]) -> list[int]:
    """The episodes of a store that a benchmark with these splits and seed leaves for training."""
    of = dict(shares)
    return [row for row, parent in enumerate(source.parents) if split_of(parent, seed, of) is Split.TRAIN]


def _store_paths(folder: Path) -> list[Path]:
    if (folder / "meta" / "info.json").is_file():
        return [folder]
    found = sorted(path.parent.parent for path in folder.glob("*/meta/info.json"))
    if not found:
        raise RoboAlignError(f"{folder}: expected an episode store, or stores in its folders, found none")
    return found


def _parted(applied: Sequence[Applied], family: str) -> tuple[list[Applied], list[Applied]]:
    """Degradations of a family, and the others."""
    of_family = [change for change in applied if DEGRADATIONS[change.name].family == family]
    return of_family, [change for change in applied if change not in of_family]
