"""Episodes on disk, in the LeRobotDataset v3.0 layout, so that the ecosystem reads them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes import stats as statistics
from roboalign_core.episodes import tables, video
from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.layout import (
    INFO_PATH,
    KINDS,
    STATS_PATH,
    TASKS_PATH,
    FileRecord,
    Group,
    StoreInfo,
    group_path,
    load_info,
)
from roboalign_core.episodes.locking import exclusive
from roboalign_core.episodes.spec import StoreSpec
from roboalign_core.episodes.stats import Stats
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import atomic_path, remove_leftovers, write_json

_FOLDERS = ("data", "meta", "videos")  # what an append writes to; the cache beside them has writers of its own


@dataclass(frozen=True, slots=True)
class EpisodeSummary:
    """What is known of an episode without decoding it."""

    length: int
    instruction: str
    success: bool | None


@dataclass(frozen=True, slots=True)
class EpisodeLocation:
    """Where an episode lies: file group, place in it, first frame in the group and in the whole store."""

    group: int
    row_group: int
    first_in_group: int
    first: int


class EpisodeStore:
    """A folder of episodes of one camera and one geometry.

    Every `append` writes one group of files (data, video, episodes) and then ``meta/info.json``, which lists the groups
    that belong to the store. A crash loses at most the group being written; the next append removes its remains.

    ``len(store)`` is the number of episodes; ``store[i]`` decodes one; iteration decodes them one after the other.
    """

    def __init__(self, path: Path, info: StoreInfo) -> None:
        """Use `create` or `open`."""
        self.path = path
        self._stats: dict[str, Stats] | None = None
        self._summaries: list[EpisodeSummary] = []
        self._locations: list[EpisodeLocation] = []
        self._info = StoreInfo(info.spec)
        self._extend(info)

    @classmethod
    def create(cls, path: str | os.PathLike[str], spec: StoreSpec) -> EpisodeStore:
        """Make an empty store.

        Raises:
            RoboAlignError: something else than an empty folder is there already.
        """
        root = Path(path)
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise RoboAlignError(f"{root}: expected a new or empty folder for a store, found something there")
        info = StoreInfo(spec)
        write_json(root / INFO_PATH, info.to_json())
        return cls(root, info)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> EpisodeStore:
        """Open a store.

        Raises:
            RoboAlignError: there is none, or its metadata are damaged, of another version, or contradict each other.
        """
        root = Path(path)
        return cls(root, load_info(root))

    @property
    def spec(self) -> StoreSpec:
        """Geometry and names, the same for all episodes."""
        return self._info.spec

    @property
    def info(self) -> StoreInfo:
        """What ``meta/info.json`` says, with the record of every file."""
        return self._info

    @property
    def frames(self) -> int:
        """Number of frames in all episodes."""
        return self._info.frames

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) int64, frames of each episode."""
        return np.array([summary.length for summary in self._summaries], dtype=np.int64)

    @property
    def instructions(self) -> list[str]:
        """The instruction of each episode."""
        return [summary.instruction for summary in self._summaries]

    @property
    def success(self) -> NDArray[np.float32]:
        """(N,) float32: 1 solved, 0 not solved, NaN unknown."""
        known = [np.nan if summary.success is None else float(summary.success) for summary in self._summaries]
        return np.array(known, dtype=np.float32)

    def summary(self, index: int) -> EpisodeSummary:
        """Length, instruction and success of an episode, without decoding it."""
        return self._summaries[self._at(index)]

    def location(self, index: int) -> EpisodeLocation:
        """Where an episode lies."""
        return self._locations[self._at(index)]

    def file(self, kind: str, group: int) -> Path:
        """The path of a group's file; kinds are ``"data"``, ``"video"`` and ``"episodes"``."""
        return group_path(self.path, kind, group, self.spec)

    def __len__(self) -> int:
        return len(self._summaries)

    def __iter__(self) -> Iterator[Episode]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Episode:
        """Read one episode; of the video, only its own time range is decoded.

        Raises:
            IndexError: there is no such episode.
            RoboAlignError: a file is absent, damaged, or does not hold what the metadata say.
        """
        index = self._at(index)
        where, summary = self._locations[index], self._summaries[index]
        self.check_sizes(where.group)
        rows = self._rows(where, summary.length)
        frames = np.empty((summary.length, self.spec.height, self.spec.width, 3), np.uint8)
        video.decode_into(frames, self.file("video", where.group), where.first_in_group, self.spec.fps)
        return Episode(
            frames=frames,
            actions=rows.pop("action"),
            instruction=summary.instruction,
            success=summary.success,
            fps=self.spec.fps,
            source=self.spec.source,
            camera=self.spec.camera,
            extras=rows,
        )

    def clip(self, index: int, first: int, length: int) -> NDArray[np.uint8]:
        """Frames ``first`` to ``first + length - 1`` of an episode, (length, H, W, 3) uint8; nothing else is decoded.

        Raises:
            IndexError: there is no such episode.
            RoboAlignError: the episode has no such frames, or a file is absent or damaged.
        """
        index = self._at(index)
        where, summary = self._locations[index], self._summaries[index]
        if length < 1 or not 0 <= first <= summary.length - length:
            raise RoboAlignError(
                f"{self.path}: episode {index}: expected frames 0 to {summary.length - 1}, "
                f"found {length} from {first} on"
            )
        self.check_sizes(where.group)
        frames = np.empty((length, self.spec.height, self.spec.width, 3), np.uint8)
        video.decode_into(frames, self.file("video", where.group), where.first_in_group + first, self.spec.fps)
        return frames

    def append(self, episodes: Sequence[Episode]) -> None:
        """Write episodes as one new group of files.

        Collect a few hundred frames or more before an append: every group costs three files.

        Raises:
            RoboAlignError: an episode does not fit the store's spec; nothing is written then.
        """
        if not episodes:
            return
        for number, episode in enumerate(episodes):
            self.spec.check(episode, f"{self.path}: episode {number} of the append")
        with exclusive(self.path / "meta" / ".append.lock"):
            self._catch_up()
            self._remove_leftovers()
            self._write_group(episodes)

    def check_sizes(self, group: int) -> None:
        """Compare the sizes of a group's files with the record; costs three looks at the file system.

        Raises:
            RoboAlignError: a file is absent or has another size.
        """
        for kind, record in self._info.groups[group].files.items():
            path = self.file(kind, group)
            if not path.is_file():
                raise RoboAlignError(f"{path}: expected a file of {record.bytes} bytes, found nothing there")
            size = path.stat().st_size
            if size != record.bytes:
                raise RoboAlignError(f"{path}: expected {record.bytes} bytes, found {size}")

    def verify(self, deep: bool = False) -> None:
        """Check all files against the metadata: their sizes, rows and numbers of frames.

        Args:
            deep: also compare checksums and decode every episode.

        Raises:
            RoboAlignError: the first thing that is wrong, naming the file, what was expected and what was found.
        """
        from roboalign_core.episodes.verify import verify

        verify(self, deep)

    def _at(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path}: expected an episode index below {len(self)}, found {index}")
        return index % len(self)

    def _rows(self, where: EpisodeLocation, length: int) -> dict[str, NDArray[Any]]:
        path = self.file("data", where.group)
        rows = tables.read_data(path, self.spec, where.row_group)
        index = rows.pop("index")
        if len(index) != length or index[0] != where.first:
            raise RoboAlignError(
                f"{path}: row group {where.row_group}: expected {length} rows from index {where.first} on, "
                f"found {len(index)} from {index[0] if len(index) else 'nothing'} on"
            )
        return rows

    def _extend(self, info: StoreInfo) -> None:
        """Take over the groups of ``info`` that are new to us."""
        first = self._info.frames
        for group in range(len(self._info.groups), len(info.groups)):
            path = group_path(self.path, "episodes", group, info.spec)
            rows = tables.read_episodes(path)
            first = self._add_rows(path, group, info.groups[group], rows, first)
        self._info = info

    def _add_rows(self, path: Path, group: int, record: Group, rows: list[dict[str, Any]], first: int) -> int:
        found = (len(rows), sum(row["length"] for row in rows))
        if found != (record.episodes, record.frames):
            raise RoboAlignError(f"{path}: expected {record.episodes} episodes, {record.frames} frames, found {found}")
        start = first
        for row_group, row in enumerate(rows):
            if row["episode_index"] != len(self._summaries) or row["dataset_from_index"] != first:
                raise RoboAlignError(
                    f"{path}: row {row_group}: expected episode {len(self._summaries)} from frame {first} on, "
                    f"found episode {row['episode_index']} from frame {row['dataset_from_index']} on"
                )
            self._summaries.append(EpisodeSummary(row["length"], row["tasks"][0], row["success"]))
            self._locations.append(EpisodeLocation(group, row_group, first - start, first))
            first += row["length"]
        return first

    def _catch_up(self) -> None:
        """Another process may have appended since we last looked."""
        info = load_info(self.path)
        if info.spec != self.spec or info.groups[: len(self._info.groups)] != self._info.groups:
            raise RoboAlignError(f"{self.path}: expected the store that was opened, found another in its place")
        if len(info.groups) > len(self._info.groups):
            self._stats = None
            self._extend(info)

    def _remove_leftovers(self) -> None:
        """Of a process that was killed while it appended; whoever holds the lock is the only one that writes."""
        for kind in KINDS:
            self.file(kind, len(self._info.groups)).unlink(missing_ok=True)
        for folder in _FOLDERS:
            remove_leftovers(self.path / folder)

    def _write_group(self, episodes: Sequence[Episode]) -> None:
        spec, group = self.spec, len(self._info.groups)
        tasks = self._tasks()
        known = {task: number for number, task in enumerate(tasks)}
        columns, rows, stats = [], [], []
        first, in_group = self._info.frames, 0
        for offset, episode in enumerate(episodes):
            task = known.setdefault(episode.instruction, len(known))
            index = len(self) + offset
            columns.append(tables.frame_columns(episode, spec, index, first, task))
            stats.append(_stats(episode, spec, columns[-1]))
            rows.append(tables.episode_row(episode, spec, group, index, first, in_group, stats[-1]))
            first, in_group = first + len(episode), in_group + len(episode)
        with atomic_path(self.file("data", group)) as path:
            tables.write_data(path, spec, columns)
        with atomic_path(self.file("video", group)) as path:
            video.encode(path, chain.from_iterable(episode.frames for episode in episodes), spec.fps, spec.codec)
        with atomic_path(self.file("episodes", group)) as path:
            tables.write_episodes(path, rows)
        if len(known) > len(tasks) or not tasks:
            with atomic_path(self.path / TASKS_PATH) as path:
                tables.write_tasks(path, list(known))
        merged = statistics.merged_features([*self._stats_so_far(), *stats])
        write_json(self.path / STATS_PATH, _plain(merged))
        record = Group(len(episodes), in_group, {kind: FileRecord.of(self.file(kind, group)) for kind in KINDS})
        info = replace(self._info, groups=(*self._info.groups, record), tasks=len(known))
        write_json(self.path / INFO_PATH, info.to_json())
        self._add_rows(self.file("episodes", group), group, record, rows, self._info.frames)
        self._info, self._stats = info, merged

    def _tasks(self) -> list[str]:
        if not self._info.tasks:
            return []
        path = self.path / TASKS_PATH
        tasks = tables.read_tasks(path)
        if len(tasks) < self._info.tasks:
            raise RoboAlignError(f"{path}: expected {self._info.tasks} tasks, found {len(tasks)}")
        return tasks[: self._info.tasks]  # a crashed append may have left more

    def _stats_so_far(self) -> list[dict[str, Stats]]:
        if self._stats is not None:
            return [self._stats]
        groups = range(len(self._info.groups))
        return [stats for group in groups for stats in tables.read_episode_stats(self.file("episodes", group))]


def _stats(episode: Episode, spec: StoreSpec, columns: dict[str, NDArray[Any]]) -> dict[str, Stats]:
    rows = {key: statistics.of_rows(values.reshape(len(values), -1)) for key, values in columns.items()}
    return {spec.video_key: statistics.of_frames(episode.frames), **rows}


def append_once(path: Path, spec: StoreSpec, before: int, episodes: Sequence[Episode]) -> EpisodeStore:
    """Append to the store at ``path`` that had ``before`` episodes, unless a run that was stopped then has done so.

    The store is made where there is none yet; remains of one are removed.

    Raises:
        RoboAlignError: the store has yet another number of episodes.
    """
    if (path / INFO_PATH).is_file():
        store = EpisodeStore.open(path)
    else:
        shutil.rmtree(path, ignore_errors=True)
        store = EpisodeStore.create(path, spec)
    if len(store) == before:
        store.append(episodes)
    elif len(store) != before + len(episodes):
        raise RoboAlignError(f"{path}: expected {before} episodes to go on from, found {len(store)}")
    return store


def _plain(stats: dict[str, Stats]) -> dict[str, dict[str, Any]]:
    return {feature: {key: value.tolist() for key, value in values.items()} for feature, values in stats.items()}
