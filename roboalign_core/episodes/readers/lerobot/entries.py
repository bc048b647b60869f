"""Where the episodes of a LeRobotDataset lie: the common form of its versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from roboalign_core.episodes.readers.lerobot.info import DatasetInfo
from roboalign_core.errors import RoboAlignError


@dataclass(frozen=True)
class VideoSpan:
    """Where an episode's frames of one camera lie.

    Attributes:
        path: the video.
        start: time of the first frame in it, in seconds.
        is_whole: whether the video holds nothing else.
    """

    path: Path
    start: float
    is_whole: bool


@dataclass(frozen=True)
class Entry:
    """One episode, not read yet.

    Attributes:
        index: its number.
        length: its number of frames.
        tasks: its instructions, as its own record lists them.
        success: as its own record says; None where that says nothing.
        data: the parquet file with its rows.
        videos: by the key of the camera.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    success: bool | None
    data: Path
    videos: Mapping[str, VideoSpan]


def check_counts(info: DatasetInfo, where: str, entries: Sequence[Entry]) -> None:
    """Compare the episodes that were found with the totals in ``info.json``.

    Raises:
        RoboAlignError: an episode is there twice, or numbers of episodes or frames differ.
    """
    numbers = {entry.index for entry in entries}
    if len(numbers) < len(entries):
        raise RoboAlignError(f"{where}: expected each episode once, found {len(entries)} rows of {len(numbers)}")
    found = (len(entries), sum(entry.length for entry in entries))
    if found != (info.episodes, info.frames):
        raise RoboAlignError(
            f"{where}: expected {info.episodes} episodes and {info.frames} frames (info.json), "
            f"found {found[0]} and {found[1]}"
        )
