"""Language-Table as IRASim prepares it: ``ID.json`` with ``actions`` (T - 1, 2) and a video with T frames.

Actions are steps of the stick in the plane of the table, one for each pair of frames. The video is ``video_path`` of
the annotation, in one of the folders above it, or lies beside it under the same name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers.base import ActionColumn, ActionKind, ActionMeaning, Recording
from roboalign_core.episodes.readers.droid import ANNOTATION
from roboalign_core.episodes.readers.folders import files_below
from roboalign_core.episodes.video import probe, read_all
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json

CAMERA = "front"

_ACTION = ActionMeaning(tuple(ActionColumn(name, "m", ActionKind.DELTA) for name in ("dx", "dy")))


@dataclass(frozen=True)
class LanguageTableReader:
    """Reads folders of annotations and videos, also in folders below."""

    name: str = "language_table"

    def detect(self, path: Path) -> bool:
        """Whether there is an annotation with a video of its name."""
        videos = {file.stem for file in files_below(path, "*.mp4")}
        return any(file.stem in videos for file in _annotations(path))

    def recordings(self, path: Path) -> Iterator[Recording]:
        """One recording for each annotation."""
        for file in sorted(_annotations(path)):
            yield Recording(str(file), CAMERA, _ACTION, partial(self._read, path, file))

    def _read(self, root: Path, file: Path) -> Episode:
        content = read_json(file)
        if not isinstance(content, dict):
            raise RoboAlignError(f"{file}: expected an object, found {type(content).__name__}")
        actions = _actions(file, content)
        video = _video(root, file, content)
        return Episode(
            frames=read_all(video, len(actions), f"one more than actions in {file.name}"),
            actions=actions,
            instruction="",
            success=None,
            fps=probe(video).fps,
            source=self.name,
            camera=CAMERA,
        )


def _annotations(path: Path) -> Iterator[Path]:
    return (file for file in files_below(path, "*.json") if file.name != ANNOTATION)


def _actions(file: Path, content: dict[str, Any]) -> NDArray[np.float32]:
    """(T, 2): those of the annotation, and a last row that leads nowhere."""
    width = len(_ACTION.columns)
    try:
        actions = np.array(content["actions"], dtype=np.float32)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RoboAlignError(f"{file}: actions: expected (T, {width}) numbers, found: {error}") from error
    if actions.ndim != 2 or actions.shape[1] != width:
        raise RoboAlignError(f"{file}: actions: expected shape (T, {width}), found {actions.shape}")
    return np.concatenate([actions, np.zeros((1, width), np.float32)])


def _video(root: Path, file: Path, content: dict[str, Any]) -> Path:
    """Where the video is; never outside ``root``, except through a link that lies in it."""
    beside = file.with_suffix(".mp4")
    named = content.get("video_path")
    if beside.is_file() or not isinstance(named, str):
        return beside
    inside = Path(os.path.abspath(root))
    for folder in Path(os.path.abspath(file)).parents:
        if not folder.is_relative_to(inside):
            break
        video = Path(os.path.normpath(folder / named))
        if video.is_relative_to(inside) and os.path.isfile(video):  # false of a name that no file can have, too
            return video
    raise RoboAlignError(f"{file}: video_path: expected a video below {root}, found nothing at {named!r}")
