"""A simulator's rules, asked about frames: on the states that a probe reads from them, as far as they show them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from roboalign_core.benchmark.oracles import READ, StateOracle, Tolerance
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.positions import Array
from roboalign_core.evaluation.probe import StateProbe


class ProbedOracle:
    """A :class:`~roboalign_core.benchmark.oracles.StateOracle` for imagined videos, which have no state of their own.

    Attributes:
        oracle: whose rules these are.
        probe: what reads the states.
        tolerance: how well it reads them.
    """

    def __init__(self, oracle: StateOracle, probe: StateProbe, tolerance: Tolerance = READ) -> None:
        """Raises RoboAlignError where the probe does not read what the oracle needs."""
        names = probe.config.columns
        missing = [column for column in oracle.columns if column not in names]
        if missing:
            raise RoboAlignError(
                f"oracle of {oracle.source!r}: expected a probe that reads {missing[0]!r}, found {', '.join(names)}"
            )
        self.oracle, self.probe, self.tolerance = oracle, probe, tolerance
        self._columns = [names.index(column) for column in oracle.columns]

    def score(self, frames: NDArray[np.uint8], actions: NDArray[np.floating], instruction: str) -> NDArray[np.float32]:
        """The six scores (6,) of a video (T, H, W, 3) uint8, the first frame real, under actions (T or T - 1, A)."""
        return self.score_read(self.probe.read(frames), frames, actions, instruction)

    def score_read(
        self, states: Array, frames: NDArray[np.uint8], actions: NDArray[np.floating], instruction: str
    ) -> NDArray[np.float32]:
        """The same where the probe has read its states (T, K) from the frames already."""
        seen = self.oracle.as_seen(states[:, self._columns], frames)
        return np.asarray(self.oracle.score_states(seen, actions, instruction, self.tolerance), np.float32)
