"""Recordings beside themselves after damage: what a video loses by it, whatever the scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from roboalign_core.benchmark.degradations import DEGRADATIONS
from roboalign_core.benchmark.pairs import Applied
from roboalign_core.benchmark.sources import Source, open_sources, train_rows
from roboalign_core.episodes import Episode
from roboalign_core.episodes.boxes import BOXES
from roboalign_core.episodes.cache import FrameCache
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.held_out import STATE
from roboalign_core.reward.looks import looking
from roboalign_core.reward.recordings import check_judged, some_frames
from roboalign_core.rubric import HIGHEST

Array = NDArray[np.float32]
Frames = NDArray[np.uint8]

_PICTURES, _THINGS = ("temporal", "appearance"), ("objects", "contacts")  # families; the latter need boxes
_FOREIGN = "foreign_segment"  # takes a second episode
_STRENGTHS = (0.3, 1.0)  # lowest and highest that is drawn
_STRIDES = 3  # every frame, every second one or every third one is taken
_EPISODES = 10  # of a folder with more, each is drawn less often
_TRIES = 20
_OVERLAID = 0.5  # recordings that a still picture is laid over
_OTHER_WORDS = 0.5  # recordings under words that mean nothing
_BABBLE = 400  # different words that mean nothing
_SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]


@dataclass(frozen=True, slots=True, eq=False)
class Damaged:
    """A recording, or a part of one, and the same after damage.

    Attributes:
        clean: (T, H, W, 3) uint8.
        damaged: (S, H, W, 3) uint8, S ≤ T.
        instruction: that both are judged by.
        scores: (2, 6) float32, normalised, of the two under the recording's own instruction.
        judged: whether an oracle gave them. Where none did, what came of the task is not known of a part, or of a look
            that has other colours and sides than the words; only what the damage takes of it is.
    """

    clean: Frames
    damaged: Frames
    instruction: str
    scores: Array
    judged: bool


@dataclass(frozen=True)
class _Recorded:
    """A store's episodes that may be learned from, and the instruction of those that have none."""

    source: Source
    cache: FrameCache
    rows: NDArray[np.int64]
    told: str

    @property
    def kinds(self) -> list[str]:
        """The damages that its episodes may take."""
        things = self.source.oracle is not None and BOXES in self.cache.extras
        families = _PICTURES + _THINGS if things else _PICTURES
        found = [name for name, one in DEGRADATIONS.items() if one.family in families]
        return [name for name in found if name != _FOREIGN or len(self.rows) > 1]


class Damages:
    """Recordings of cameras or simulators, each drawn with a damage of its own.

    What a student says of a scene that it never saw may be anything; what it has to know there is which of two videos
    of the same scene is the damaged one, whatever the words. A recording that no oracle judges is shown in many looks,
    turned, recoloured, enlarged, shifted, by a camera that moves or adapts to the light, and with a still picture laid
    over it, and half the time under words that mean nothing, both videos alike. Damages are those of the frames and
    their order, and, where an oracle judges and the store records boxes, also those of objects and contacts. Episodes
    that the benchmark has for validation or test are left out.

    Attributes:
        identity: what a resumed run must find again: source, episodes and frames of each store.
    """

    def __init__(
        self,
        folders: Sequence[str],
        size: tuple[int, int],
        instructions: Mapping[str, str],
        splits: Mapping[str, float],
        seed: int,
        words: int,
    ) -> None:
        """Open stores; every episode is drawn equally often, those of a folder with many episodes less often.

        Args:
            folders: of episode stores, or of folders of stores, one for each camera.
            size: (H, W) of the frames.
            instructions: by source, for recordings that have none.
            splits: shares of the benchmark that is learned from beside these, see :func:`split_of`.
            seed: of that benchmark.
            words: of the longest instruction that may be made up.

        Raises:
            RoboAlignError: a store is absent or damaged, lacks what its oracle reads, or a folder has no episode with
                an instruction that may be learned from.
        """
        groups = [open_sources(Path(folder)) for folder in folders]
        self._groups = [
            [one for source in group if len((one := _recorded(source, size, instructions, splits, seed)).rows)]
            for group in groups
        ]
        for folder, group in zip(folders, self._groups, strict=True):
            if not group:
                raise RoboAlignError(f"{folder}: expected episodes of the split train with an instruction, found none")
        counts = [min(_EPISODES, sum(len(one.rows) for one in group)) for group in self._groups]
        self._weights = np.array(counts) / sum(counts)
        made_up = np.random.default_rng(0)
        self._babble = [_babble(made_up, words) for _ in range(_BABBLE)]
        stores = [source.store for group in groups for source in group]
        self.identity = [[store.spec.source, len(store), store.frames] for store in stores]

    @property
    def instructions(self) -> list[str]:
        """All that videos are judged by."""
        found = {one.cache.instructions[row] or one.told for group in self._groups for one in group for row in one.rows}
        judged = all(one.source.oracle for group in self._groups for one in group)
        return sorted(found if judged else found.union(self._babble))

    def draw(self, random: np.random.Generator, shortest: int) -> Damaged:
        """A recording or a part of at least ``shortest`` frames (all frames of one that has fewer), and its damage.

        Raises:
            RoboAlignError: many draws found nothing that damage changes, as where nothing is to be seen.
        """
        for _ in range(_TRIES):
            one, row = self._episode(random)
            still = self._still(random) if random.random() < _OVERLAID else None
            pool = _Pool(one, row, int(random.integers(2**31)), still)
            kind, strength = str(random.choice(one.kinds)), float(random.uniform(*_STRENGTHS))
            change = Applied(kind, strength, int(random.integers(2**31)))
            part = some_frames(int(one.cache.lengths[row]), shortest, random)
            clean = pool.episode(row, part if one.source.oracle else _quickened(part, shortest, random))
            if DEGRADATIONS[change.name].reason_not(clean) is not None:
                continue
            damaged, after = one.source.damaged(clean, [change], pool)
            if not np.array_equal(damaged.frames, clean.frames):  # as where what was frozen stood still before
                scores = np.stack([one.source.scores(clean, clean.instruction), after]) / HIGHEST
                judged = one.source.oracle is not None
                babble = not judged and random.random() < _OTHER_WORDS
                words = str(random.choice(self._babble)) if babble else clean.instruction
                return Damaged(clean.frames, damaged.frames, words, scores, judged)
        raise RoboAlignError(f"stage.damaged: expected recordings that damage changes, found none in {_TRIES} draws")

    def _episode(self, random: np.random.Generator) -> tuple[_Recorded, int]:
        group = self._groups[int(random.choice(len(self._groups), p=self._weights))]
        ends = np.cumsum([len(one.rows) for one in group])
        number = int(random.integers(ends[-1]))
        place = int(np.searchsorted(ends, number, side="right"))
        return group[place], int(group[place].rows[number - ends[place]])  # counted from the end of its store

    def _still(self, random: np.random.Generator) -> Frames:
        one, row = self._episode(random)
        frames = one.cache.episode_frames(row)
        return frames[int(random.integers(len(frames)))]


