"""The closed-loop study with planners of each objective, on small weights that know nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_world import save_world_model, toy_student

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import Objective, ObjectiveConfig, load_objective
from roboalign_core.reward.model import FOLDER
from roboalign_core.reward.progress import ProgressConfig, ProgressHead, ProgressModel
from roboalign_core.world_model import WorldModel
from roboalign_sim.study import ClosedLoopConfig, _policy, study
from roboalign_sim.tasks import INSTRUCTIONS

CEM = {"name": "cem", "candidates": 4, "horizon": 3, "iterations": 1, "elites": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model of the table-top's actions with head and student, all of random weights."""
    folder = save_world_model(
        tmp_path_factory.mktemp("model"), action_dim=3, action_low=[-1.0] * 3, action_high=[1.0] * 3
    )
    head = ProgressConfig(list(INSTRUCTIONS), cells=16, channels=32, dim=32, state=["x"], width=16, slots=2, hidden=16)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ProgressModel(head, ProgressHead(head)).save_pretrained(folder)
    toy_student().save_pretrained(folder / FOLDER)
    return folder


def test_planners_of_each_objective_are_compared_scene_by_scene(model: Path) -> None:
    names = ["both", "student", "progress"]
    figures = study(ClosedLoopConfig(world_model=str(model), policies=names, episodes=2, planner=CEM), "unused")
    for name in names:
        assert 0 <= figures[f"{name}_success"] <= 1
        assert figures[f"{name}_replan_ms_median"] > 0
    for ours, theirs in (("both", "student"), ("both", "progress"), ("student", "progress")):
        difference = figures[f"{ours}_success"] - figures[f"{theirs}_success"]
        assert figures[f"{ours}_minus_{theirs}_success"] == pytest.approx(difference)
        low, high = (figures[f"{ours}_minus_{theirs}_success_ci_{end}"] for end in ("low", "high"))
        assert low <= difference <= high


def test_the_policy_planner_has_the_objective_of_the_settings(model: Path) -> None:
    config = ClosedLoopConfig(world_model=str(model), policies=["planner"], episodes=1, planner=CEM)
    config.objective = {"name": "both", "reward_model": "nowhere"}
    with pytest.raises(RoboAlignError, match="objective both: model 'nowhere'"):
        study(config, "unused")
    config.objective = "student"
    with pytest.raises(RoboAlignError, match=r"objective@study.objective=NAME"):
        study(config, "unused")


def test_a_policy_named_after_an_objective_has_that_one_and_the_other_settings(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ObjectiveConfig] = []

    def note(config: ObjectiveConfig, world_model: WorldModel, beside: str) -> Objective:
        asked.append(config)
        return load_objective(config, world_model, beside)

    monkeypatch.setattr("roboalign_sim.study.load_objective", note)
    for chosen in ("progress", "both"):
        config = ClosedLoopConfig(world_model=str(model), planner=CEM, objective={"name": chosen, "finalists": 3})
        for name in ("planner", "progress", "student", "both"):
            _policy(name, config, None)
        names = (chosen, "progress", "student", "both")
        assert asked == [ObjectiveConfig(name, finalists=3) for name in names], "usual weights are those of the name"
        asked.clear()
