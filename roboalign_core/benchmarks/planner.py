"""How long one decision takes: search, imagination and objective together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from roboalign_core.benchmarks.timing import timed
from roboalign_core.planning import ImaginationServer, ObjectiveConfig, SearchConfig, load_objective, make_search
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Order

_INSTRUCTION = "push the red cube left"  # where the objective takes any


def plan(
    name: str, search: SearchConfig, objective: ObjectiveConfig, order: str, repeats: int, device: str
) -> Mapping[str, Any]:
    """Time a whole decision, from a fresh frame to actions, in an episode whose first frame was seen before."""
    world_model = WorldModel.from_pretrained(name, device)
    judge = load_objective(objective, world_model, name)
    server = ImaginationServer(world_model, judge, cast(Order, order))
    frame = np.random.default_rng(search.seed).integers(0, 256, (*world_model.config.image_size, 3), dtype=np.uint8)
    server.reset(frame, judge.instructions[0] if judge.instructions else _INSTRUCTION)

    def decide() -> None:
        server.observe(frame)
        make_search(search, world_model.config.action_dim).optimise(server.score)

    timing = timed(decide, repeats, world_model.device)
    return {
        "replan_ms_median": timing.median * 1000,
        "replan_ms_q25": timing.low * 1000,
        "replan_ms_q75": timing.high * 1000,
        "candidates": search.candidates,
        "horizon": search.horizon,
        "iterations": search.iterations,
        "objective": objective.name,
    }
