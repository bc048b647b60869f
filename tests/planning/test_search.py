"""What every search keeps to, whichever way it draws and refits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import yaml

from roboalign_core.configs import config_dir
from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import (
    ICEM,
    METHODS,
    CEMConfig,
    ICEMConfig,
    MPPIConfig,
    SearchConfig,
    make_search,
    search_config,
)

Array = np.ndarray
GOAL = np.array([[0.6, -0.3], [0.5, -0.2], [0.2, 0.1], [-0.4, 0.7]], np.float32)


def quadratic(actions: Array) -> Array:
    """Highest, 0, at GOAL."""
    return -np.square(actions - GOAL).sum((1, 2))


@pytest.fixture(params=METHODS)
def config(request: pytest.FixtureRequest) -> SearchConfig:
    return METHODS[request.param](candidates=128, horizon=4, iterations=12)


class Counting:
    """An objective that notes what it was asked."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, actions: Array) -> Array:
        assert actions.dtype == np.float32
        assert np.abs(actions).max() <= 1
        self.batches.append(len(actions))
        return quadratic(actions)


@pytest.mark.parametrize("name", METHODS)
def test_the_yaml_says_what_the_defaults_are(name: str) -> None:
    settings = yaml.safe_load((config_dir() / "planner" / f"{name}.yaml").read_text())
    assert settings == {"name": name, **asdict(METHODS[name]())}
    assert search_config(settings) == METHODS[name]()


def test_comes_close_to_the_best_actions(config: SearchConfig) -> None:
    result = make_search(config, 2).optimise(quadratic)
    assert result.score > -0.2
    assert result.score == pytest.approx(float(quadratic(result.actions[None])[0]), abs=1e-5)
    assert quadratic(np.zeros((1, 4, 2)))[0] < -1.4


def test_a_seed_decides_everything(config: SearchConfig) -> None:
    first, again, other = (make_search(replace(config, seed=seed), 2).optimise(quadratic).actions for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_warm_start_is_tried_itself(config: SearchConfig) -> None:
    seen: list[Array] = []

    def watch(actions: Array) -> Array:
        seen.append(actions)
        return quadratic(actions)

    make_search(config, 2).optimise(watch, GOAL)
    np.testing.assert_array_equal(seen[0][0], GOAL)
    with pytest.raises(RoboAlignError, match="warm start"):
        make_search(config, 2).optimise(quadratic, np.zeros((4, 3)))


def test_a_budget_ends_the_search_with_the_best_so_far(config: SearchConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only the objective moves: rounds of 20 ms."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def slow(actions: Array) -> Array:
        clock[0] += 0.02
        return quadratic(actions)

    def rounds(budget: float) -> int:
        return len(make_search(replace(config, budget_ms=budget), 2).optimise(slow).history)

    assert [rounds(budget) for budget in (1.0, 39.0, 41.0, 90.0, 1000.0, 0.0)] == [1, 1, 2, 4, 12, 12]
    result = make_search(replace(config, budget_ms=90.0), 2).optimise(slow)
    assert result.score > quadratic(np.zeros((1, 4, 2)))[0]


def test_never_answers_outside_of_the_allowed_range(config: SearchConfig) -> None:
    """Not even by rounding, where all good candidates lie at the border."""
    config = replace(config, candidates=4096, std=5.0, iterations=2)
    assert np.abs(make_search(config, 2).optimise(lambda actions: actions.sum((1, 2))).actions).max() <= 1


@pytest.mark.parametrize(("colour", "neighbours"), [(0.0, (-0.02, 0.02)), (2.0, (0.5, 0.95))])
@pytest.mark.parametrize("horizon", [1, 2, 7, 8])
def test_coloured_noise_is_as_wide_as_asked(colour: float, neighbours: tuple[float, float], horizon: int) -> None:
    noise = ICEM(ICEMConfig(horizon=horizon, colour=colour), 2)._noise(40_000)
    assert noise.shape == (40_000, horizon, 2)
    np.testing.assert_allclose(noise.std(0), 1, atol=0.02)
    if horizon > 2:
        found = [np.corrcoef(noise[:, step, 0], noise[:, step + 1, 0])[0, 1] for step in range(horizon - 1)]
        assert neighbours[0] <= min(found)
        assert max(found) <= neighbours[1]


def test_icem_asks_for_fewer_candidates_from_round_to_round() -> None:
    objective = Counting()
    make_search(ICEMConfig(64, 4, 4, shrink=2.0, elites=8, answer="best"), 2).optimise(objective)
    assert objective.batches == [64, 32, 16, 16]


def test_candidates_may_shrink_for_ever() -> None:
    assert make_search(ICEMConfig(8, 4, 5, shrink=1e200, elites=2), 2).optimise(quadratic).scores.shape == (4,)


def test_mppi_weighs_by_score_whatever_its_unit() -> None:
    def plan(scale: float, temperature: float) -> Array:
        config = MPPIConfig(256, 4, 1, temperature=temperature)
        return make_search(config, 2).optimise(lambda actions: scale * quadratic(actions)).actions

    np.testing.assert_allclose(plan(1000.0, 0.5), plan(1.0, 0.5), atol=1e-4)
    sharp, flat = (float(quadratic(plan(1.0, temperature)[None])[0]) for temperature in (0.3, 100.0))
    assert sharp > flat + 0.1
    same = make_search(MPPIConfig(16, 4, 2), 2).optimise(lambda actions: np.zeros(len(actions)))
    assert np.isfinite(same.actions).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MPPIConfig(temperature=0.0), "temperature"),
        (lambda: ICEMConfig(shrink=0.5), "shrink"),
        (lambda: ICEMConfig(colour=-1.0), "colour"),
        (lambda: CEMConfig(seed=-1), "seed"),
        (lambda: CEMConfig(budget_ms=float("nan")), "budget_ms"),
        (lambda: search_config({"name": "best"}), r"\(cem, icem, mppi\), found 'best'"),
        (lambda: search_config({}), r"\(cem, icem, mppi\), found None"),
        (lambda: search_config("icem"), r"found 'icem'; choose one with planner=NAME, in a study with planner@study"),
        (lambda: search_config({"name": "mppi", "elites": 3}), "planner mppi: .*elites"),
        (lambda: search_config({"name": "cem", "horizon": "far"}), "planner cem: .*far"),
        (lambda: make_search(SearchConfig(), 2), "expected a configuration of cem, icem, mppi"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        make()
