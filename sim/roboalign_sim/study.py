"""``roboalign evaluate study=closed_loop``: does planning in imagination solve tasks, and against what?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from rich.progress import track

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.statistics import paired_difference, wilson
from roboalign_core.evaluation.study import Study
from roboalign_core.planning import (
    OBJECTIVES,
    ImaginationServer,
    SearchConfig,
    load_objective,
    make_search,
    objective_config,
    search_config,
)
from roboalign_core.world_model import WorldModel
from roboalign_core.world_model.rollout import Order
from roboalign_sim.closed_loop import EpisodeResult, PolicyResults, run_episode
from roboalign_sim.oracle import OraclePlanner, shifted
from roboalign_sim.policies import Policy, make_policy
from roboalign_sim.registry import make_env


@dataclass
class ClosedLoopConfig:
    """Settings.

    Attributes:
        env: environment.
        world_model: bundled name or folder.
        policies: of ``planner``, ``progress``, ``student``, ``both`` (the planner with that objective), ``oracle`` (the
            true simulator in place of the world model), ``random``, ``expert``. Each is compared with those after it.
        episodes: episodes of each policy, on the same scenes.
        replan_every: steps that are taken of a plan, at most its horizon.
        order: decoding order.
        seed: of the first scene; the training episodes have other seeds.
        planner: method and settings of planners and oracle.
        objective: what planners maximise; a policy named after an objective has that one, with these settings.
    """

    env: str = "tabletop"
    world_model: str = "tabletop"
    policies: list[str] = field(default_factory=lambda: ["planner", "random"])
    episodes: int = 24
    replan_every: int = 3
    order: str = "frame"
    seed: int = 100_000
    planner: Any = field(default_factory=lambda: {"name": "cem"})
    objective: Any = field(default_factory=lambda: {"name": "progress"})

    def __post_init__(self) -> None:
        for name, low in (("episodes", 1), ("seed", 0)):
            if getattr(self, name) < low:
                raise RoboAlignError(f"study.{name}: expected at least {low}, found {getattr(self, name)}")
        horizon = search_config(self.planner).horizon
        if not 1 <= self.replan_every <= horizon:
            raise RoboAlignError(
                f"study.replan_every: expected 1 to the planner's horizon ({horizon}), found {self.replan_every}"
            )


class ImaginationPlanner:
    """A policy that plans in imagination and never looks at the simulator's state."""

    def __init__(self, server: ImaginationServer, config: SearchConfig, action_dim: int, replan_every: int) -> None:
        self._server, self._config, self._action_dim, self._replan_every = server, config, action_dim, replan_every
        self.seconds: list[float] = []

    def reset(self, seed: int) -> None:
        """Begin an episode."""
        self._search = make_search(replace(self._config, seed=seed), self._action_dim)
        self._plan: npt.NDArray[np.float32] | None = None
        self._used = 0

    def act(self, observation: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> npt.NDArray[np.float32]:
        """The next action."""
        if self._plan is None:
            self._server.reset(observation, info["instruction"])
        else:
            self._server.observe(observation)
        if self._plan is None or self._used == self._replan_every:
            began = time.perf_counter()
            rest = None if self._plan is None else shifted(self._plan, self._used)
            self._plan, self._used = self._search.optimise(self._server.score, rest).actions, 0
            self.seconds.append(time.perf_counter() - began)
        action: npt.NDArray[np.float32] = self._plan[self._used]
        self._used += 1
        return action


def study(config: ClosedLoopConfig, out: str) -> Mapping[str, Any]:
    """Run every policy on the same scenes and instructions, and compare them scene by scene."""
    env = make_env(config.env)
    try:
        policies = {name: _policy(name, config, env) for name in config.policies}
        results = _run(policies, env, config)
    finally:
        env.close()
    figures: dict[str, Any] = {"episodes": config.episodes}
    for name, policy in policies.items():
        episodes = results[name].episodes
        figures |= wilson(sum(episode.success for episode in episodes), len(episodes)).as_results(f"{name}_success")
        if isinstance(policy, ImaginationPlanner):
            figures[f"{name}_replan_ms_median"] = float(np.median(policy.seconds)) * 1000
    return {**figures, **_differences(results), "detail": {name: _detail(results[name]) for name in results}}


def _run(policies: Mapping[str, Policy], env: Any, config: ClosedLoopConfig) -> dict[str, PolicyResults]:
    """Scene by scene, each policy in turn, so that whatever else the machine does slows all of them alike."""
    instructions = getattr(env.unwrapped, "instructions", None)
    results: dict[str, list[EpisodeResult]] = {name: [] for name in policies}
    for index in track(range(config.episodes), ", ".join(policies)):
        instruction = instructions[index % len(instructions)] if instructions else None
        for name, policy in policies.items():
            results[name].append(run_episode(env, policy, config.seed + index, instruction))
    return {name: PolicyResults(tuple(episodes)) for name, episodes in results.items()}


def _detail(results: PolicyResults) -> dict[str, Any]:
    keys = ("seed", "instruction", "success", "steps", "progress")
    rows = [{key: getattr(episode, key) for key in keys} for episode in results.episodes]
    return {"instructions": results.by_instruction(), "episodes": rows}


def _differences(results: Mapping[str, PolicyResults]) -> dict[str, float]:
    """Of each policy and every later one: how much more often the former succeeds, with an interval over scenes."""
    figures: dict[str, float] = {}
    for ours, theirs in combinations(results, 2):
        success = ([float(each.success) for each in results[name].episodes] for name in (ours, theirs))
        figures |= paired_difference(*success).as_results(f"{ours}_minus_{theirs}_success")
    return figures


def _policy(name: str, config: ClosedLoopConfig, env: Any) -> Policy:
    search = search_config(config.planner)
    if name == "planner" or name in OBJECTIVES:
        objective = objective_config(config.objective)
        if name != "planner":
            objective = objective_config({**config.objective, "name": name})  # the usual weights are those of the name
        model = WorldModel.from_pretrained(config.world_model)
        judge = load_objective(objective, model, config.world_model)
        server = ImaginationServer(model, judge, cast(Order, config.order))
        return ImaginationPlanner(server, search, model.config.action_dim, config.replan_every)
    if name == "oracle":
        if config.env != "tabletop":
            raise RoboAlignError(f"policy oracle: expected env tabletop, found {config.env!r}")
        return OraclePlanner(env.unwrapped, search, config.replan_every)
    return make_policy(name)


STUDY = Study("closed_loop", ClosedLoopConfig, study)
