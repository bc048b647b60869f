"""The cross-entropy method on objectives whose best actions are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import CEM, CEMConfig, SearchResult

Array = np.ndarray
GOAL = np.array([[0.6, -0.3], [0.5, -0.2], [0.2, 0.1], [-0.4, 0.7]], np.float32)


def quadratic(actions: Array) -> Array:
    """Highest, 0, at GOAL."""
    return -np.square(actions - GOAL).sum((1, 2))


def around_a_wall(actions: Array) -> Array:
    """Walk from (0, 0) to (2, 0) in strokes of at most 0.7; between them stands a wall from (1, -2) to (1, 0.5)."""
    points = np.cumsum(0.7 * actions, axis=1)
    before = np.concatenate([np.zeros_like(points[:, :1]), points[:, :-1]], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (1 - before[..., 0]) / (points[..., 0] - before[..., 0])
        height = before[..., 1] + share * (points[..., 1] - before[..., 1])
    hits = (share >= 0) & (share <= 1) & (height > -2) & (height < 0.5)
    return -np.hypot(points[:, -1, 0] - 2, points[:, -1, 1]) - 10.0 * hits.any(1)


def config(**changes: float) -> CEMConfig:
    return CEMConfig(
        **(
            {"candidates": 128, "horizon": 4, "iterations": 12, "elites": 16, "min_std": 0.01, "answer": "best"}
            | changes
        )
    )


@pytest.mark.parametrize("smoothness", [0.0, 0.7])
def test_finds_the_best_actions(smoothness: float) -> None:
    result = CEM(config(smoothness=smoothness), 2).optimise(quadratic)
    np.testing.assert_allclose(result.actions, GOAL, atol=0.08)
    assert result.actions.dtype == np.float32
    assert result.score == pytest.approx(float(quadratic(result.actions[None])[0]))


@pytest.mark.parametrize("seed", range(3))
def test_finds_the_way_around_a_wall(seed: int) -> None:
    result = CEM(config(horizon=8, candidates=256, iterations=20, elites=24, seed=seed), 2).optimise(around_a_wall)
    assert result.score > -0.15
    straight = np.tile(np.array([2 / 0.7 / 8, 0], np.float32), (1, 8, 1))
    assert around_a_wall(straight)[0] < -9


def test_at_the_border_of_what_is_allowed() -> None:
    result = CEM(config(), 2).optimise(lambda actions: actions.sum((1, 2)))
    np.testing.assert_allclose(result.actions, 1, atol=0.02)


def test_never_leaves_the_allowed_range() -> None:
    seen = []

    def far_away(actions: Array) -> Array:
        seen.append(actions)
        return actions.sum((1, 2))

    CEM(config(std=5.0), 3).optimise(far_away, warm_start=np.full((4, 3), 7, np.float32))
    assert len(seen) == 12
    for actions in seen:
        assert actions.shape == (128, 4, 3)
        assert actions.dtype == np.float32
        assert np.abs(actions).max() <= 1


def test_a_seed_decides_everything() -> None:
    def search(seed: int) -> list[Array]:
        cem = CEM(config(iterations=3, seed=seed), 2)
        return [cem.optimise(quadratic).actions for _ in range(2)]

    first, again, other = search(1), search(1), search(2)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], first[1]), "a second search must not repeat the first one's noise"
    assert not np.array_equal(first[0], other[0])


def test_every_round_is_at_least_as_good_as_the_last_because_kept_elites_compete_again() -> None:
    def rounds(keep: int, seed: int) -> tuple[list[float], SearchResult]:
        best: list[float] = []

        def watch(actions: Array) -> Array:
            scores = quadratic(actions)
            best.append(float(scores.max()))
            return scores

        return best, CEM(config(candidates=8, elites=4, min_std=0.3, keep=keep, seed=seed), 2).optimise(watch)

    for seed in range(5):
        best, result = rounds(1, seed)
        assert len(best) == 12
        assert best == sorted(best)
        assert list(result.history) == best
        assert result.score == best[-1]
        assert result.scores.shape == (8,)
        best, result = rounds(0, seed)
        assert best != sorted(best), "candidates so few and so far apart get worse where none is kept"
        assert list(result.history) == list(np.maximum.accumulate(best))


def test_a_warm_start_helps_and_is_tried_itself() -> None:
    short = {"iterations": 1, "candidates": 16, "elites": 4, "std": 0.3}
    cold = np.mean([CEM(config(seed=seed, **short), 2).optimise(quadratic).score for seed in range(20)])
    near = GOAL + 0.05
    warm = [CEM(config(seed=seed, **short), 2).optimise(quadratic, near) for seed in range(20)]
    assert np.mean([result.score for result in warm]) > cold + 0.5
    assert all(result.score >= quadratic(near[None])[0] - 1e-6 for result in warm)


def test_noise_is_smooth_in_time_and_as_wide_as_asked() -> None:
    drawn: list[Array] = []

    def watch(actions: Array) -> Array:
        drawn.append(actions)
        return np.zeros(len(actions), np.float32)

    CEM(config(candidates=20000, horizon=6, iterations=1, std=0.2, smoothness=0.7), 1).optimise(watch)
    noise = drawn[0][..., 0]
    np.testing.assert_allclose(noise.std(0), 0.2, atol=0.01)
    neighbours = [np.corrcoef(noise[:, t], noise[:, t + 1])[0, 1] for t in range(5)]
    np.testing.assert_allclose(neighbours, 0.7, atol=0.02)


@pytest.mark.parametrize("candidates", [1, 2, 3])
def test_a_handful_of_candidates(candidates: int) -> None:
    result = CEM(config(candidates=candidates, elites=1, keep=2, iterations=3), 2).optimise(quadratic)
    assert result.scores.shape == (candidates,)


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        (lambda actions: np.full(len(actions), np.nan), "expected 128 finite scores.*NaN"),
        (lambda actions: np.where(np.arange(len(actions)) == 3, np.inf, 0.0), "expected 128 finite scores.*infinity"),
        (lambda actions: np.zeros(len(actions) - 1), r"expected 128 finite scores, found shape \(127,\)"),
        (lambda actions: np.zeros((len(actions), 1)), r"expected 128 finite scores, found shape \(128, 1\)"),
        (lambda actions: 0.0, r"expected 128 finite scores, found shape \(\)"),
    ],
    ids=["NaN", "infinity", "too few", "column", "number"],
)
def test_scores_that_are_no_scores_are_refused(evaluate: Callable[[Array], Array], message: str) -> None:
    with pytest.raises(RoboAlignError, match=f"planner objective: {message}"):
        CEM(config(), 2).optimise(evaluate)


def test_a_warm_start_that_does_not_fit_is_refused() -> None:
    for bad in (np.zeros((4, 3)), np.zeros(8), np.full((4, 2), np.nan)):
        with pytest.raises(RoboAlignError, match="warm start"):
            CEM(config(), 2).optimise(quadratic, bad)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"candidates": 0}, "candidates"),
        ({"horizon": 0}, "horizon"),
        ({"iterations": 0}, "iterations"),
        ({"elites": 0}, "elites"),
        ({"elites": 129}, "elites"),
        ({"smoothness": 1.0}, "smoothness"),
        ({"momentum": 1.0}, "momentum"),
        ({"std": -0.1}, "std"),
        ({"min_std": float("nan")}, "min_std"),
        ({"keep": -1}, "keep"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float], named: str) -> None:
    with pytest.raises(RoboAlignError, match=f"planner {named}"):
        config(**changes)


def test_the_mean_of_the_elites_is_less_taken_in_by_a_lucky_score() -> None:
    """A score that is wrong at random picks: the best candidate falls for it, the mean stays near the true optimum."""
    noise = np.random.default_rng(0)

    def flawed(actions: Array) -> Array:
        return quadratic(actions) + noise.exponential(1.0, len(actions)).astype(np.float32)

    def quality(answer: str) -> float:
        plans = [
            CEM(CEMConfig(64, 4, 3, elites=8, answer=answer, seed=seed), 2).optimise(flawed).actions
            for seed in range(20)
        ]
        return float(quadratic(np.stack(plans)).mean())

    assert quality("mean") > quality("best") + 0.1


def test_an_unknown_answer_is_refused() -> None:
    with pytest.raises(RoboAlignError, match="answer: expected best or mean"):
        CEMConfig(answer="worst")
