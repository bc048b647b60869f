"""``roboalign plan``: from one image and an instruction to actions, and what they should look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from roboalign_core.evaluation.video import write_mp4
from roboalign_core.images import read_image
from roboalign_core.planning.methods import search_config
from roboalign_core.planning.objectives import load_objective, objective_config
from roboalign_core.planning.planner import Planner
from roboalign_core.verb import Verb
from roboalign_core.world_model.model import WorldModel


@dataclass
class PlanConfig:
    """Settings; ``configs/plan.yaml`` explains each."""

    image: str = MISSING
    instruction: str = MISSING
    reference: str = ""
    seen: list[str] = field(default_factory=list)
    world_model: str = "tabletop"
    out: str = MISSING
    upscale: int = 4
    planner: Any = field(default_factory=lambda: {"name": "cem"})
    objective: Any = field(default_factory=lambda: {"name": "progress"})


def run(config: PlanConfig) -> Mapping[str, Any]:
    """Plan, write the imagined video, and return the actions."""
    search = search_config(config.planner)
    model = WorldModel.from_pretrained(config.world_model)
    objective = load_objective(objective_config(config.objective), model, config.world_model)
    objective.check_instruction(config.instruction)
    frame = read_image(config.image)
    reference = read_image(config.reference) if config.reference else None
    seen = [read_image(path) for path in config.seen]
    plan = Planner(model, objective, search).plan(frame, config.instruction, reference, seen=seen)
    write_mp4(Path(config.out) / "imagined.mp4", plan.frames, model.config.fps, config.upscale)
    return {"score": plan.score, "horizon": len(plan.actions), "detail": {"actions": plan.actions.tolist()}}


VERB = Verb("plan", "plan from one image and an instruction", PlanConfig, run)