class _Pool:
    """Episodes of one store in one look (see ``degradations.Pool``)."""

    def __init__(self, recorded: _Recorded, row: int, look: int, still: Frames | None) -> None:
        self._recorded, self._row, self._look, self._still = recorded, row, look, still

    def episode(self, row: int, index: slice) -> Episode:
        """Some frames of an episode."""
        cache, spec = self._recorded.cache, self._recorded.source.store.spec
        return Episode(
            frames=self._seen(cache.episode_frames(row)[index]),
            actions=cache.episode_actions(row)[index],
            instruction=cache.instructions[row] or self._recorded.told,
            success=_known(float(cache.success[row])),
            fps=spec.fps,
            source=spec.source,
            camera=spec.camera,
            extras={name: cache.episode_extra(name, row)[index] for name in (STATE, BOXES) if name in cache.extras},
        )

    def donor(self, episode: Episode, rng: np.random.Generator) -> Episode:
        """Another episode of the store."""
        others = self._recorded.rows[self._recorded.rows != self._row]
        row = int(rng.choice(others))
        return self.episode(row, slice(None))

    def _seen(self, frames: Frames) -> Frames:
        """As they are where words name colours and sides that an oracle knows."""
        return frames.copy() if self._recorded.source.oracle else looking(frames, self._look, self._still)

    def instruction(self, episode: Episode, rng: np.random.Generator) -> str:
        """No damage that is drawn asks for other words."""
        raise RoboAlignError(
            f"{self._recorded.source.store.path}: expected a damage of the frames, found one of the words"
        )


def _recorded(
    source: Source, size: tuple[int, int], instructions: Mapping[str, str], splits: Mapping[str, float], seed: int
) -> _Recorded:
    check_judged(source)
    told, texts = instructions.get(source.store.spec.source, ""), source.store.instructions
    rows = [row for row in train_rows(source, seed, splits) if _understood(source, texts[row] or told)]
    return _Recorded(source, FrameCache.open_or_build(source.store, size=size), np.array(rows, np.int64), told)


def _understood(source: Source, instruction: str) -> bool:
    return instruction in source.oracle.instructions if source.oracle else bool(instruction)


def _quickened(part: slice, shortest: int, random: np.random.Generator) -> slice:
    """A part of an episode, at its own pace or at a quicker one."""
    longest = min(_STRIDES, max(1, (part.stop - part.start) // shortest))
    return slice(part.start, part.stop, int(random.integers(1, 1 + longest)))


def _babble(random: np.random.Generator, longest: int) -> str:
    count = min(longest, int(random.integers(2, 9)))
    words = ["".join(random.choice(_SYLLABLES, int(random.integers(1, 4)))) for _ in range(count)]
    return " ".join(words)


def _known(success: float) -> bool | None:
    return None if np.isnan(success) else bool(success)
