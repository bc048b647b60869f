"""The episodes in a surveyed recording: when each runs, when its frames are, and what goes with each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes.readers.rosbag import alignment
from roboalign_core.episodes.readers.rosbag.alignment import NS, Times
from roboalign_core.episodes.readers.rosbag.options import Command, CommandKind, Source, Topics
from roboalign_core.episodes.readers.rosbag.tracks import Survey, Track
from roboalign_core.errors import RoboAlignError

_ALWAYS = 1 << 62


@dataclass(frozen=True)
class Span:
    """The time of an episode, nanoseconds.

    Attributes:
        start, stop: from, and up to but without.
        until: when the next episode starts; what is said before then is still about this one.
        number: of the episode in its bag, from 1; None where the bag is the episode.
    """

    start: int = -_ALWAYS
    stop: int = _ALWAYS
    until: int = _ALWAYS
    number: int | None = None


def spans_of(survey: Survey, source: Source) -> list[Span]:
    """The episodes of a recording: as long as a topic says the same number, except 0 (or false).

    Raises:
        RoboAlignError: there is no such time.
    """
    track = survey.tracks[source.topic]
    labels = survey.values(source, track)
    starts = [place for place, label in enumerate(labels) if place == 0 or labels[place - 1] != label]
    edges = [int(track.stamps[place]) for place in starts] + [_ALWAYS]
    runs = [edge for place, edge in zip(starts, pairwise(edges), strict=True) if labels[place]]
    if not runs:
        raise RoboAlignError(f"{source.topic}: expected a number other than 0, found none")
    nexts = [start for start, _ in runs[1:]] + [_ALWAYS]
    return [Span(*run, until, place + 1) for place, (run, until) in enumerate(zip(runs, nexts, strict=True))]


def frame_times(survey: Survey, topics: Topics, span: Span) -> Times:
    """(T,) when the frames are: from when all streams have begun to when the first camera ends.

    Raises:
        RoboAlignError: there are fewer than two.
    """
    cameras = [survey.track(topic, span.start, span.stop).stamps for topic in topics.cameras.values()]
    states = [survey.track(source.topic, span.start, span.stop).stamps for source in topics.state.values()]
    held = [command.source.topic for command in topics.commands if command.kind is CommandKind.ABSOLUTE]
    targets = [survey.track(topic, span.start, span.stop).stamps for topic in held]
    times = np.empty(0, np.int64)
    if all(len(stamps) for stamps in [*cameras, *states, *targets]):
        start = max(int(stamps[0]) for stamps in [*cameras, *states])
        stop = min(int(stamps[-1]) for stamps in cameras)
        commanded = max((int(stamps[0]) for stamps in targets), default=start)
        if topics.frames is None:  # the first target must be known at the second frame
            times = alignment.grid(max(start, commanded - round(NS / topics.rate)), stop, topics.rate)
        else:
            stamps = survey.track(topics.cameras[topics.frames], span.start, span.stop).stamps
            times = stamps[(stamps >= start) & (stamps <= stop)]
            times = times[max(int((times < commanded).sum()) - 1, 0) :]
    if len(times) < 2:
        raise RoboAlignError(f"expected two frames while all streams run, found {len(times)}: {_ranges(survey)}")
    return times


def _ranges(survey: Survey) -> str:
    """When each topic runs, for messages."""
    first = min(int(track.stamps[0]) for track in survey.tracks.values())
    return ", ".join(
        f"{topic} {(track.stamps[0] - first) / NS:.3f} to {(track.stamps[-1] - first) / NS:.3f} s"
        for topic, track in survey.tracks.items()
    )


@dataclass(frozen=True)
class Columns:
    """Actions and states at the frame times of an episode."""

    survey: Survey
    topics: Topics
    span: Span
    times: Times
    notes: list[str]

    def track(self, topic: str) -> Track:
        """A topic's messages in the episode. Longer gaps than allowed are refused, or noted."""
        track = self.survey.track(topic, self.span.start, self.span.stop)
        gaps = alignment.gaps(track.stamps, self.times, round(self.topics.gap * NS))
        if gaps:
            at, length = max(gaps, key=lambda gap: gap[1])
            after = (at - int(self.times[0])) / NS
            found = f"{len(gaps)} silences, the longest of {length / NS:.3f} s, {after:.3f} s after the first frame"
            if not self.topics.hold:
                wanted = f"{topic}: expected a message every {self.topics.gap:g} s (gap)"
                raise RoboAlignError(f"{wanted}, found {found}; `gaps: hold` bridges them")
            note = f"{topic}: {found}, bridged"
            if note not in self.notes:
                self.notes.append(note)
        return track

    def actions(self) -> NDArray[np.float64]:
        """(T, A); row t leads from frame t to frame t + 1, the last one nowhere."""
        return np.concatenate([self._action(command) for command in self.topics.commands], axis=1)

    def _action(self, command: Command) -> NDArray[np.float64]:
        stamps, values = self._column(command.source)
        if command.kind is CommandKind.ABSOLUTE:
            return alignment.targets(self.times, stamps, values)
        if command.kind is CommandKind.DELTA:
            return alignment.steps(self.times, stamps, values)
        return alignment.integrals(self.times, stamps, values, round(self.topics.gap * NS))

    def state(self) -> NDArray[np.float64]:
        """(T, K): the newest at each frame."""
        columns: Sequence[NDArray[np.float64]] = [
            values[alignment.newest(stamps, self.times)]
            for stamps, values in (self._column(source) for source in self.topics.state.values())
        ]
        return np.concatenate(columns, axis=1) if columns else np.empty((len(self.times), 0))

    def _column(self, source: Source) -> tuple[Times, NDArray[np.float64]]:
        track = self.track(source.topic)
        return track.stamps, np.array(self.survey.values(source, track), np.float64).reshape(-1, 1)


def instruction_of(survey: Survey, topics: Topics, span: Span, last: int) -> str:
    """Of a bag with one episode whatever was said; of several what was said during this one, else before."""
    told = topics.instruction
    if told.file is not None:
        path = (survey.path if survey.path.is_dir() else survey.path.parent) / told.file
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RoboAlignError(f"{path}: expected the instruction as UTF-8 text, found: {error}") from error
    if told.source is None:
        return (told.text or "").strip()
    track = survey.track(told.source.topic, span.start, span.stop if span.number is None else last + 1)
    texts = survey.values(told.source, track)
    if not texts:
        texts = survey.values(told.source, survey.track(told.source.topic, -_ALWAYS, span.start))[-1:]
    different = list(dict.fromkeys(text.strip() for text in texts))
    if len(different) != 1:
        found = " and ".join(f"{text!r:.80}" for text in different[:2]) or "none"
        raise RoboAlignError(f"{told.source.topic}: expected one instruction for the episode, found {found}")
    return str(different[0])


def success_of(survey: Survey, topics: Topics, span: Span) -> bool | None:
    """The last that was said from the start of the episode to that of the next."""
    if topics.success is None or topics.success.topic not in survey.tracks:
        return None
    said = survey.values(topics.success, survey.track(topics.success.topic, span.start, span.until))
    return bool(said[-1]) if said else None
