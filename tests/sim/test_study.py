"""The closed-loop study, on policies that need no weights, and its planner on weights that know nothing."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import CEMConfig
from roboalign_sim.study import ClosedLoopConfig, ImaginationPlanner, study

CEM = CEMConfig(candidates=8, horizon=4, iterations=1, elites=2)


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
    frame = np.zeros((64, 64, 3), np.uint8)
    actions = [planner.act(frame, {"instruction": "go"}) for _ in range(5)]
    assert server.calls == ["reset go", "observe", "observe", "observe", "observe"], "an objective may want every frame"
    assert np.mean([action[0] for action in actions]) > 0.2
    assert len(planner.seconds) == 3


def test_unknown_policy_is_refused() -> None:
    with pytest.raises(RoboAlignError, match="policy"):
        study(ClosedLoopConfig(policies=["wizard"], episodes=1), "unused")


def test_oracle_plans_on_the_table_top_only() -> None:
    with pytest.raises(RoboAlignError, match="oracle"):
        study(ClosedLoopConfig(env="robosuite_lift", policies=["oracle"], episodes=1), "unused")
