"""``roboalign convert``: foreign data to a store."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import MISSING
from rich.progress import track

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers import Recording, choose_reader
from roboalign_core.episodes.resize import frame_size, resize
from roboalign_core.episodes.spec import StoreSpec
from roboalign_core.episodes.store import EpisodeStore
from roboalign_core.episodes.video import VideoCodec
from roboalign_core.errors import RoboAlignError
from roboalign_core.verb import Verb

_GROUP_BYTES = 128 << 20  # pixels of the episodes that go into one group of files
_IDENTICAL_DB = 100.0  # reported where decoded frames equal the source


@dataclass
class ConvertConfig:
    """What to read and how to write it.

    Attributes:
        src: the folder with the foreign data.
        out: a new folder. It becomes one store if all episodes share camera, size and rate; otherwise it holds one
            store for each combination, named by the camera, and by rate and size where a camera has several.
        format: name of a reader, or "auto".
        fps: frames per second, where the source does not tell them or tells others than it was recorded at.
        options: a yaml file with what the format needs to know, if it needs anything.
        size: "native", or [height, width] to which frames are resized.
        camera: read this camera only.
        lossless: keep every pixel exactly.
        crf: quality of the lossy kind, 0 (best) to 51.
        skip_bad: leave damaged episodes out and list them; otherwise the first one stops the conversion.
    """

    src: str = MISSING
    out: str = MISSING
    format: str = "auto"
    fps: float | None = None
    options: str | None = None
    size: Any = "native"
    camera: str | None = None
    lossless: bool = False
    crf: int = VideoCodec.crf
    skip_bad: bool = False


def convert(config: ConvertConfig) -> Mapping[str, Any]:
    """Read ``src`` and write ``out``. Nothing is left at ``out`` unless all went well.

    Returns:
        episodes, frames, cameras, skipped, noted (numbers); frame_psnr_db, decoded against source frames, over a
        sample; under "detail" the stores with the meaning of their action columns, what was skipped and why, and what
        is to be known of episodes that were not.

    Raises:
        RoboAlignError: the source is not understood, an episode is damaged, or ``out`` is there already.
    """
    source, out, size = Path(config.src), Path(config.out), frame_size(config.size)
    if config.fps is not None and not 0 < config.fps <= 1000:
        raise RoboAlignError(f"fps: expected a rate above 0 and up to 1000, found {config.fps!r}")
    reader = choose_reader(source, config.format, Path(config.options) if config.options else None)
    recordings = [item for item in reader.recordings(source) if config.camera in (None, item.camera)]
    if not recordings:
        raise RoboAlignError(f"{source}: expected recordings of {config.camera or 'any camera'}, found none")
    untimed = next((item for item in recordings if not item.has_rate and config.fps is None), None)
    if untimed is not None:
        raise RoboAlignError(f"{untimed.name}: expected fps=…, frames per second, which {reader.name} does not tell")
    skipped: dict[str, str] = {}
    notes: dict[str, list[str]] = {}
    with _folder_made_whole(out) as folder:
        sinks = _Sinks(folder, config)
        for recording in track(recordings, description="converting", transient=True):
            try:
                sinks.add(_resized(_load(recording, config.fps), size), recording)
            except RoboAlignError as error:
                if not config.skip_bad:
                    raise
                skipped[recording.name] = str(error)
            else:
                if recording.notes:
                    notes[recording.name] = list(recording.notes)
        stores = sinks.finish()
    return {
        "episodes": sum(sink.episodes for sink in stores.values()),
        "frames": sum(sink.frames for sink in stores.values()),
        "cameras": len({sink.spec.camera for sink in stores.values()}),
        "skipped": len(skipped),
        "noted": len(notes),
        "frame_psnr_db": _psnr(np.concatenate([sink.errors for sink in stores.values()])),
        "detail": {
            "format": reader.name,
            "stores": {str(out / name): sink.summary() for name, sink in stores.items()},
            "skipped": skipped,
            "notes": notes,
        },
    }


@dataclass
class _Sink:
    """Collects the episodes of one store and appends them group by group."""

    store: EpisodeStore
    waiting: list[Episode] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    @property
    def spec(self) -> StoreSpec:
        return self.store.spec

    @property
    def episodes(self) -> int:
        return len(self.store)

    @property
    def frames(self) -> int:
        return self.store.frames

    def add(self, episode: Episode) -> None:
        self.spec.check(episode, "episode")
        self.waiting.append(episode)
        if sum(waiting.frames.nbytes for waiting in self.waiting) >= _GROUP_BYTES:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            self.store.append(self.waiting)
            self.errors.append(_squared_error(self.store[-1].frames, self.waiting[-1].frames))
            self.waiting = []

    def summary(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "camera": spec.camera,
            "episodes": self.episodes,
            "frames": self.frames,
            "size": [spec.height, spec.width],
            "fps": spec.fps,
            "frame_psnr_db": _psnr(np.array(self.errors)),
            "action": dict(zip(spec.action_names, spec.action_units, strict=True)),
        }


class _Sinks:
    """One sink for each combination of camera, size and rate."""

    def __init__(self, folder: Path, config: ConvertConfig) -> None:
        self._folder = folder
        self._config = config
        self._sinks: dict[tuple[str, float, int, int], _Sink] = {}

    def add(self, episode: Episode, recording: Recording) -> None:
        action = recording.action
        height, width = episode.frames.shape[1:3]
        key = (episode.camera, episode.fps, height, width)
        if key not in self._sinks:
            crf, lossless = self._config.crf, self._config.lossless
            spec = StoreSpec.like(episode, action.names, action.units, crf, lossless, recording.extras)
            self._sinks[key] = _Sink(EpisodeStore.create(self._folder / f"store-{len(self._sinks)}", spec))
        spec = self._sinks[key].spec
        if (spec.action_names, spec.action_units) != (action.names, action.units):
            raise RoboAlignError(
                f"convert: expected actions {', '.join(spec.action_names)} in all of the source, found "
                f"{', '.join(action.names)}: bring differing recordings into stores of their own"
            )
        self._sinks[key].add(episode)

    def finish(self) -> dict[str, _Sink]:
        """Write what waits and give the stores their names; returns the sinks by name, "." being the folder itself."""
        for sink in self._sinks.values():
            sink.flush()
        if not self._sinks:
            raise RoboAlignError("convert: expected at least one whole episode, found none")
        named = {_name(key, list(self._sinks)): sink for key, sink in self._sinks.items()}
        for name, sink in named.items():
            path = sink.store.path
            for entry in list(path.iterdir()) if name == "." else [path]:
                os.replace(entry, self._folder / (entry.name if name == "." else name))
            if name == ".":
                path.rmdir()
        return named


def _name(key: tuple[str, float, int, int], keys: list[tuple[str, float, int, int]]) -> str:
    camera, fps, height, width = key
    if len(keys) == 1:
        return "."
    same = [other for other in keys if other[0] == camera]
    rate = f"-{fps:g}fps" if len({other[1] for other in same}) > 1 else ""
    size = f"-{height}x{width}" if len({other[2:] for other in same}) > 1 else ""
    return f"{camera}{rate}{size}"


@contextmanager
def _folder_made_whole(out: Path) -> Iterator[Path]:
    """Yield a folder beside ``out`` that takes its place on success and vanishes on failure."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RoboAlignError(f"{out}: expected a new or empty folder, found something there")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent))
    try:
        os.chmod(folder, 0o755)
        yield folder
        os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _load(recording: Recording, fps: float | None) -> Episode:
    try:
        episode = recording.load()
        return episode if fps is None else replace(episode, fps=float(fps))
    except RoboAlignError as error:
        if recording.name in str(error):
            raise
        raise RoboAlignError(f"{recording.name}: {error}") from error


def _resized(episode: Episode, size: tuple[int, int] | None) -> Episode:
    return episode if size is None else replace(episode, frames=resize(episode.frames, size))


def _squared_error(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    return float(np.mean((found.astype(np.float32) - expected.astype(np.float32)) ** 2))


def _psnr(squared_errors: NDArray[np.float64]) -> float:
    error = float(squared_errors.mean())
    return _IDENTICAL_DB if error == 0 else float(10 * np.log10(255.0**2 / error))


VERB = Verb("convert", "bring foreign data into a store", ConvertConfig, convert, positional="src")
