"""Planning with the simulator itself in place of a world model: the ceiling of what a planner can reach here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from roboalign_core.planning import SearchConfig, make_search
from roboalign_sim.tabletop import ACTION_NAMES, TabletopEnv
from roboalign_sim.tasks import progress


class OraclePlanner:
    """A search on the table-top's own physics, maximising the progress at the end of the plan plus its mean on the way.

    A :class:`~roboalign_sim.policies.Policy`. It plans in the environment that it acts on, and leaves it as it was.

    Args:
        env: the table-top that the planner acts on.
        config: of the planner; its seed is the episode's.
        replan_every: actions that are taken from a plan before the next one.
    """

    def __init__(self, env: TabletopEnv, config: SearchConfig, replan_every: int = 4) -> None:
        self._env, self._config, self._replan_every = env, config, replan_every

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._search = make_search(replace(self._config, seed=seed), len(ACTION_NAMES))
        self._plan: npt.NDArray[np.float32] | None = None
        self._used = 0

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """The next action."""
        if self._plan is None or self._used == self._replan_every:
            rest = None if self._plan is None else shifted(self._plan, self._used)
            self._plan, self._used = self._search.optimise(self._scores, rest).actions, 0
        action: npt.NDArray[np.float32] = self._plan[self._used]
        self._used += 1
        return action

    def _scores(self, candidates: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        env, origin = self._env, self._env.get_state()
        scores = np.empty(len(candidates), np.float32)
        for row, actions in enumerate(candidates):
            env.set_state(origin)
            way = []
            for action in actions:
                env.advance(action)
                way.append(progress(origin.instruction, origin.start, env.state()))
            scores[row] = way[-1] + sum(way) / len(way)
        env.set_state(origin)
        return scores


def shifted(plan: npt.NDArray[np.float32], used: int) -> npt.NDArray[np.float32]:
    """What is left of a plan (H, A) after ``used`` steps, with rest at its end."""
    return np.concatenate([plan[used:], np.zeros((used, plan.shape[1]), np.float32)])
