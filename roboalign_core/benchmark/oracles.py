"""Scores of simulated episodes out of the simulator's own state: ground truth that needs no judge.

The core knows no simulator. Whoever brings one registers its oracle in the entry-point group ``roboalign.oracles``,
under the name of the source that its episodes carry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

import numpy as np
import numpy.typing as npt

from roboalign_core.episodes import Episode
from roboalign_core.errors import RoboAlignError

GROUP = "roboalign.oracles"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How well states are known.

    Attributes:
        noise: standard deviation of a position's coordinate, metres; 0 where a simulator recorded the states.

    Raises:
        RoboAlignError: it is negative or not finite.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.noise) or self.noise < 0:
            raise RoboAlignError(f"tolerance: noise: expected metres >= 0, found {self.noise}")


EXACT = Tolerance()  # states that a simulator recorded
READ = Tolerance(0.007)  # states that a probe read from frames


class StateOracle(Protocol):
    """Scores what happened, from where everything was."""

    @property
    def source(self) -> str:
        """What its episodes' ``source`` says, e.g. ``"tabletop"``."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The K columns of ``observation.state`` that it reads, in their order."""

    @property
    def instructions(self) -> tuple[str, ...]:
        """The instructions that it can judge."""

    def score(self, episode: Episode, instruction: str) -> npt.NDArray[np.float32]:
        """The six scores (6,) float32 of a recorded episode, judged by an instruction, not always its own.

        Raises:
            RoboAlignError: the episode's extras lack the state, its shape is another, or the instruction is unknown.
        """

    def score_states(
        self,
        states: npt.NDArray[np.floating],
        actions: npt.NDArray[np.floating],
        instruction: str,
        tolerance: Tolerance = EXACT,
    ) -> npt.NDArray[np.float32]:
        """The six scores (6,) float32 of a sequence of states, recorded or read from imagined frames.

        Args:
            states: (T, K), T >= 2, in the order of ``columns``; NaN where something is not there.
            actions: (T, A), or (T - 1, A) without the last row, which leads nowhere.
            instruction: what is judged by.
            tolerance: how well the states are known.

        Raises:
            RoboAlignError: a shape is wrong, an action is not finite, or the instruction is unknown.
        """

    def as_seen(self, states: npt.NDArray[np.floating], frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """States (T, K) that a probe read in frames (T, H, W, 3) uint8: NaN where these do not show the thing.

        A probe gives a place to everything, also in an imagined frame that has lost it. The first frame is a real one.

        Raises:
            RoboAlignError: a shape is wrong, or this oracle does not know how frames show its things.
        """


def load_oracle(source: str) -> StateOracle | None:
    """The oracle for episodes of a source; None where nobody brings one.

    Raises:
        RoboAlignError: there is one, but what it needs is not installed.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if source not in found:
        return None
    try:
        oracle: StateOracle = found[source].load()
    except ImportError as error:
        raise RoboAlignError(f"oracle {source!r}: could not be loaded: {error}; see `roboalign doctor`") from error
    return oracle


def require_oracle(source: str) -> StateOracle:
    """As :func:`load_oracle`.

    Raises:
        RoboAlignError: nobody brings one, or what it needs is not installed.
    """
    oracle = load_oracle(source)
    if oracle is None:
        raise RoboAlignError(f"oracle: expected one for episodes of {source!r} (entry points {GROUP}), found none")
    return oracle
