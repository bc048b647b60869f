"""A judge that reads the simulator's recorded state instead of the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from roboalign_core.benchmark.oracles import StateOracle, load_oracle
from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.protocol import Judge, Judgement, Video
from roboalign_core.rubric import KEYS, Scores


class OracleJudge(Judge):
    """The oracle of each episode's simulator, found by the episode's source.

    It is exact about what the simulator did, and blind to what only the picture shows: frames that were damaged or
    imagined have no state of their own, so it judges recordings alone.
    """

    def __init__(self, load: Callable[[str], StateOracle] | None = None) -> None:
        """Loads nothing yet.

        Args:
            load: the oracle of a source; by default those that installed packages bring.
        """
        self._load = load or _load_oracle
        self._oracles: dict[str, StateOracle] = {}

    @property
    def name(self) -> str:
        """Which judge this is."""
        return "oracle"

    def describe(self) -> Mapping[str, Any]:
        """Nothing but that it is one: which oracle is asked follows from the episode."""
        return {"oracle": True}

    def judge(self, videos: Sequence[Video]) -> Judgement:
        """One opinion of each video, without deviation and without words.

        Raises:
            RoboAlignError: a video is no recording, or there is no oracle for where it was recorded.
        """
        raw = np.zeros((len(videos), len(KEYS)), np.float32)
        for place, video in enumerate(videos):
            raw[place] = self._scores(place, video)
        return Judgement(Scores(raw), np.zeros_like(raw), ((),) * len(videos))

    def _scores(self, place: int, video: Video) -> npt.NDArray[np.float32]:
        episode = video.episode
        if episode is None:
            raise RoboAlignError(
                f"judge oracle: video {place}: expected a recorded episode, because its state is what an oracle reads; "
                "found frames alone"
            )
        if video.frames is not episode.frames and not np.array_equal(video.frames, episode.frames):
            raise RoboAlignError(f"judge oracle: video {place}: expected the frames of its episode, found other frames")
        if episode.source not in self._oracles:
            self._oracles[episode.source] = self._load(episode.source)
        return np.asarray(self._oracles[episode.source].score(episode, video.instruction), np.float32)


def _load_oracle(source: str) -> StateOracle:
    oracle = load_oracle(source)
    if oracle is None:
        raise RoboAlignError(f"judge oracle: expected an oracle for episodes of {source!r}, found none installed")
    return oracle
