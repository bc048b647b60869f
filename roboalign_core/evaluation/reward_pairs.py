"""What a student says about the pairs of a benchmark, and about the same videos told or shown otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from roboalign_core.benchmark import Origin, Pair
from roboalign_core.benchmark.pairs import scores_of
from roboalign_core.reward.data import PairVideos
from roboalign_core.reward.model import Predicted, RewardModel
from roboalign_core.rubric import HIGHEST, KEYS, Scores

Array = NDArray[np.float64]

FOLLOWING, SUCCESS = KEYS.index("instruction_following"), KEYS.index("manipulation_success")
SMOOTH = KEYS.index("temporal_consistency")


@dataclass(frozen=True)
class Scored:
    """Pairs with what the benchmark and the student say of them.

    Attributes:
        pairs: N pairs.
        labels: their scores.
        predicted: the student's.
        told: the instruction that the robot of each recording was given.
        success: (N,) whether the recorded episode succeeded, 1 or 0; NaN where that is unknown.
        seconds: that scoring took, without decoding.
    """

    pairs: list[Pair]
    labels: Scores
    predicted: Predicted
    told: list[str]
    success: Array
    seconds: float

    @property
    def groups(self) -> list[str]:
        """The recorded episode of each pair: what is made from one is not independent."""
        return [pair.parent for pair in self.pairs]

    @property
    def own(self) -> NDArray[np.bool_]:
        """(N,) recorded videos under the instruction that their robot was given."""
        return np.array(
            [
                pair.origin is Origin.RECORDED and pair.instruction == told
                for pair, told in zip(self.pairs, self.told, strict=True)
            ]
        )


@dataclass(frozen=True)
class Compared:
    """Pairs as they are beside the same videos changed; scores (N, 6) are shares of the highest.

    Attributes:
        rows: N rows of the pairs.
        before, after: what the student says.
        groups: the recorded episode of each.
    """

    rows: list[int]
    before: Array
    after: Array
    groups: list[str]


def score_pairs(model: RewardModel, videos: PairVideos, pairs: list[Pair], batch: int) -> Scored:
    """Score pairs as they stand in the benchmark."""
    for store in {pair.store for pair in pairs}:
        videos.cache(store)  # decoded before the clock starts
    began = time.perf_counter()
    predicted = _score(model, ((videos.frames(pair), pair.instruction) for pair in pairs), len(pairs), batch, "scoring")
    seconds = time.perf_counter() - began
    told = [videos.told(pair) for pair in pairs]
    success = np.array([videos.success(pair) for pair in pairs])
    return Scored(pairs, scores_of(pairs), predicted, told, success, seconds)


def swap_instructions(model: RewardModel, videos: PairVideos, data: Scored, batch: int, seed: int) -> Compared:
    """Videos that do exactly what their instruction says, under another instruction of the same source.

    Where the benchmark says of some instruction that a video does not follow it, the other one is among these.
    Elsewhere it is drawn from all instructions of the source, so that a few of them may be fulfilled as well.
    """
    random = np.random.default_rng(seed)
    known: dict[tuple[str, int], dict[str, float]] = {}
    all_of: dict[str, set[str]] = {}
    for pair in data.pairs:
        known.setdefault((pair.store, pair.episode), {})[pair.instruction] = pair.scores[FOLLOWING]
        all_of.setdefault(pair.source, set()).add(pair.instruction)
    rows, swapped = [], []
    for row, pair in enumerate(data.pairs):
        if pair.origin is not Origin.RECORDED or pair.scores[FOLLOWING] < HIGHEST[FOLLOWING]:
            continue
        judged = known[pair.store, pair.episode]
        wrong = sorted(text for text, score in judged.items() if score <= HIGHEST[FOLLOWING] / 2)
        choices = wrong or sorted(all_of[pair.source] - judged.keys())
        if choices:
            rows.append(row)
            swapped.append(str(random.choice(choices)))
    frames = (videos.frames(data.pairs[row]) for row in rows)
    return _compare(model, data, rows, zip(frames, swapped, strict=True), batch, "swapping instructions")


def shuffle_frames(model: RewardModel, videos: PairVideos, data: Scored, batch: int, seed: int) -> Compared:
    """Recorded videos with their frames in another order, under the instruction that the robot was given."""
    random = np.random.default_rng(seed)
    rows = [int(row) for row in np.flatnonzero(data.own) if len(videos.frames(data.pairs[row])) > 2]
    frames = (random.permutation(videos.frames(data.pairs[row])) for row in rows)
    texts = (data.pairs[row].instruction for row in rows)
    return _compare(model, data, rows, zip(frames, texts, strict=True), batch, "shuffling frames")


def beside_clean(data: Scored, wanted: Callable[[Pair], bool]) -> tuple[Compared, Array]:
    """Wanted videos beside the undamaged video of the same recording, camera and instruction, where there is one.

    Also returns how much lower the benchmark scores the damaged ones, (N, 6) as shares of the highest.
    """
    clean = {
        (pair.store, pair.parent, pair.instruction): row
        for row, pair in enumerate(data.pairs)
        if pair.origin is Origin.RECORDED and not pair.degradations
    }
    rows, partners = [], []
    for row, pair in enumerate(data.pairs):
        partner = clean.get((pair.store, pair.parent, pair.instruction))
        if partner is not None and wanted(pair):
            rows.append(row)
            partners.append(partner)
    found, labels = (scores.normalised.astype(np.float64) for scores in (data.predicted, data.labels))
    compared = Compared(rows, found[partners], found[rows], [data.pairs[row].parent for row in rows])
    return compared, labels[partners] - labels[rows]


def _compare(
    model: RewardModel,
    data: Scored,
    rows: list[int],
    changed: Iterable[tuple[NDArray[np.uint8], str]],
    batch: int,
    label: str,
) -> Compared:
    before = data.predicted.normalised.astype(np.float64)[rows]
    after = np.empty((0, len(KEYS)))
    if rows:
        after = _score(model, changed, len(rows), batch, label).normalised.astype(np.float64)
    return Compared(rows, before, after, [data.pairs[row].parent for row in rows])


def _score(
    model: RewardModel, videos: Iterable[tuple[NDArray[np.uint8], str]], count: int, batch: int, label: str
) -> Predicted:
    """Scores of videos that come one by one, so that few of them are in memory at a time."""
    found: list[Predicted] = []
    waiting: list[tuple[NDArray[np.uint8], str]] = []
    for number, each in enumerate(track(videos, label, total=count), start=1):
        waiting.append(each)
        if len(waiting) == batch or number == count:
            frames, texts = zip(*waiting, strict=True)
            found.append(model.score(list(frames), list(texts), batch))
            waiting = []
    return joined(found)


def joined(parts: Sequence[Predicted]) -> Predicted:
    """Several predictions as one."""
    return Predicted(np.concatenate([part.raw for part in parts]), np.concatenate([part.uncertainty for part in parts]))
