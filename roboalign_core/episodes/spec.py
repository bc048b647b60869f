"""What all episodes of one store have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.video import VideoCodec
from roboalign_core.errors import RoboAlignError

# Names become folders and columns, so they must neither climb out of the store nor break LeRobot's "a/b" columns.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
RESERVED_COLUMNS = ("action", "timestamp", "frame_index", "episode_index", "index", "task_index", "next.done")


@dataclass(frozen=True, slots=True)
class StoreSpec:
    """The geometry and the names of a store.

    Attributes:
        fps: frames per second.
        height, width: of the frames, in pixels.
        action_names: a name for each column of ``Episode.actions``.
        source: the environment or data set.
        camera: the name of the one camera.
        extras: for each of ``Episode.extras``, a name for each column.
        action_units: unit and kind of each action column, e.g. ``"m (delta)"``; empty where not declared.
        crf, lossless: see `VideoCodec`.

    Raises:
        RoboAlignError: a number is out of range or a name cannot be used as a column or folder.
    """

    fps: float
    height: int
    width: int
    action_names: tuple[str, ...]
    source: str
    camera: str
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    action_units: tuple[str, ...] = ()
    crf: int = VideoCodec.crf
    lossless: bool = False

    def __post_init__(self) -> None:
        _check_number("fps", self.fps, 0.001, 1000, (int, float))
        _check_number("height", self.height, 1, 16384, (int,))
        _check_number("width", self.width, 1, 16384, (int,))
        _check_number("crf", self.crf, 0, 51, (int,))
        _check_name("camera", self.camera)
        _check_columns("action_names", self.action_names)
        if self.action_units and len(self.action_units) != len(self.action_names):
            expected, found = len(self.action_names), len(self.action_units)
            raise RoboAlignError(f"store spec: action_units: expected {expected} or none, found {found}")
        for key, names in self.extras.items():
            _check_name("extras", key)
            if key in RESERVED_COLUMNS:
                raise RoboAlignError(f"store spec: extras: expected a name that the layout leaves free, found {key!r}")
            _check_columns(f"extras[{key!r}]", names)
        object.__setattr__(self, "action_names", tuple(self.action_names))
        object.__setattr__(self, "action_units", tuple(self.action_units))
        object.__setattr__(self, "extras", {key: tuple(names) for key, names in self.extras.items()})

    @classmethod
    def like(
        cls,
        episode: Episode,
        action_names: tuple[str, ...] | None = None,
        action_units: tuple[str, ...] = (),
        crf: int = VideoCodec.crf,
        lossless: bool = False,
        extras: Mapping[str, tuple[str, ...]] | None = None,
    ) -> StoreSpec:
        """The spec that fits an episode; columns without names, also of ``extras``, are numbered."""
        named = extras or {}
        return cls(
            fps=episode.fps,
            height=episode.frames.shape[1],
            width=episode.frames.shape[2],
            action_names=action_names or _numbered("action", episode.actions.shape[1]),
            source=episode.source,
            camera=episode.camera,
            extras={key: named.get(key, _numbered(key, rows.shape[1])) for key, rows in episode.extras.items()},
            action_units=action_units,
            crf=crf,
            lossless=lossless,
        )

    @property
    def codec(self) -> VideoCodec:
        """How this store encodes frames."""
        return VideoCodec(self.crf, self.lossless)

    @property
    def video_key(self) -> str:
        """The name of the image column."""
        return f"observation.images.{self.camera}"

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """The float32 columns that hold recorded numbers: the action and the extras, each with its column names."""
        return {"action": self.action_names, **self.extras}

    def check(self, episode: Episode, where: str) -> None:
        """Refuse an episode that does not fit.

        Raises:
            RoboAlignError: naming the field, what the store expects, and what was found.
        """
        expected_found = {
            "frames (H, W)": ((self.height, self.width), episode.frames.shape[1:3]),
            "actions (columns)": (len(self.action_names), episode.actions.shape[1]),
            "fps": (self.fps, episode.fps),
            "source": (self.source, episode.source),
            "camera": (self.camera, episode.camera),
            "extras (name: columns)": (
                {key: len(names) for key, names in sorted(self.extras.items())},
                {key: rows.shape[1] for key, rows in sorted(episode.extras.items())},
            ),
        }
        for name, (expected, found) in expected_found.items():
            if expected != found:
                raise RoboAlignError(f"{where}: {name}: the store expects {expected}, found {found}")


def _numbered(key: str, count: int) -> tuple[str, ...]:
    return (key,) if count == 1 else tuple(f"{key}_{index}" for index in range(count))


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RoboAlignError(f"store spec: {what}: expected a name of letters, digits, '_', '.', '-', found {name!r}")


def _check_number(what: str, value: object, low: float, high: float, kinds: tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:  # type: ignore[operator]
        raise RoboAlignError(f"store spec: {what}: expected a number from {low} to {high}, found {value!r}")


def _check_columns(what: str, names: object) -> None:
    if not isinstance(names, (tuple, list)) or not names or not all(isinstance(name, str) and name for name in names):
        raise RoboAlignError(f"store spec: {what}: expected a name for each column, found {names!r}")
