"""Searching for action sequences by sampling: what all methods share, behind one Protocol."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError

Array = npt.NDArray[np.float32]
Evaluate = Callable[[Array], Array]


@dataclass
class SearchConfig:
    """Settings of every method.

    Attributes:
        candidates: action sequences a round.
        horizon: steps of a sequence.
        iterations: rounds of sampling and refitting, at most.
        std: standard deviation of the first round, in the actions' range [-1, 1].
        budget_ms: no further round is begun that would probably end later than this; the first one always runs, and the
            answer is scored after the last one. 0: no limit, and so the same answer however busy the machine is.
        seed: of the noise.
    """

    candidates: int = 48
    horizon: int = 6
    iterations: int = 3
    std: float = 0.8
    budget_ms: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require_least(self, 1, "candidates", "horizon", "iterations")
        require_least(self, 0, "std", "budget_ms", "seed")


@dataclass(frozen=True)
class SearchResult:
    """Outcome of a search.

    Attributes:
        actions: (H, A).
        score: its score.
        scores: (N,) of the last round.
        history: best score after each round.
    """

    actions: Array
    score: float
    scores: Array
    history: tuple[float, ...]


class Search(Protocol):
    """A way to find actions with a high score."""

    def optimise(self, evaluate: Evaluate, warm_start: Array | None = None) -> SearchResult:
        """Find good actions in [-1, 1].

        Args:
            evaluate: (N, H, A) float32 → scores (N,), higher is better.
            warm_start: (H, A), mean of the first round; zeros where None.

        Raises:
            RoboAlignError: ``warm_start`` or the scores have the wrong shape, or a score is not finite.
        """


@dataclass
class State:
    """Of a search, from one round to the next.

    Attributes:
        mean, std: (H, A), of the distribution that candidates are drawn from.
        kept: (K, H, A), candidates of the round before that compete again.
        answer: (H, A), the plan if no candidate is it: what the last round says is good on the whole.
    """

    mean: Array
    std: Array
    kept: Array
    answer: Array


class SamplingSearch(ABC):
    """Rounds of: draw candidates around a mean, score them all in one call, move the mean.

    From one search to the next an object keeps nothing but the state of its noise.
    """

    def __init__(self, config: SearchConfig, action_dim: int) -> None:
        self._common, self.action_dim = config, action_dim
        self.random = np.random.default_rng(config.seed)

    @abstractmethod
    def _noise(self, count: int) -> Array:
        """(count, H, A) of standard deviation 1."""

    @abstractmethod
    def _refit(self, state: State, actions: Array, scores: Array) -> State:
        """The state after a round with these candidates (N, H, A) and scores (N,)."""

    def _answers_with_best(self) -> bool:
        """Whether the plan is the best candidate of all rounds, and not the state's answer."""
        return False

    def _count(self, round_: int) -> int:
        """Candidates of a round."""
        return self._common.candidates

    def optimise(self, evaluate: Evaluate, warm_start: Array | None = None) -> SearchResult:
        """See :class:`Search`."""
        config, began = self._common, time.monotonic()
        state = self._begin(warm_start)
        best, best_score, history = state.mean, -np.inf, []
        scores = np.zeros(0, np.float32)
        for round_ in range(config.iterations):
            actions = self._sample(state, self._count(round_))
            scores = _scores(evaluate, actions)
            first = int(np.argmax(scores))
            if scores[first] > best_score:
                best, best_score = actions[first], float(scores[first])
            history.append(best_score)
            state = self._refit(state, actions, scores)
            spent = (time.monotonic() - began) * 1000
            if config.budget_ms and spent * (round_ + 2) / (round_ + 1) > config.budget_ms:
                break
        if not self._answers_with_best():
            best = np.clip(state.answer, -1, 1)
            best_score = float(_scores(evaluate, best[None])[0])
        return SearchResult(best, best_score, scores, tuple(history))

    def _begin(self, warm_start: Array | None) -> State:
        shape = (self._common.horizon, self.action_dim)
        mean = np.zeros(shape, np.float32) if warm_start is None else np.asarray(warm_start, np.float32)
        if mean.shape != shape or not np.isfinite(mean).all():
            found = f"{mean.shape}" + ("" if np.isfinite(mean).all() else " with NaN or infinity")
            raise RoboAlignError(f"warm start: expected finite numbers of shape {shape}, found {found}")
        return State(mean, np.full(shape, self._common.std, np.float32), np.zeros((0, *shape), np.float32), mean)

    def _sample(self, state: State, count: int) -> Array:
        """Candidates (count, H, A): the mean itself, what was kept, and the mean with noise."""
        actions = np.clip(state.mean + state.std * self._noise(count), -1, 1)
        actions[0] = np.clip(state.mean, -1, 1)
        actions[1 : 1 + len(state.kept)] = state.kept[: count - 1]
        return actions.astype(np.float32)

    def _correlated(self, count: int, smoothness: float) -> Array:
        """Noise (count, H, A) of which each step keeps the share ``smoothness`` of the step before."""
        noise = self.random.standard_normal((count, self._common.horizon, self.action_dim), dtype=np.float32)
        fresh = np.sqrt(1 - smoothness**2)
        for step in range(1, noise.shape[1]):
            noise[:, step] = smoothness * noise[:, step - 1] + fresh * noise[:, step]
        return noise


def _scores(evaluate: Evaluate, actions: Array) -> Array:
    scores = np.asarray(evaluate(actions), np.float32)
    if scores.shape != (len(actions),) or not np.isfinite(scores).all():
        raise RoboAlignError(
            f"planner objective: expected {len(actions)} finite scores, found shape {scores.shape}"
            + ("" if np.isfinite(scores).all() else " with NaN or infinity")
        )
    return scores


def require_least(config: SearchConfig, least: float, *names: str) -> None:
    """Raise RoboAlignError unless these settings are finite and at least ``least``."""
    for name in names:
        if not least <= getattr(config, name) < np.inf:
            found = getattr(config, name)
            raise RoboAlignError(f"planner {name}: expected a number of {least} or more, found {found}")


def require_share(config: SearchConfig, *names: str) -> None:
    """Raise RoboAlignError unless these settings are in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise RoboAlignError(f"planner {name}: expected a value in [0, 1), found {getattr(config, name)}")
