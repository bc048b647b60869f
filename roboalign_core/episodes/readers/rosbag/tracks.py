"""One pass over a recording: for each topic when its messages were stamped, and the values that are asked for.

Images are looked at here for their stamps alone; `frames` takes them out in a second pass, only those that are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes.readers.base import MOST_BYTES
from roboalign_core.episodes.readers.rosbag.alignment import NS, Times, in_order
from roboalign_core.episodes.readers.rosbag.bags import Bag, Message, opened
from roboalign_core.episodes.readers.rosbag.fields import ValueKind
from roboalign_core.episodes.readers.rosbag.images import COMPRESSED, RAW, fingerprint, to_frame
from roboalign_core.episodes.readers.rosbag.options import Source, Topics
from roboalign_core.errors import RoboAlignError

_LATEST = 1 << 62  # nanoseconds, the year 2116
_CLOCKS_APART = 2 * NS  # between the delays of two topics: more is two computers whose clocks differ


@dataclass(frozen=True)
class Track:
    """The messages of a topic in the order of their stamps, each once.

    Attributes:
        stamps: (N,) acquisition times, nanoseconds.
        places: (N,) which message of the topic each is, counted as they were received.
        received: (M,) times of receipt of all messages of the topic, counted so.
        rows: what was asked for, of each message.
    """

    stamps: Times
    places: Times
    received: Times
    rows: list[tuple[Any, ...]]

    def between(self, start: int, stop: int) -> Track:
        """The messages with a stamp from ``start`` on and before ``stop``."""
        first, end = np.searchsorted(self.stamps, [start, stop])
        return Track(self.stamps[first:end], self.places[first:end], self.received, self.rows[first:end])


@dataclass(frozen=True)
class Survey:
    """What one pass over a recording gives."""

    path: Path
    tracks: Mapping[str, Track]
    columns: Mapping[Source, int]
    notes: tuple[str, ...]

    def track(self, topic: str, start: int, stop: int) -> Track:
        """The messages of a topic within a time."""
        return self.tracks[topic].between(start, stop)

    def values(self, source: Source, track: Track) -> list[Any]:
        """What a field holds in the messages of a track of its topic."""
        return [row[self.columns[source]] for row in track.rows]


def survey(path: Path, topics: Topics) -> Survey:
    """Read a recording once.

    Raises:
        RoboAlignError: it is damaged, lacks a topic, or a topic holds something else than the settings say.
    """
    wanted, notes = _wanted(topics), []
    with opened(path) as bag:
        success = topics.success
        if success is not None and list(wanted[success.topic]) == [success] and not bag.says(success.topic):
            del wanted[success.topic]
            notes.append(f"{success.topic}: no message, success is unknown")
        bag.require(wanted)
        for camera, topic in topics.cameras.items():
            if bag.topics[topic] not in (RAW, COMPRESSED):
                raise RoboAlignError(
                    f"camera {camera}: {topic}: expected {RAW} or {COMPRESSED}, found {bag.topics[topic]}"
                )
        collected = {topic: _Collected(topic, fields) for topic, fields in wanted.items()}
        images = set(topics.cameras.values())
        stamped = {topic for topic in wanted if topic not in topics.unstamped and bag.has_header(topic)}
        for message in bag.messages(wanted):
            collected[message.topic].add(bag, message, message.topic in stamped, message.topic in images)
        for topic, items in collected.items():
            if (found := len(items.stamps)) != bag.count(topic):
                raise RoboAlignError(f"{topic}: expected {bag.count(topic)} messages, found {found}")
    notes += [f"{topic}: stamped by the times of receipt" for topic in wanted if topic not in stamped]
    tracks = {}
    for topic, items in collected.items():
        tracks[topic] = _track(items, topic in stamped, round(topics.gap * NS), notes)
    _check_clocks(topics, tracks)
    columns = {
        source: place for fields in wanted.values() for place, source in enumerate(fields) if isinstance(source, Source)
    }
    return Survey(path, tracks, columns, tuple(notes))


def frames(survey: Survey, topic: str, places: Times) -> NDArray[np.uint8]:
    """The images (T, H, W, 3) uint8 RGB at ``places`` (T,) of a topic.

    Raises:
        RoboAlignError: an image is damaged or has another size than the first, or they are too many to hold.
    """
    received = survey.tracks[topic].received
    start, stop = int(received[places].min()), int(received[places].max()) + 1
    numbers = np.flatnonzero((received >= start) & (received < stop)).tolist()
    needed = set(places.tolist())
    found: NDArray[np.uint8] = np.empty((0, 0, 0, 3), np.uint8)
    with opened(survey.path) as bag:
        for number, message in zip(numbers, bag.messages([topic], start, stop), strict=False):
            if number not in needed:
                continue
            where = f"{topic}: message {number}"
            image = to_frame(bag.decode(message), where)
            if not len(found):
                found = _room(where, len(places), image)
            if image.shape != found.shape[1:]:
                raise RoboAlignError(f"{where}: expected {found.shape[1:3]} pixels as before, found {image.shape[:2]}")
            found[places == number] = image
            needed.remove(number)
    if needed:
        raise RoboAlignError(f"{topic}: expected the same messages again, found {len(needed)} less")
    return found


def _room(where: str, length: int, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if length * image.nbytes > MOST_BYTES:
        size = " x ".join(map(str, image.shape))
        raise RoboAlignError(f"{where}: expected at most {MOST_BYTES} bytes of frames, found {length} x {size}")
    return np.empty((length, *image.shape), np.uint8)


def _wanted(topics: Topics) -> dict[str, dict[Source, ValueKind]]:
    """The topics to read, and of each the fields; of cameras none."""
    sources = [(command.source, ValueKind.NUMBER) for command in topics.commands]
    sources += [(source, ValueKind.NUMBER) for source in topics.state.values()]
    for source, kind in (
        (topics.instruction.source, ValueKind.TEXT),
        (topics.success, ValueKind.FLAG),
        (topics.episode, ValueKind.LABEL),
    ):
        if source is not None:
            sources.append((source, kind))
    wanted: dict[str, dict[Source, ValueKind]] = {topic: {} for topic in topics.cameras.values()}
    for source, kind in sources:
        before = wanted.setdefault(source.topic, {}).setdefault(source, kind)
        if before is not kind:
            raise RoboAlignError(f"{source.topic}: field {source.field.path}: expected one use, found two that differ")
    return wanted


@dataclass
class _Collected:
    """The messages of a topic as they were received."""

    topic: str
    fields: Mapping[Source, ValueKind]
    stamps: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, bag: Bag, message: Message, stamped: bool, image: bool) -> None:
        where = f"{self.topic}: message {len(self.rows)}"
        content = bag.decode(message)
        row = tuple(source.field.value(content, kind, where) for source, kind in self.fields.items())
        stamp = content.header.stamp if stamped else None
        time = message.received if stamp is None else stamp.sec * NS + stamp.nanosec
        if not (0 <= message.received < _LATEST and 0 <= time < _LATEST):
            raise RoboAlignError(f"{where}: expected a time from 1970 on, found {time} ns, received {message.received}")
        self.stamps.append(time)
        self.received.append(message.received)
        self.rows.append((*row, fingerprint(content)) if image else row)


def _track(items: _Collected, stamped: bool, longest: int, notes: list[str]) -> Track:
    stamps = np.array(items.stamps, np.int64)
    try:
        places, late, twice = in_order(stamps, items.rows, stamped, longest)
    except RoboAlignError as error:
        raise RoboAlignError(f"{items.topic}: {error}") from error
    if late:
        notes.append(f"{items.topic}: {late} messages out of order, brought into the order of their stamps")
    if twice:
        notes.append(f"{items.topic}: {twice} messages that came twice were dropped")
    return Track(stamps[places], places, np.array(items.received, np.int64), [items.rows[place] for place in places])


def _check_clocks(topics: Topics, tracks: Mapping[str, Track]) -> None:
    """Refuse streams whose stamps lie behind their receipt by very different times: they are not of one clock."""
    sources = [*(command.source for command in topics.commands), *topics.state.values()]
    delays = {
        topic: float(np.median(tracks[topic].received[tracks[topic].places] - tracks[topic].stamps))
        for topic in dict.fromkeys([*topics.cameras.values(), *(source.topic for source in sources)])
    }
    least, most = min(delays, key=lambda topic: delays[topic]), max(delays, key=lambda topic: delays[topic])
    if delays[most] - delays[least] > max(_CLOCKS_APART, topics.gap * NS):
        raise RoboAlignError(
            f"expected stamps of one clock, found {most} stamped {delays[most] / NS:.3f} s before it was "
            f"received, {least} {delays[least] / NS:.3f} s; `unstamped: [{most}]` takes the times of receipt"
        )
