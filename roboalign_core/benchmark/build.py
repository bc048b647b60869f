"""``roboalign benchmark build``: pairs of video and instruction, with scores, out of recorded episodes.

Pairs are made in batches. A batch appends its videos to the stores and then writes its pairs to a file of its own; the
same command goes on after the last whole batch, and ends with the same files as a run that was never stopped.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import track

from roboalign_core.benchmark.benchmark import INFO, STORES, Benchmark, finish
from roboalign_core.benchmark.degradations import MEANING
from roboalign_core.benchmark.drafts import Draft, Drafter, SourcePool
from roboalign_core.benchmark.generate import Generator
from roboalign_core.benchmark.pairs import Applied, Origin, Pair, read_pairs, write_pairs
from roboalign_core.benchmark.recipe import BuildConfig, check
from roboalign_core.benchmark.sources import Source, open_sources, split_of
from roboalign_core.episodes import Episode, StoreSpec
from roboalign_core.episodes.locking import exclusive
from roboalign_core.episodes.resize import frame_size, resize
from roboalign_core.episodes.store import append_once
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.files import read_json, remove_leftovers, write_json
from roboalign_core.verb import Verb

_BATCH = 512  # pairs; every batch adds one group of files to each store that it has videos for
_SETTINGS = "build.json"  # in an unfinished benchmark: what it is made with; goes last
_PARTS = "parts"
_LOCK = ".build.lock"

Row = npt.NDArray[np.float32]


def build(config: BuildConfig) -> Mapping[str, Any]:
    """Build ``config.out``; goes on where an earlier run with the same settings was stopped.

    Returns:
        pairs, videos, frames, bytes, seconds (of this run); counts by origin and split; under "detail" by source and
        degradation.

    Raises:
        RoboAlignError: a setting makes no sense, the stores do not allow it, or ``out`` holds something else.
    """
    check(config)
    out, began = Path(config.out), time.monotonic()
    if not (out / INFO).is_file() or (out / _SETTINGS).is_file():
        _complete(out, config)
    benchmark = Benchmark.open(out)
    _same_settings(out / INFO, benchmark.info.get("settings"), config)
    return {**_figures(benchmark), "seconds": time.monotonic() - began}


@dataclass
class _Batch:
    """Pairs that are being made, and the videos that are to be appended for them."""

    before: dict[str, int]  # videos in each store before the batch
    pairs: list[Pair] = field(default_factory=list)
    videos: dict[str, list[Episode]] = field(default_factory=dict)

    def place(self, store: str, episode: Episode) -> int:
        """Take a video in; returns its number in the store."""
        waiting = self.videos.setdefault(store, [])
        waiting.append(episode)
        return self.before.get(store, 0) + len(waiting) - 1


class _Builder:
    """Makes all batches that are not there yet."""

    def __init__(self, config: BuildConfig, out: Path) -> None:
        self._config, self._out = config, out
        groups = [open_sources(Path(folder)) for folder in config.stores]
        self._sources = _named([source for group in groups for source in group])
        self._generators = _generators(config.models)
        models = [_fitting(self._generators, source) for source in self._sources]
        if config.models and not any(models):
            raise RoboAlignError(
                f"models: expected actions and a state probe that fit one of the stores, found none in {config.models}"
            )
        shares = config.shares or [1.0] * len(groups)
        weights = [
            share * len(source.store) / sum(len(other.store) for other in group)
            for share, group in zip(shares, groups, strict=True)
            for source in group
        ]
        self._drafter = Drafter(config, self._sources, weights, models)
        self._size = frame_size(config.size)
        self._pairs: list[Pair] = []
        self._recorded: set[tuple[str, str]] = set()  # (store, parent) of the recorded pairs
        self._whole: dict[tuple[str, str], int] = {}  # (store, parent) → number of the undamaged video
        self._next: dict[str, int] = {}  # videos in each store

    def run(self) -> None:
        """All batches, then the table."""
        firsts = range(0, self._config.pairs, _BATCH)
        for first in track(firsts, description="building", transient=True):
            part = self._out / _PARTS / f"{first:08d}.parquet"
            if part.is_file():
                batch = [replace(pair, number=first + pair.number) for pair in read_pairs(part)]
            else:
                batch = self._make(range(first, min(first + _BATCH, self._config.pairs)))
                write_pairs(part, [replace(pair, number=pair.number - first) for pair in batch])
            self._take(batch)
        finish(self._out, self._pairs, self._config.settings())

    def _take(self, pairs: Sequence[Pair]) -> None:
        self._pairs += pairs
        for pair in pairs:
            self._next[pair.store] = max(self._next.get(pair.store, 0), pair.episode + 1)
            if pair.origin is Origin.RECORDED:
                self._recorded.add((pair.store, pair.parent))
            if pair.origin is not Origin.GENERATED and _words_alone(pair.degradations):
                self._whole[pair.store, pair.parent] = pair.episode

    def _make(self, numbers: range) -> list[Pair]:
        recorded, drafts = set(self._recorded), dict[int, Draft]()
        for number in numbers:
            draft = drafts[number] = self._drafter.draw(number, recorded)
            if draft.origin is Origin.RECORDED:
                source = self._sources[draft.source]
                recorded.add((source.name, source.parents[draft.index]))
        imagined = self._imagine(drafts)
        batch = _Batch(dict(self._next))
        for number, draft in drafts.items():
            batch.pairs.append(self._pair(number, draft, imagined.get(number), batch))
        for name, videos in batch.videos.items():
            append_once(self._out / STORES / name, self._spec(name, videos[0]), batch.before.get(name, 0), videos)
        return batch.pairs

    def _pair(self, number: int, draft: Draft, imagined: Episode | None, batch: _Batch) -> Pair:
        source = self._sources[draft.source]
        parent = source.parents[draft.index]
        episode, scores = self._scored(draft, imagined)
        return Pair(
            number=number,
            split=split_of(parent, self._config.seed, self._config.splits),
            instruction=episode.instruction,
            store=source.name,
            episode=self._place(source, parent, draft, episode, batch),
            source=source.store.spec.source,
            parent=parent,
            origin=draft.origin,
            degradations=draft.applied,
            scores=tuple(float(score) for score in scores),
            labeller=source.labeller,
            provenance=self._generators[draft.model].provenance if draft.model else "",
        )

    def _scored(self, draft: Draft, imagined: Episode | None) -> tuple[Episode, Row]:
        """The video with the instruction it is judged by, and its scores."""
        source = self._sources[draft.source]
        if imagined is not None:
            return imagined, source.scores_imagined(imagined)
        return source.damaged(draft.episode, draft.applied, SourcePool(self._drafter, draft.source, draft.index))

    def _place(self, source: Source, parent: str, draft: Draft, episode: Episode, batch: _Batch) -> int:
        """The number of the video in its store; a video that is there already is not stored again.

        One that was not damaged is stored as it was recorded, with the success under the instruction of the recording,
        also where the pair that needs it first has other words.
        """
        if episode.frames is draft.episode.frames:
            key = (source.name, parent)
            if key not in self._whole:
                self._whole[key] = batch.place(source.name, self._stored(draft.episode, draft.episode))
            return self._whole[key]
        return batch.place(source.name, self._stored(episode, draft.episode))

    def _stored(self, episode: Episode, recorded: Episode) -> Episode:
        """As it goes into the benchmark: at its size, without the state, which would give the scores away.

        It keeps the instruction of the recording; of a success under other words nothing is left.
        """
        frames = episode.frames if self._size is None else resize(episode.frames, self._size)
        success = episode.success if episode.instruction == recorded.instruction else None
        return replace(episode, frames=frames, instruction=recorded.instruction, success=success, extras={})

    def _spec(self, name: str, episode: Episode) -> StoreSpec:
        spec = next(source.store.spec for source in self._sources if source.name == name)
        return StoreSpec.like(episode, spec.action_names, spec.action_units, self._config.crf)

    def _imagine(self, drafts: Mapping[int, Draft]) -> dict[int, Episode]:
        """The imagined episodes by pair; those of one model and length are imagined together."""
        groups: dict[tuple[str, int], list[int]] = {}
        for number, draft in drafts.items():
            if draft.model:
                groups.setdefault((draft.model, len(draft.episode)), []).append(number)
        found: dict[int, Episode] = {}
        for (model, _), numbers in groups.items():
            episodes = self._generators[model].imagine([drafts[number].episode for number in numbers])
            found |= dict(zip(numbers, episodes, strict=True))
        return found


def _words_alone(applied: Sequence[Applied]) -> bool:
    """Whether the frames are as they were recorded."""
    return all(change.name in MEANING for change in applied)


def _named(sources: Sequence[Source]) -> list[Source]:
    """Sources with names of their own, also where two stores are of one robot and camera."""
    taken: Counter[str] = Counter()
    named: list[Source] = []
    for source in sources:
        taken[source.name] += 1
        number = taken[source.name]
        named.append(replace(source, name=f"{source.name}-{number}") if number > 1 else source)
    return named


def _generators(models: Sequence[str]) -> dict[str, Generator]:
    """The world models by name, and a probe for their scores: that of the first, the same for all."""
    probe = StateProbe.from_pretrained(models[0]) if models else None
    return {name: Generator(name, probe) for name in models if probe}


def _fitting(generators: Mapping[str, Generator], source: Source) -> list[str]:
    """The world models that can imagine a source's episodes, where somebody can score them."""
    return [name for name, one in generators.items() if source.oracle and one.fits(source.store.spec)]


