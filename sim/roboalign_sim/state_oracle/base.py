"""What the oracles share: the border checks, what is not there, and how findings become scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from roboalign_core.benchmark.oracles import EXACT, Tolerance
from roboalign_core.episodes import Episode
from roboalign_core.errors import RoboAlignError
from roboalign_sim.state_oracle.checks import ACTION, CONTACT, PHYSICS, TEMPORAL, Array, Finding, Flags, marks
from roboalign_sim.state_oracle.sight import Look, unseen
from roboalign_sim.state_oracle.thresholds import Slack

STATE = "observation.state"


class SimOracle(ABC):
    """A :class:`~roboalign_core.benchmark.oracles.StateOracle` over the state that a recorder of ours keeps."""

    source: str
    columns: ClassVar[tuple[str, ...]]
    instructions: tuple[str, ...]
    action_dim: ClassVar[int]
    robot: ClassVar[slice]
    """The columns of the robot's own place."""
    looks: Mapping[str, tuple[slice, Look]] = {}
    """By name, the columns of a thing and how frames show it; empty where that is not known."""

    def score(self, episode: Episode, instruction: str) -> npt.NDArray[np.float32]:
        """See :class:`~roboalign_core.benchmark.oracles.StateOracle`."""
        if STATE not in episode.extras:
            raise RoboAlignError(f"oracle {self.source}: expected {STATE} among extras, found {sorted(episode.extras)}")
        return self.score_states(episode.extras[STATE], episode.actions, instruction)

    def score_states(
        self,
        states: npt.NDArray[np.floating],
        actions: npt.NDArray[np.floating],
        instruction: str,
        tolerance: Tolerance = EXACT,
    ) -> npt.NDArray[np.float32]:
        """See :class:`~roboalign_core.benchmark.oracles.StateOracle`."""
        if instruction not in self.instructions:
            known = "; ".join(self.instructions)
            raise RoboAlignError(f"oracle {self.source}: instruction: expected one of [{known}], found {instruction!r}")
        rows, commands, there = self._checked(states, actions)
        slack = Slack.of(tolerance)
        scores = marks([*self._gone(states, there), *self._findings(rows, commands, there, slack)])
        following, success = self._outcome(rows, instruction, slack)
        if not there[-1]:  # what is not there at the end is not done
            following, success = min(following, 2), min(success, 1)
        scores[:2] = following, success
        return scores

    def as_seen(self, states: npt.NDArray[np.floating], frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
        """See :class:`~roboalign_core.benchmark.oracles.StateOracle`."""
        who = f"oracle {self.source}"
        if not self.looks:
            raise RoboAlignError(
                f"{who}: expected states that a simulator recorded, found frames, of which it knows nothing"
            )
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or len(frames) != len(states):
            expected = f"({len(states)}, H, W, 3) uint8"
            raise RoboAlignError(f"{who}: frames: expected shape {expected}, found {frames.shape} {frames.dtype}")
        seen = np.array(states, np.float64)
        gone = unseen(frames, {name: look for name, (_, look) in self.looks.items()})
        for name, (columns, _) in self.looks.items():
            seen[gone[name], columns] = np.nan
        return seen

    def findings(
        self, states: npt.NDArray[np.floating], actions: npt.NDArray[np.floating], tolerance: Tolerance = EXACT
    ) -> list[Finding]:
        """Why the last four of the scores are not the highest; arguments and errors as of :meth:`score_states`."""
        rows, commands, there = self._checked(states, actions)
        return [*self._gone(states, there), *self._findings(rows, commands, there, Slack.of(tolerance))]

    def _gone(self, states: npt.NDArray[np.floating], there: Flags) -> list[Finding]:
        """What is not there vanished, which is no smooth video; a robot that is not there does nothing."""
        if there.all():
            return []
        what, frame = "something is not there", int(np.argmin(there))
        found = [Finding(PHYSICS, frame, 2, what), Finding(TEMPORAL, frame, 1, what)]
        robot = np.isnan(np.asarray(states, np.float64)[:, self.robot]).any(axis=1)
        if robot.any():
            found += [Finding(key, int(np.argmax(robot)), 1, "the robot is not there") for key in (ACTION, CONTACT)]
        return found

    @abstractmethod
    def _outcome(self, rows: Array, instruction: str, slack: Slack) -> tuple[int, int]:
        """Instruction following and manipulation success of states (T, K)."""

    @abstractmethod
    def _findings(self, rows: Array, actions: Array, there: Flags, slack: Slack) -> list[Finding]:
        """What costs marks in states (T, K) under actions (T - 1, A); nothing is asked of steps to or from gaps."""

    def _checked(
        self, states: npt.NDArray[np.floating], actions: npt.NDArray[np.floating]
    ) -> tuple[Array, Array, Flags]:
        """States (T, K) without gaps, actions (T - 1, A), and (T,) where everything is there."""
        who, width = f"oracle {self.source}", len(self.columns)
        rows, commands = np.array(states, np.float64), np.asarray(actions, np.float64)
        if rows.ndim != 2 or rows.shape[1] != width or len(rows) < 2:
            raise RoboAlignError(f"{who}: states: expected shape (T, {width}) with T >= 2, found {rows.shape}")
        if commands.ndim != 2 or commands.shape[1] != self.action_dim or len(rows) - len(commands) not in (0, 1):
            expected = f"({len(rows)}, {self.action_dim}) or one row less"
            raise RoboAlignError(f"{who}: actions: expected shape {expected}, found {commands.shape}")
        commands = commands[: len(rows) - 1]
        if not np.isfinite(commands).all() or np.isinf(rows).any():
            raise RoboAlignError(f"{who}: expected finite actions, and states that are finite or NaN, found others")
        return self._filled(rows), commands, ~np.isnan(states).any(axis=1)

    def _filled(self, rows: Array) -> Array:
        """Where something is not there, it is taken to be where it was last, or is first, seen."""
        for column, name in zip(range(rows.shape[1]), self.columns, strict=True):
            seen = np.flatnonzero(~np.isnan(rows[:, column]))
            if not len(seen):
                raise RoboAlignError(
                    f"oracle {self.source}: states: {name}: expected a number in some frame, found none"
                )
            last = np.searchsorted(seen, np.arange(len(rows)), side="right") - 1
            rows[:, column] = rows[seen[np.maximum(last, 0)], column]
        return rows
