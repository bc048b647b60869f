"""``roboalign convert``: foreign data to a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from rich.progress import track

from roboalign_core.episodes.conversion import conversion, psnr
from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers import Recording, choose_reader
from roboalign_core.episodes.resize import frame_size, resize
from roboalign_core.episodes.spec import StoreSpec
from roboalign_core.episodes.video import VideoCodec
from roboalign_core.errors import RoboAlignError
from roboalign_core.verb import Verb


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
    """Read ``src`` and write ``out``, where nothing is unless all went well.

    A conversion that was killed leaves ``.NAME.converting`` beside ``out``; the same command goes on there.

    Returns:
        episodes, frames, cameras, skipped, noted (numbers); frame_psnr_db, decoded against source frames, over a
        sample; under "detail" the stores with the meaning of their action columns, what was skipped and why, and what
        is to be known of episodes that were not.

    Raises:
        RoboAlignError: the source is not understood, an episode is damaged, ``out`` is there already, or a conversion
            that was stopped had other settings.
    """
    source, out, size = Path(config.src), _resolved(config.out), frame_size(config.size)
    if config.fps is not None and not 0 < config.fps <= 1000:
        raise RoboAlignError(f"fps: expected a rate above 0 and up to 1000, found {config.fps!r}")
    reader = choose_reader(source, config.format, Path(config.options) if config.options else None)
    recordings = [item for item in reader.recordings(source) if _may_be_of(item, config.camera)]
    if not recordings:
        raise RoboAlignError(f"{source}: expected recordings of {config.camera or 'any camera'}, found none")
    untimed = next((item for item in recordings if not item.has_rate and config.fps is None), None)
    if untimed is not None:
        raise RoboAlignError(f"{untimed.name}: expected fps=…, frames per second, which {reader.name} does not tell")
    with conversion(out, _settings(config, size), [recording.name for recording in recordings]) as work:
        for recording in track(recordings[work.done :], description="converting", transient=True):
            try:
                episode = _resized(_load(recording, config.fps), size)
                work.add(episode, _spec(episode, recording, config))
            except RoboAlignError as error:
                if not config.skip_bad:
                    raise
                work.skipped[recording.name] = str(error)
            else:
                if recording.notes:
                    work.notes[recording.name] = list(recording.notes)
            work.advance()
        stores = work.finish(out)
    return {
        "episodes": sum(store.summary["episodes"] for store in stores),
        "frames": sum(store.summary["frames"] for store in stores),
        "cameras": len({store.spec.camera for store in stores}),
        "skipped": len(work.skipped),
        "noted": len(work.notes),
        "frame_psnr_db": psnr([error for store in stores for error in store.errors]),
        "detail": {
            "format": reader.name,
            "stores": {str(store.path): store.summary for store in stores},
            "skipped": work.skipped,
            "notes": work.notes,
        },
    }


def _resolved(path: str) -> Path:
    try:
        return Path(path).resolve()
    except RuntimeError as error:  # of Python before 3.13
        raise RoboAlignError(f"{path}: expected a folder, found a loop of symbolic links") from error


def _settings(config: ConvertConfig, size: tuple[int, int] | None) -> dict[str, Any]:
    """What a conversion that was stopped must agree on with the one that goes on with it."""
    settings = {name: getattr(config, name) for name in ConvertConfig.__dataclass_fields__ if name != "out"}
    return {**settings, "src": str(Path(config.src).resolve()), "size": "native" if size is None else list(size)}


def _spec(episode: Episode, recording: Recording, config: ConvertConfig) -> StoreSpec:
    action = recording.action
    return StoreSpec.like(episode, action.names, action.units, config.crf, config.lossless, recording.extras)


def _may_be_of(recording: Recording, camera: str | None) -> bool:
    return camera is None or recording.camera in (None, camera)


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


VERB = Verb("convert", "bring foreign data into a store", ConvertConfig, convert, positional="src")
