"""Stores in the making: what has been read is on disk, and a process that is killed loses none of it.

The stores grow in a folder beside the place they are meant for. A journal in it says how far recordings are read and
how many episodes each store has then. Whoever goes on reads anew what came after, and appends it unless it is there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.locking import exclusive
from roboalign_core.episodes.spec import StoreSpec
from roboalign_core.episodes.store import EpisodeStore, append_once
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json

_GROUP_BYTES = 128 << 20  # pixels of the episodes that wait until they are appended together
_JOURNAL, _STORES = "journal.json", "stores"
_IDENTICAL_DB = 100.0  # reported where decoded frames equal the source


@dataclass
class Growing:
    """A store that grows.

    Attributes:
        path: of the store.
        spec: of the store.
        episodes: on disk.
        errors: mean squared errors of decoded against source frames, one of each group.
        waiting: episodes that are not on disk yet.
    """

    path: Path
    spec: StoreSpec
    episodes: int = 0
    errors: list[float] = field(default_factory=list)
    waiting: list[Episode] = field(default_factory=list)

    def flush(self) -> None:
        """Bring to disk what waits."""
        if not self.waiting:
            return
        store = append_once(self.path, self.spec, self.episodes, self.waiting)
        found, expected = store[-1].frames.astype(np.float32), self.waiting[-1].frames.astype(np.float32)
        self.errors.append(float(np.mean((found - expected) ** 2)))
        self.episodes, self.waiting = len(store), []

    @property
    def summary(self) -> dict[str, Any]:
        """For the results of a conversion."""
        spec = self.spec
        return {
            "camera": spec.camera,
            "episodes": self.episodes,
            "frames": EpisodeStore.open(self.path).frames,
            "size": [spec.height, spec.width],
            "fps": spec.fps,
            "frame_psnr_db": psnr(self.errors),
            "action": dict(zip(spec.action_names, spec.action_units, strict=True)),
        }


class Conversion:
    """Recordings becoming stores, one for each combination of camera, size and rate. Use `conversion`.

    Attributes:
        done: how many of the recordings have been dealt with.
        skipped: why a recording was left out, by its name.
        notes: what is to be known of a recording, by its name.
    """

    def __init__(self, folder: Path, journal: Mapping[str, Any]) -> None:
        self._folder, self._identity = folder, journal["identity"]
        self.done: int = journal["done"]
        self.skipped: dict[str, str] = journal["skipped"]
        self.notes: dict[str, list[str]] = journal["notes"]
        self._stores: dict[_Key, Growing] = {}
        keys = [_Key(*key) for key, *_ in journal["stores"]]
        for key, (_, episodes, errors) in zip(keys, journal["stores"], strict=True):
            path = self._unnamed()
            if not path.is_dir():  # it was stopped while giving names
                path = path.with_name(key.name(keys))
            self._stores[key] = Growing(path, EpisodeStore.open(path).spec, episodes, errors)

    def add(self, episode: Episode, spec: StoreSpec) -> None:
        """Take an episode into the store of ``spec``.

        Raises:
            RoboAlignError: it does not fit what that store holds.
        """
        key = _Key(spec.camera, spec.fps, spec.height, spec.width)
        store = self._stores.get(key) or Growing(self._unnamed(), spec)
        known = store.spec
        if (known.action_names, known.action_units) != (spec.action_names, spec.action_units):
            raise RoboAlignError(
                f"convert: expected actions {', '.join(known.action_names)} in all of the source, found "
                f"{', '.join(spec.action_names)}: bring differing recordings into stores of their own"
            )
        known.check(episode, "episode")
        store.waiting.append(episode)
        self._stores[key] = store

    def advance(self) -> None:
        """The next recording has been dealt with."""
        self.done += 1
        if sum(each.frames.nbytes for store in self._stores.values() for each in store.waiting) >= _GROUP_BYTES:
            self._flush()

    def finish(self, out: Path) -> list[Growing]:
        """Write what waits and put the stores in their place: at ``out``, or below it where there are several."""
        self._flush()
        if not self._stores:
            raise RoboAlignError("convert: expected at least one whole episode, found none")
        keys, stores = list(self._stores), list(self._stores.values())
        if len(stores) == 1:
            os.replace(stores[0].path, out)
            stores[0].path = out
            return stores
        for key, store in self._stores.items():
            os.replace(store.path, store.path.with_name(key.name(keys)))
            store.path = out / key.name(keys)
        os.replace(self._folder / _STORES, out)
        return stores

    def _unnamed(self) -> Path:
        """Where the next store is put until all are known, and with them their names."""
        return self._folder / _STORES / f"store-{len(self._stores)}"

    def _flush(self) -> None:
        for store in self._stores.values():
            store.flush()
        stores = [(key, store.episodes, store.errors) for key, store in self._stores.items()]
        progress = {"done": self.done, "skipped": self.skipped, "notes": self.notes, "stores": stores}
        write_json(self._folder / _JOURNAL, {"identity": self._identity, **progress})


class _Key(NamedTuple):
    """What all episodes of a store have in common."""

    camera: str
    fps: float
    height: int
    width: int

    def name(self, keys: Sequence[_Key]) -> str:
        """Of the store, beside those of other keys."""
        same = [other for other in keys if other.camera == self.camera]
        rate = f"-{self.fps:g}fps" if len({other.fps for other in same}) > 1 else ""
        size = f"-{self.height}x{self.width}" if len({other[2:] for other in same}) > 1 else ""
        return f"{self.camera}{rate}{size}"


@contextmanager
def conversion(out: Path, settings: Mapping[str, Any], recordings: Sequence[str]) -> Iterator[Conversion]:
    """Begin, or go on with, the stores that become ``out``. Bad data remove them; a kill, Ctrl-C or a full disk do not.

    Args:
        out: a new or an empty folder, as a path without symbolic links.
        settings: JSON values that the stores depend on.
        recordings: the names of what is read, in order.

    Raises:
        RoboAlignError: something is at ``out``, or a stopped conversion to it had other settings or recordings.
    """
    folder = out.with_name(f".{out.name}.converting")
    _check_free(out, folder)
    with exclusive(folder / ".lock"):
        _check_free(out, folder)  # whoever held the lock may have finished
        work = _begun(folder, settings, recordings)
        try:
            yield work
        except RoboAlignError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder)


def _check_free(out: Path, folder: Path) -> None:
    if os.path.ismount(out):
        raise RoboAlignError(
            f"{out}: expected a folder that can be put in place whole, found a mount point; name one below"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not any((folder / _STORES).glob("*")):  # of a conversion stopped when its stores were in their place
            shutil.rmtree(folder, ignore_errors=True)
        raise RoboAlignError(f"{out}: expected a new or empty folder, found something there")


def _begun(folder: Path, settings: Mapping[str, Any], recordings: Sequence[str]) -> Conversion:
    """A conversion that was stopped, or a new one."""
    names = hashlib.sha256("\n".join(recordings).encode(errors="surrogatepass")).hexdigest()
    identity = {**settings, "recordings": names}
    path = folder / _JOURNAL
    if not path.is_file():
        shutil.rmtree(folder / _STORES, ignore_errors=True)
        (folder / _STORES).mkdir(parents=True)
        write_json(path, {"identity": identity, "done": 0, "skipped": {}, "notes": {}, "stores": []})
    try:
        journal: dict[str, Any] = read_json(path)
        others = sorted(name for name in identity if journal["identity"].get(name) != identity[name])
        if not others:
            if type(journal["done"]) is not int or not 0 <= journal["done"] <= len(recordings):
                raise ValueError(f"done: {journal['done']!r:.40} of {len(recordings)}")
            return Conversion(folder, journal)
    except (RoboAlignError, KeyError, TypeError, ValueError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise RoboAlignError(
            f"{path}: expected the journal of a stopped conversion, found {found:.300}; remove {folder}"
        ) from error
    raise RoboAlignError(
        f"{folder}: expected an unfinished conversion like this one, found one with other {', '.join(others)}: "
        "finish that one, or remove the folder"
    )


def psnr(squared_errors: Sequence[float]) -> float:
    """Of mean squared errors, all weighing alike, in dB; a large number where frames are identical."""
    error = float(np.mean(squared_errors))
    return _IDENTICAL_DB if error == 0 else float(10 * np.log10(255.0**2 / error))