def _complete(out: Path, config: BuildConfig) -> None:
    """Build what is not there yet, one process at a time.

    The lock goes only beside a finished benchmark: who waits for it, or makes it anew, then finds nothing to do.
    """
    _check_begun(out, config)
    with exclusive(out / _LOCK):
        if not (out / INFO).is_file():  # whoever held the lock may have finished
            _check_begun(out, config)
            remove_leftovers(out)
            write_json(out / _SETTINGS, config.settings())
            _Builder(config, out).run()
        if (out / _PARTS).is_dir():
            shutil.rmtree(out / _PARTS)
        for name in (_LOCK, _SETTINGS):
            (out / name).unlink(missing_ok=True)


def _check_begun(out: Path, config: BuildConfig) -> None:
    """Nothing is at ``out`` but a benchmark, and an unfinished one was begun with the same settings."""
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if (out.exists() and not out.is_dir()) or (names and not names & {INFO, _SETTINGS, _LOCK}):
        raise RoboAlignError(f"{out}: expected a new folder or an unfinished benchmark, found something else there")
    if _SETTINGS in names:
        _same_settings(out / _SETTINGS, read_json(out / _SETTINGS), config)


def _same_settings(path: Path, found: Any, config: BuildConfig) -> None:
    expected = config.settings()
    if found != expected:
        keys = sorted(key for key in expected if not isinstance(found, dict) or found.get(key) != expected[key])
        raise RoboAlignError(f"{path}: expected the settings of this run, found others for {', '.join(keys)}")


def _figures(benchmark: Benchmark) -> dict[str, Any]:
    pairs = benchmark.pairs
    stores = [benchmark.store(name) for name in benchmark.info["stores"]]
    counts = {
        "by_source": Counter(pair.source for pair in pairs),
        "by_degradation": Counter(change.name for pair in pairs for change in pair.degradations),
    }
    return {
        "pairs": len(pairs),
        "videos": sum(len(store) for store in stores),
        "frames": sum(store.frames for store in stores),
        "bytes": sum(path.stat().st_size for path in benchmark.path.rglob("*") if path.is_file()),
        **{f"pairs_{key}": count for key, count in sorted(Counter(pair.origin.value for pair in pairs).items())},
        **{f"pairs_{key}": count for key, count in sorted(Counter(pair.split.value for pair in pairs).items())},
        "detail": {name: dict(sorted(found.items())) for name, found in counts.items()},
    }


VERB = Verb("benchmark build", "make pairs of video and instruction with six scores", BuildConfig, build)
