"""Episodes of recordings, each on one set of frame times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.readers.base import Recording
from roboalign_core.episodes.readers.rosbag import alignment
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
        for bag in find_bags(path):
            if self.topics is None:
                raise _no_topics(bag)
            yield from _BagEpisodes(bag, self.topics, self.name).recordings()


def _no_topics(bag: Path) -> RoboAlignError:
    with opened(bag) as content:
        there = ", ".join(f"{topic} ({kind})" for topic, kind in content.topics.items()) or "none"
    return RoboAlignError(
        f"{bag}: expected options=FILE.yaml, which says what the topics are (docs/data.md), found none; topics: {there}"
    )


@dataclass
class _BagEpisodes:
    """The episodes of one bag, which is surveyed once."""

    path: Path
    topics: Topics
    source: str

    @cached_property
    def survey(self) -> Survey:
        return survey(self.path, self.topics)

    def recordings(self) -> Iterator[Recording]:
        try:
            spans = [Span()] if self.topics.episode is None else spans_of(self.survey, self.topics.episode)
        except RoboAlignError:  # said again when it is loaded, where one damaged recording does not stop the others
            spans = [Span()]
        extras = {STATE: tuple(self.topics.state)} if self.topics.state else {}
        for span in spans:
            episode = f"{self.path}" if span.label is None else f"{self.path}: episode {span.label}"
            for camera in self.topics.cameras:
                notes: list[str] = []
                load = partial(self._read, span, camera, notes)
                yield Recording(f"{episode}: {camera}", camera, self.topics.action, load, notes, extras)

    def _read(self, span: Span, camera: str, notes: list[str]) -> Episode:
        notes[:] = self.survey.notes
        times = frame_times(self.survey, self.topics, span)
        columns = Columns(self.survey, self.topics, span, times, notes)
        track = columns.track(topic := self.topics.cameras[camera])
        shown = alignment.newest(track.stamps, times)
        if repeated := int((np.diff(shown) == 0).sum()):
            notes.append(f"{topic}: {repeated} of {len(times)} frames repeat the image before")
        actions, state = columns.actions(), columns.state()
        return Episode(
            frames=frames(self.survey, topic, track.places[shown]),
            actions=actions.astype(np.float32),
            instruction=instruction_of(self.survey, self.topics, span, int(times[-1])),
            success=success_of(self.survey, self.topics, span),
            fps=self.topics.rate,
            source=self.source,
            camera=camera,
            extras={STATE: state.astype(np.float32)} if self.topics.state else {},
        )
