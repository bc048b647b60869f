"""The closed-loop study, on policies that need no weights, and its planner on weights that know nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import CEMConfig, SearchConfig, SearchResult
from roboalign_sim.oracle import OraclePlanner, shifted
from roboalign_sim.study import ClosedLoopConfig, ImaginationPlanner, study

CEM = CEMConfig(candidates=8, horizon=4, iterations=1, elites=2)
FRAME = np.zeros((64, 64, 3), np.uint8)


class Compass:
    """Stands in for imagination: the further right the finger goes, the better."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def reset(self, frame: np.ndarray, instruction: str) -> None:
        self.calls.append(f"reset {instruction}")

    def observe(self, frame: np.ndarray) -> None:
        self.calls.append("observe")

    def score(self, actions: np.ndarray) -> np.ndarray:
        return actions[:, :, 0].sum(1)


class Counting:
    """Stands in for a search: its first plan counts 1, 2, 3, …, the next one 11, 12, 13, …"""

    def __init__(self, config: SearchConfig, action_dim: int) -> None:
        self.config, self.action_dim = config, action_dim
        self.starts: list[list[float] | None] = []

    def optimise(self, evaluate: object, warm_start: np.ndarray | None = None) -> SearchResult:
        steps = np.arange(1, self.config.horizon + 1, dtype=np.float32) + 10 * len(self.starts)
        self.starts.append(None if warm_start is None else warm_start[:, 0].tolist())
        plan = np.repeat(steps[:, None], self.action_dim, axis=1)
        return SearchResult(plan, 0.0, np.zeros(1, np.float32), (0.0,))


def test_expert_beats_random_on_the_same_scenes() -> None:
    figures = study(ClosedLoopConfig(policies=["expert", "random"], episodes=12), "unused")
    assert figures["expert_success"] >= 0.8 > figures["random_success"]
    assert figures["expert_success_ci_low"] < figures["expert_success"] <= figures["expert_success_ci_high"]
    assert len(figures["detail"]["expert"]["instructions"]) == 12
    gain = figures["expert_success"] - figures["random_success"]
    assert figures["expert_minus_random_success"] == pytest.approx(gain)
    assert 0.3 < figures["expert_minus_random_success_ci_low"] <= gain <= figures["expert_minus_random_success_ci_high"]


def test_every_policy_meets_the_same_scenes_and_is_compared_with_those_after_it() -> None:
    figures = study(ClosedLoopConfig(policies=["random", "expert", "random"], episodes=3), "unused")
    rows = [figures["detail"][name]["episodes"] for name in ("random", "expert")]
    scenes = [[(row["seed"], row["instruction"]) for row in each] for each in rows]
    assert scenes[0] == scenes[1]
    assert len(set(scenes[0])) == 3
    assert "random_minus_expert_success" in figures
    assert "expert_minus_random_success" not in figures


def test_planner_looks_again_after_so_many_steps() -> None:
    server = Compass()
    planner = ImaginationPlanner(server, CEM, 3, replan_every=2)  # type: ignore[arg-type]
    planner.reset(0)
    actions = [planner.act(FRAME, {"instruction": "go"}) for _ in range(5)]
    assert server.calls == ["reset go", "observe", "observe", "observe", "observe"], "an objective may want every frame"
    assert np.mean([action[0] for action in actions]) > 0.2
    assert len(planner.seconds) == 3


@pytest.mark.parametrize("kind", ["study", "oracle"])
@pytest.mark.parametrize(
    ("every", "actions", "starts"),
    [(2, [1, 2, 11, 12, 21], [None, [3, 4, 0, 0], [13, 14, 0, 0]]), (4, [1, 2, 3, 4, 11], [None, [0, 0, 0, 0]])],
)
def test_steps_of_a_plan_are_taken_in_turn_and_the_rest_starts_the_next_search(
    monkeypatch: pytest.MonkeyPatch, kind: str, every: int, actions: list[float], starts: list[list[float] | None]
) -> None:
    searches: list[Counting] = []

    def make(config: SearchConfig, action_dim: int) -> Counting:
        searches.append(Counting(config, action_dim))
        return searches[-1]

    monkeypatch.setattr(f"roboalign_sim.{kind}.make_search", make)
    planners = {
        "study": ImaginationPlanner(Compass(), CEM, 3, every),  # type: ignore[arg-type]
        "oracle": OraclePlanner(None, CEM, every),  # type: ignore[arg-type]
    }
    planner = planners[kind]
    for seed in (5, 6):  # an episode inherits nothing from the one before
        planner.reset(seed)
        assert [planner.act(FRAME, {"instruction": "go"})[0] for _ in range(5)] == actions
        assert searches[-1].starts == starts
    assert [search.config.seed for search in searches] == [5, 6]


def test_what_is_left_of_a_plan_ends_in_rest() -> None:
    plan = np.arange(1, 9, dtype=np.float32).reshape(4, 2)
    np.testing.assert_array_equal(shifted(plan, 0), plan)
    np.testing.assert_array_equal(shifted(plan, 3), [[7, 8], [0, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(shifted(plan, 4), np.zeros((4, 2)))
    assert shifted(plan, 3).dtype == np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replan_every": 0}, r"study\.replan_every: expected 1 to the planner's horizon \(6\), found 0"),
        ({"replan_every": 7}, r"study\.replan_every: expected 1 to the planner's horizon \(6\), found 7"),
        ({"planner": {"name": "icem", "horizon": 2}}, r"study\.replan_every: .* horizon \(2\), found 3"),
        ({"episodes": 0}, r"study\.episodes: expected at least 1, found 0"),
        ({"seed": -1}, r"study\.seed: expected at least 0, found -1"),
        ({"planner": "cem"}, r"planner@study\.planner=NAME"),
    ],
)
def test_a_study_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        ClosedLoopConfig(**changes)


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(RoboAlignError, match="policy"):
        study(ClosedLoopConfig(policies=["wizard"], episodes=1), "unused")


def test_oracle_plans_on_the_table_top_only() -> None:
    with pytest.raises(RoboAlignError, match="oracle"):
        study(ClosedLoopConfig(env="robosuite_lift", policies=["oracle"], episodes=1), "unused")
