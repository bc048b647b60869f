"""Episodes of recordings, each on one set of frame times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers.base import Recording
from roboalign_core.episodes.readers.rosbag import alignment
from roboalign_core.episodes.readers.rosbag.alignment import NS
from roboalign_core.episodes.readers.rosbag.bags import find_bags, holds_bags, opened
from roboalign_core.episodes.readers.rosbag.episodes import (
    Columns,
    Span,
    frame_times,
    instruction_of,
    spans_of,
    success_of,
)
from roboalign_core.episodes.readers.rosbag.options import Topics, read_topics
from roboalign_core.episodes.readers.rosbag.tracks import Survey, frames, survey
from roboalign_core.errors import RoboAlignError

STATE = "observation.state"
_OFF_RATE = 0.2  # share by which frames may be slower or faster than the rate without a note


@dataclass(frozen=True)
class RosbagReader:
    """Reads bags in MCAP and SQLite files; every camera is an episode of its own."""

    name: str = "rosbag"
    topics: Topics | None = None

    def detect(self, path: Path) -> bool:
        """Whether there is a file of a recording."""
        return holds_bags(path)

    def with_options(self, path: Path) -> RosbagReader:
        """The reader that takes its topics from a yaml file."""
        return replace(self, topics=read_topics(path))

    def recordings(self, path: Path) -> Iterator[Recording]:
        """One recording for each bag, or each episode in it, and camera."""
        surveys = _Surveys()
        for bag in find_bags(path):
            if self.topics is None:
                raise _no_topics(bag)
            yield from _BagEpisodes(bag, self.topics, self.name, surveys).recordings()


def _no_topics(bag: Path) -> RoboAlignError:
    with opened(bag) as content:
        there = ", ".join(f"{topic} ({kind})" for topic, kind in content.topics.items()) or "none"
    return RoboAlignError(
        f"{bag}: expected options=FILE.yaml, which says what the topics are (docs/data.md), found none; topics: {there}"
    )


@dataclass
class _Surveys:
    """The survey of the bag that was last asked for: its cameras and episodes are asked for one after the other."""

    newest: Survey | None = None

    def of(self, path: Path, topics: Topics) -> Survey:
        if self.newest is None or self.newest.path != path:
            self.newest = None  # two would be in memory otherwise
            self.newest = survey(path, topics)
        return self.newest


@dataclass(frozen=True)
class _BagEpisodes:
    """The episodes of one bag."""

    path: Path
    topics: Topics
    source: str
    surveys: _Surveys

    @property
    def survey(self) -> Survey:
        return self.surveys.of(self.path, self.topics)

    def recordings(self) -> Iterator[Recording]:
        try:
            spans = [Span()] if self.topics.episode is None else spans_of(self.survey, self.topics.episode)
        except RoboAlignError:  # said again when it is loaded, where one damaged recording does not stop the others
            spans = [Span()]
        extras = {STATE: tuple(self.topics.state)} if self.topics.state else {}
        for span in spans:
            episode = f"{self.path}" if span.number is None else f"{self.path}: episode {span.number}"
            for camera in self.topics.cameras:
                notes: list[str] = []
                load = partial(self._read, span, camera, notes)
                yield Recording(f"{episode}: {camera}", camera, self.topics.action, load, notes=notes, extras=extras)

    def _read(self, span: Span, camera: str, notes: list[str]) -> Episode:
        survey = self.survey
        notes[:] = survey.notes
        times = frame_times(survey, self.topics, span)
        seconds = float(np.median(np.diff(times))) / NS
        if abs(seconds * self.topics.rate - 1) > _OFF_RATE:
            notes.append(f"frames lie {seconds:.3f} s apart (median), {self.topics.period:.3f} s by the rate")
        columns = Columns(survey, self.topics, span, times, notes)
        track = columns.track(topic := self.topics.cameras[camera])
        shown = alignment.newest(track.stamps, times)
        if repeated := int((np.diff(shown) == 0).sum()):
            notes.append(f"{topic}: {repeated} of {len(times)} frames repeat the image before")
        actions, state = columns.actions(), columns.state()
        return Episode(
            frames=frames(survey, topic, track.places[shown]),
            actions=actions.astype(np.float32),
            instruction=instruction_of(survey, self.topics, span, int(times[-1])),
            success=success_of(survey, self.topics, span),
            fps=self.topics.rate,
            source=self.source,
            camera=camera,
            extras={STATE: state.astype(np.float32)} if self.topics.state else {},
        )
