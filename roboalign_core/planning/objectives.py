"""Which objectives there are, by name, and where their weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning.objective import (
    JOINT_WEIGHTS,
    PAST,
    TASK_WEIGHTS,
    JointObjective,
    Objective,
    ProgressObjective,
    StudentObjective,
    check_finishers,
    check_joint,
    check_student,
)
from roboalign_core.reward.model import RewardModel
from roboalign_core.reward.progress import ProgressModel
from roboalign_core.world_model.model import WorldModel

OBJECTIVES = ("progress", "student", "both")


@dataclass
class ObjectiveConfig:
    """What is maximised.

    Attributes:
        name: ``progress`` (head on hidden states), ``student`` (reward model on imagined videos) or ``both``.
        progress_model: bundled name, folder or hub id of the progress head; empty: beside the world model.
        reward_model: of the student, likewise.
        weights: of the student's dimensions by key, as shares of their highest scores; those left out count nothing.
            None at all: the usual ones, what came of the task for ``student`` and all six alike for ``both``.
        past: frames seen, the newest, that the student's videos begin with; 0: the whole episode.
        finishers: share of the candidates that are imagined to the end, the best by progress on the way; 1: all. Where
            the student alone judges, all are.
        worth: progress that the student's best opinion counts as in ``both``.
        finalists: of the candidates that are imagined at once, so many, the best by progress, are drawn and shown to
            the student by ``both``, at most.
    """

    name: str = "progress"
    progress_model: str = ""
    reward_model: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    past: int = PAST
    finishers: float = 1.0
    worth: float = 0.3
    finalists: int = 16

    def __post_init__(self) -> None:
        if self.name not in OBJECTIVES:
            raise RoboAlignError(f"objective: expected one of {', '.join(OBJECTIVES)}, found {self.name!r}")
        self.weights = self.weights or dict(JOINT_WEIGHTS if self.name == "both" else TASK_WEIGHTS)
        check_student(self.weights, self.past)
        check_finishers(self.finishers)
        check_joint(self.worth, self.finalists)


def objective_config(settings: Mapping[str, Any]) -> ObjectiveConfig:
    """From a node of ``configs/objective/``: ``name`` and what of the settings it states.

    Raises:
        RoboAlignError: unknown names, or values of the wrong type.
    """
    if not isinstance(settings, Mapping):
        raise RoboAlignError(
            f"objective: expected a node of configs/objective/ ({', '.join(OBJECTIVES)}), found {settings!r}; choose "
            "one with objective=NAME, in a study with objective@study.objective=NAME"
        )
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ObjectiveConfig), dict(settings)))
    except OmegaConfBaseException as error:
        raise RoboAlignError(f"objective: {' '.join(str(error).split())}") from error
    assert isinstance(config, ObjectiveConfig)
    return config


def load_objective(config: ObjectiveConfig, world_model: WorldModel, beside: str) -> Objective:
    """The objective that a configuration is of, with its weights, on the world model's device.

    Args:
        config: which one.
        world_model: whose futures are scored.
        beside: bundled name, folder or hub id of the world model, where weights lie that ``config`` does not name.

    Raises:
        RoboAlignError: weights are missing, or were made for another world model.
    """
    if config.name == "progress":
        return _progress(config, world_model, beside)
    student = _student(config, world_model, beside)
    if config.name == "student":
        return student
    return JointObjective(_progress(config, world_model, beside), student, config.worth, config.finalists)


def _progress(config: ObjectiveConfig, world_model: WorldModel, beside: str) -> ProgressObjective:
    model = ProgressModel.from_pretrained(config.progress_model or beside, world_model.device)
    return ProgressObjective(world_model, model, config.finishers)


def _student(config: ObjectiveConfig, world_model: WorldModel, beside: str) -> StudentObjective:
    try:
        model = RewardModel.from_pretrained(config.reward_model or beside, world_model.device)
    except RoboAlignError as error:
        raise RoboAlignError(
            f"objective {config.name}: {error}; train a student with `roboalign train stage=reward` and name it as "
            "reward_model, or choose the objective progress"
        ) from error
    return StudentObjective(model, config.weights, config.past)
