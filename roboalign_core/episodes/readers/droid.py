"""DROID as Ctrl-World prepares it: ``annotation.json`` beside ``0.mp4``, ``1.mp4`` (outside) and ``2.mp4`` (wrist).

``states`` (T, 7) are measured at the frames: position (m), extrinsic xyz Euler angles (rad), and how far the gripper is
closed (0 to 1). The raw streams of commands run at 15 Hz, are not there in all episodes, and the arm follows them late;
so the action is what happened between two frames: the change of position, the change of the angles (the short way
round), and the gripper's next value. The last row holds still.

Some episodes ship with one video frame after the last state; it has no state of its own and is left out. Any other
difference between the numbers of frames and states is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers.base import ActionColumn, ActionKind, ActionMeaning, Recording
from roboalign_core.episodes.readers.folders import files_below
from roboalign_core.episodes.video import probe, read_all
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json

CAMERAS = {"0.mp4": "exterior_1", "1.mp4": "exterior_2", "2.mp4": "wrist"}
ANNOTATION = "annotation.json"

_ACTION = ActionMeaning(
    (
        *(ActionColumn(name, "m", ActionKind.DELTA) for name in ("dx", "dy", "dz")),
        *(ActionColumn(name, "rad", ActionKind.DELTA) for name in ("droll", "dpitch", "dyaw")),
        ActionColumn("gripper", "0 open, 1 closed", ActionKind.ABSOLUTE),
    )
)


@dataclass(frozen=True)
class DroidReader:
    """Reads folders with ``annotation.json``, also in folders below; every camera is an episode of its own."""

    name: str = "droid"

    def detect(self, path: Path) -> bool:
        """Whether there is at least one annotation with a video beside it."""
        return any((file.parent / video).is_file() for file in files_below(path, ANNOTATION) for video in CAMERAS)

    def recordings(self, path: Path) -> Iterator[Recording]:
        """One recording for each video; cameras without a file are left out, because some episodes ship without."""
        for annotation in sorted(files_below(path, ANNOTATION)):
            for file, camera in CAMERAS.items():
                video = annotation.parent / file
                if video.is_file():
                    yield Recording(str(video), camera, _ACTION, partial(self._read, annotation, video, camera))

    def _read(self, annotation: Path, video: Path, camera: str) -> Episode:
        content = read_json(annotation)
        if not isinstance(content, dict):
            raise RoboAlignError(f"{annotation}: expected an object, found {type(content).__name__}")
        states = _states(annotation, content)
        return Episode(
            frames=_frames(video, len(states), annotation.name),
            actions=deltas(states),
            instruction=_instruction(annotation, content),
            success=_success(annotation, content),
            fps=probe(video).fps,
            source=self.name,
            camera=camera,
            extras={"observation.state": states},
        )


def _frames(video: Path, states: int, annotation: str) -> NDArray[np.uint8]:
    """One frame a state; a single frame after the last state is dropped."""
    surplus = probe(video).frames == states + 1
    return read_all(video, states + surplus, f"one per row of states in {annotation}")[:states]


def deltas(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """Actions (T, 7) from states (T, 7); see the head of this module."""
    actions = np.zeros_like(states)
    change = np.diff(states[:, :6].astype(np.float64), axis=0)
    change[:, 3:] = (change[:, 3:] + np.pi) % (2 * np.pi) - np.pi
    actions[:-1, :6] = change
    actions[:-1, 6] = states[1:, 6]
    actions[-1, 6] = states[-1, 6]
    return actions


def _states(path: Path, content: dict[str, Any]) -> NDArray[np.float32]:
    try:
        states = np.array(content["states"], dtype=np.float32)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RoboAlignError(f"{path}: states: expected (T, 7) numbers, found: {error}") from error
    if states.ndim != 2 or states.shape[1] != len(_ACTION.columns):
        raise RoboAlignError(f"{path}: states: expected shape (T, {len(_ACTION.columns)}), found {states.shape}")
    length = content.get("video_length", len(states))
    if length != len(states):
        raise RoboAlignError(f"{path}: states: expected {length} rows (video_length), found {len(states)}")
    return states


def _instruction(path: Path, content: dict[str, Any]) -> str:
    texts = content.get("texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RoboAlignError(f"{path}: texts: expected a list of texts, found {texts!r}")
    return next((text.strip() for text in texts if text.strip()), "")


def _success(path: Path, content: dict[str, Any]) -> bool | None:
    success = content.get("success")
    if success is not None and success not in (0, 1):
        raise RoboAlignError(f"{path}: success: expected 0 or 1, found {success!r}")
    return None if success is None else bool(success)
