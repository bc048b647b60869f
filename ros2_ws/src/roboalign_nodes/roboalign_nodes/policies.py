"""How the planner node chooses a chunk: by planning in imagination, or at random for comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from roboalign_core.planning import SearchConfig, make_search

Actions = npt.NDArray[np.float32]
Evaluate = Callable[[Actions], Actions]


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen plan.

    Attributes:
        actions: (H, A) float32 in [-1, 1].
        score: its expected score, None where nothing was scored.
        candidate_scores: (N,) of the last generation, empty where nothing was scored.
    """

    actions: Actions
    score: float | None
    candidate_scores: Actions


class Policy(Protocol):
    """One way to choose."""

    def choose(
        self, evaluate: Evaluate, action_dim: int, seed: tuple[int, int, int], previous: Actions | None
    ) -> Choice:
        """Choose a plan.

        Args:
            evaluate: candidates (N, H, A) → scores (N,), higher is better.
            action_dim: A.
            seed: of the run, the episode and the step: the same seed gives the same plan.
            previous: what is left of the plan before, (<= H, A), or None.
        """


@dataclass(frozen=True, slots=True)
class SearchPolicy:
    """A search over imagined futures, started from what is left of the plan before.

    Attributes:
        config: of the search; its seed is replaced for every plan.
    """

    config: SearchConfig

    def choose(
        self, evaluate: Evaluate, action_dim: int, seed: tuple[int, int, int], previous: Actions | None
    ) -> Choice:
        """Search, see :class:`Policy`."""
        config = replace(self.config, seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
        result = make_search(config, action_dim).optimise(evaluate, _padded(previous, config.horizon))
        return Choice(result.actions, result.score, result.scores)


@dataclass(frozen=True, slots=True)
class RandomPolicy:
    """Uniform actions: what is reached without a world model."""

    horizon: int

    def choose(
        self, evaluate: Evaluate, action_dim: int, seed: tuple[int, int, int], previous: Actions | None
    ) -> Choice:
        """Draw, see :class:`Policy`; ``evaluate`` and ``previous`` are not used."""
        actions = np.random.default_rng(seed).uniform(-1.0, 1.0, (self.horizon, action_dim)).astype(np.float32)
        return Choice(actions, None, np.zeros(0, np.float32))


def _padded(actions: Actions | None, horizon: int) -> Actions | None:
    if actions is None or len(actions) == 0:
        return None
    padding = np.zeros((max(horizon - len(actions), 0), actions.shape[1]), np.float32)
    return np.concatenate([actions, padding])[:horizon]
