"""A store decoded once into flat arrays, so that training draws clips at memory speed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from roboalign_core.episodes import tables, video
from roboalign_core.episodes.locking import exclusive
from roboalign_core.episodes.resize import resize
from roboalign_core.episodes.spec import StoreSpec
from roboalign_core.episodes.store import EpisodeStore
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json

_BATCH = 256  # frames that are decoded and resized together


@dataclass(frozen=True)
class FrameCache:
    """All frames and recorded numbers of a store, one after the other.

    Attributes:
        frames: (N, H, W, 3) uint8, mapped from disk, read-only.
        actions: (N, A) float32.
        extras: (N, K) float32 each.
        starts: (E,) int64, the first frame of each episode.
        lengths: (E,) int64, the frames of each episode.
        instructions: E texts.
        success: (E,) float32; 1 solved, 0 not solved, NaN unknown.
        spec: of the store; the frames may have been resized, see ``size``.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    extras: dict[str, NDArray[np.float32]]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    instructions: list[str]
    success: NDArray[np.float32]
    spec: StoreSpec

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the frames."""
        return self.frames.shape[1], self.frames.shape[2]

    def __len__(self) -> int:
        """E, the number of episodes."""
        return len(self.starts)

    def episode_frames(self, index: int) -> NDArray[np.uint8]:
        """(T, H, W, 3) uint8, the frames of an episode, without a copy."""
        return self.frames[self._rows(index)]

    def episode_actions(self, index: int) -> NDArray[np.float32]:
        """(T, A) float32, the actions of an episode, without a copy."""
        return self.actions[self._rows(index)]

    def episode_extra(self, name: str, index: int) -> NDArray[np.float32]:
        """(T, K) float32, one of the extras of an episode, without a copy."""
        if name not in self.extras:
            raise RoboAlignError(f"extras: expected one of {sorted(self.extras)}, found {name!r}")
        return self.extras[name][self._rows(index)]

    @classmethod
    def open_or_build(
        cls, store: EpisodeStore, size: tuple[int, int] | None = None, progress: bool = True
    ) -> FrameCache:
        """The cache of a store, built below ``<store>/cache/`` if it is not there or the store has changed since.

        Args:
            store: the episodes.
            size: (H, W) to which frames are resized (bilinear with antialiasing); None keeps them.
            progress: show a progress bar while building.

        Raises:
            RoboAlignError: the store is empty, or one of its files is damaged.
        """
        if not len(store):
            raise RoboAlignError(f"{store.path}: expected episodes to cache, found an empty store")
        height, width = size or (store.spec.height, store.spec.width)
        folder = store.path / "cache" / f"{height}x{width}"
        key = _key(store, height, width)
        if not _is_whole(folder, key):
            with exclusive(folder.parent / ".build.lock"):
                if not _is_whole(folder, key):  # another process may have built it while we waited
                    _build(store, folder, (height, width), key, progress)
        with np.load(folder / "rows.npz", allow_pickle=False) as archive:
            rows = {name: archive[name] for name in store.spec.columns}
        lengths = store.lengths
        return cls(
            frames=np.load(folder / "frames.npy", mmap_mode="r", allow_pickle=False),
            actions=rows.pop("action"),
            extras=rows,
            starts=np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64),
            lengths=lengths,
            instructions=store.instructions,
            success=store.success,
            spec=store.spec,
        )

    def _rows(self, index: int) -> slice:
        start = int(self.starts[index])
        return slice(start, start + int(self.lengths[index]))


def _key(store: EpisodeStore, height: int, width: int) -> str:
    content = {"groups": [asdict(group) for group in store.info.groups], "size": [height, width]}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_whole(folder: Path, key: str) -> bool:
    try:
        return bool(read_json(folder / "index.json") == {"key": key, "bytes": _sizes(folder)})
    except (RoboAlignError, OSError):
        return False  # absent or damaged: a cache is built again, not repaired


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in ("frames.npy", "rows.npz")}


def _build(store: EpisodeStore, folder: Path, size: tuple[int, int], key: str, progress: bool) -> None:
    """Build beside and rename, so that a crash leaves no half cache; only one process is here at a time."""
    temporary = folder.parent / f".{folder.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left
    temporary.mkdir()
    try:
        _write_frames(store, temporary / "frames.npy", size, progress)
        np.savez(temporary / "rows.npz", **_all_rows(store))
        write_json(temporary / "index.json", {"key": key, "bytes": _sizes(temporary)})
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_frames(store: EpisodeStore, path: Path, size: tuple[int, int], progress: bool) -> None:
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(store.frames, *size, 3))
    position = 0
    groups = range(len(store.info.groups))
    for group in track(groups, description="decoding episodes", disable=not progress, transient=True):
        store.check_sizes(group)
        for batch in _batches(store, group):
            out[position : position + len(batch)] = resize(batch, size)
            position += len(batch)
    out.flush()


def _batches(store: EpisodeStore, group: int) -> Iterator[NDArray[np.uint8]]:
    path, count = store.file("video", group), store.info.groups[group].frames
    shape = (store.spec.height, store.spec.width, 3)
    batch: list[NDArray[np.uint8]] = []
    for frame in video.decode(path, count=count):
        if frame.shape != shape:
            raise RoboAlignError(f"{path}: expected frames of shape {shape}, found {frame.shape}")
        batch.append(frame)
        if len(batch) == _BATCH:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def _all_rows(store: EpisodeStore) -> dict[str, NDArray[Any]]:
    parts = [_group_rows(store, group) for group in range(len(store.info.groups))]
    return {key: np.concatenate([part[key] for part in parts]) for key in store.spec.columns}


def _group_rows(store: EpisodeStore, group: int) -> dict[str, NDArray[Any]]:
    path, frames = store.file("data", group), store.info.groups[group].frames
    rows = tables.read_data(path, store.spec)
    if len(rows["index"]) != frames:
        raise RoboAlignError(f"{path}: expected {frames} rows, one per frame, found {len(rows['index'])}")
    for key in store.spec.columns:
        if not np.isfinite(rows[key]).all():
            raise RoboAlignError(f"{path}: column {key}: expected finite numbers, found others")
    return rows
