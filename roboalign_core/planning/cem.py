"""The cross-entropy method over action sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError

Array = npt.NDArray[np.float32]
Evaluate = Callable[[Array], Array]


@dataclass
class CEMConfig:
    """Settings of the cross-entropy method.

    Attributes:
        candidates: action sequences an iteration.
        horizon: steps of a sequence.
        iterations: rounds of sampling and refitting.
        elites: best sequences that the next distribution is fitted to.
        std: standard deviation of the first round, in the actions' range [-1, 1].
        min_std: standard deviation never falls below.
        smoothness: share of a step's noise that carries over to the next step, in [0, 1): robots move in strokes.
        momentum: share of the old mean and deviation that is kept at a refit.
        keep: elites that compete again in the next round.
        answer: ``best``, the best sequence that was evaluated, or ``mean``, that of the last elites: a learned model
            has errors that the single best of many samples is bound to exploit, and their mean much less.
        seed: of the noise.
    """

    candidates: int = 48
    horizon: int = 6
    iterations: int = 3
    elites: int = 8
    std: float = 0.8
    min_std: float = 0.1
    smoothness: float = 0.7
    momentum: float = 0.1
    keep: int = 2
    answer: str = "mean"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("candidates", "horizon", "iterations", "elites"):
            if getattr(self, name) < 1:
                raise RoboAlignError(f"planner {name}: expected at least 1, found {getattr(self, name)}")
        for name in ("std", "min_std", "keep"):
            if not 0 <= getattr(self, name) < np.inf:
                raise RoboAlignError(f"planner {name}: expected a number of 0 or more, found {getattr(self, name)}")
        if self.answer not in ("best", "mean"):
            raise RoboAlignError(f"planner answer: expected best or mean, found {self.answer!r}")
        if self.elites > self.candidates:
            raise RoboAlignError(f"planner elites: expected at most {self.candidates} candidates, found {self.elites}")
        for name in ("smoothness", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise RoboAlignError(f"planner {name}: expected a value in [0, 1), found {getattr(self, name)}")


@dataclass(frozen=True)
class CEMResult:
    """Outcome of a search.

    Attributes:
        actions: (H, A), see ``CEMConfig.answer``.
        score: its score.
        scores: (N,) of the last round.
        history: best score after each round.
    """

    actions: Array
    score: float
    scores: Array
    history: tuple[float, ...]


class CEM:
    """Search for the action sequence with the highest score (Rubinstein & Kroese 2004; correlated noise as in iCEM).

    All candidates of a round are evaluated in one call. One object gives the same results for the same calls.
    """

    def __init__(self, config: CEMConfig, action_dim: int) -> None:
        self.config, self.action_dim = config, action_dim
        self.random = np.random.default_rng(config.seed)

    def optimise(self, evaluate: Evaluate, warm_start: Array | None = None) -> CEMResult:
        """Find good actions in [-1, 1].

        Args:
            evaluate: (N, H, A) float32 → scores (N,), higher is better.
            warm_start: (H, A), mean of the first round; zeros where None.

        Raises:
            RoboAlignError: ``warm_start`` or the scores have the wrong shape, or a score is not finite.
        """
        config = self.config
        shape = (config.horizon, self.action_dim)
        mean = np.zeros(shape, np.float32) if warm_start is None else np.asarray(warm_start, np.float32)
        if mean.shape != shape or not np.isfinite(mean).all():
            found = f"{mean.shape}" + ("" if np.isfinite(mean).all() else " with NaN or infinity")
            raise RoboAlignError(f"warm start: expected finite numbers of shape {shape}, found {found}")
        std = np.full(shape, config.std, np.float32)
        kept = np.zeros((0, *shape), np.float32)
        best, best_score, history = mean, -np.inf, []
        scores = np.zeros(0, np.float32)
        for _ in range(config.iterations):
            actions = self._sample(mean, std, kept)
            scores = self._scores(evaluate, actions)
            order = np.argsort(-scores, kind="stable")
            elites = actions[order[: config.elites]]
            kept = elites[: config.keep]
            if scores[order[0]] > best_score:
                best, best_score = actions[order[0]], float(scores[order[0]])
            history.append(best_score)
            mean = config.momentum * mean + (1 - config.momentum) * elites.mean(0)
            spread = config.momentum * std + (1 - config.momentum) * elites.std(0)
            std = np.maximum(spread, config.min_std)
        if config.answer == "mean":
            best = np.clip(elites.mean(0), -1, 1)
            best_score = float(self._scores(evaluate, best[None])[0])
        return CEMResult(best, best_score, scores, tuple(history))

    def _sample(self, mean: Array, std: Array, kept: Array) -> Array:
        config = self.config
        noise = self.random.standard_normal((config.candidates, *mean.shape), dtype=np.float32)
        fresh = np.sqrt(1 - config.smoothness**2)
        for step in range(1, config.horizon):
            noise[:, step] = config.smoothness * noise[:, step - 1] + fresh * noise[:, step]
        actions = np.clip(mean + std * noise, -1, 1)
        actions[0] = np.clip(mean, -1, 1)
        actions[1 : 1 + len(kept)] = kept[: config.candidates - 1]
        return actions.astype(np.float32)

    def _scores(self, evaluate: Evaluate, actions: Array) -> Array:
        scores = np.asarray(evaluate(actions), np.float32)
        if scores.shape != (len(actions),) or not np.isfinite(scores).all():
            raise RoboAlignError(
                f"planner objective: expected {len(actions)} finite scores, found shape {scores.shape}"
                + ("" if np.isfinite(scores).all() else " with NaN or infinity")
            )
        return scores
