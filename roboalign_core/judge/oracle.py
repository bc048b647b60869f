"""A judge that reads the simulator's recorded state instead of the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from roboalign_core.benchmark.oracles import StateOracle, require_oracle
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.evaluation.probed import ProbedOracle
from roboalign_core.judge.protocol import Judge, Judgement, Video
from roboalign_core.rubric import KEYS, Scores
from roboalign_core.tensors import digest


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
        self._load = load or require_oracle
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
        return np.asarray(self.oracle(episode.source).score(episode, video.instruction), np.float32)

    def oracle(self, source: str) -> StateOracle:
        """The oracle for episodes of a source.

        Raises:
            RoboAlignError: there is none, or what it needs is not installed.
        """
        if source not in self._oracles:
            self._oracles[source] = self._load(source)
        return self._oracles[source]


class ProbedJudge(OracleJudge):
    """The oracles on states that a probe reads from the frames: for imagined videos, which have no other state.

    A video's episode says only which simulator is imagined, and along which actions.
    """

    def __init__(self, probe: StateProbe, load: Callable[[str], StateOracle] | None = None) -> None:
        """``probe`` reads the columns that the oracles take; ``load`` as in :class:`OracleJudge`."""
        super().__init__(load)
        self._probe = probe

    def describe(self) -> Mapping[str, Any]:
        """The probe's weights, by their checksum."""
        return {"oracle": True, "probe": digest(self._probe.network.state_dict())}

    def check(self, source: str, instructions: Iterable[str]) -> None:
        """Refuse episodes of a source, under instructions, that could not be judged.

        Raises:
            RoboAlignError: there is no oracle, it does not know an instruction, or the probe lacks a column.
        """
        known = self._probed(source).oracle.instructions
        unknown = sorted(set(instructions) - set(known))
        if unknown:
            raise RoboAlignError(
                f"judge oracle: {source}: expected instructions among {'; '.join(known)}, found {unknown[0]!r}"
            )

    def _probed(self, source: str) -> ProbedOracle:
        return ProbedOracle(self.oracle(source), self._probe)

    def _scores(self, place: int, video: Video) -> npt.NDArray[np.float32]:
        episode = video.episode
        if episode is None:
            raise RoboAlignError(
                f"judge oracle: video {place}: expected an episode, because its source and actions are looked at; "
                "found frames alone"
            )
        return self._probed(episode.source).score(video.frames, episode.actions, video.instruction)
