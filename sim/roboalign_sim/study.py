"""``roboalign evaluate study=closed_loop``: does planning in imagination solve tasks, and against what?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from rich.progress import track

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.statistics import wilson
from roboalign_core.evaluation.study import Study
from roboalign_core.planning import ImaginationServer, SearchConfig, make_search, search_config
from roboalign_core.reward import ProgressModel
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
        world_model: bundled name or folder, with its progress head.
        policies: of ``planner``, ``oracle`` (the true simulator in place of the world model), ``random``, ``expert``.
        episodes: episodes of each policy, on the same scenes.
        replan_every: steps that are taken of a plan.
        order: decoding order.
        seed: of the first scene; the training episodes have other seeds.
        planner: method and settings of planner and oracle.
    """

    env: str = "tabletop"
    world_model: str = "tabletop"
    policies: list[str] = field(default_factory=lambda: ["planner", "random"])
    episodes: int = 24
    replan_every: int = 3
    order: str = "frame"
    seed: int = 100_000
    planner: Any = field(default_factory=lambda: {"name": "cem"})


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
        if self._plan is None or self._used == self._replan_every:
            began = time.perf_counter()
            self._server.observe(observation)
            rest = None if self._plan is None else shifted(self._plan, self._used)
            self._plan, self._used = self._search.optimise(self._server.score, rest).actions, 0
            self.seconds.append(time.perf_counter() - began)
        action: npt.NDArray[np.float32] = self._plan[self._used]
        self._used += 1
        return action


def study(config: ClosedLoopConfig, out: str) -> Mapping[str, Any]:
    """Run every policy on the same scenes and instructions."""
    figures: dict[str, Any] = {"episodes": config.episodes}
    detail: dict[str, Any] = {}
    for name in config.policies:
        env = make_env(config.env)
        try:
            policy = _policy(name, config, env)
            results = _run(name, policy, env, config)
        finally:
            env.close()
        rate = wilson(sum(episode.success for episode in results.episodes), len(results.episodes))
        figures |= rate.as_results(f"{name}_success")
        detail[name] = results.by_instruction()
        if isinstance(policy, ImaginationPlanner):
            figures["replan_ms_median"] = float(np.median(policy.seconds)) * 1000
    return {**figures, "detail": detail}


def _run(name: str, policy: Policy, env: Any, config: ClosedLoopConfig) -> PolicyResults:
    instructions = getattr(env.unwrapped, "instructions", None)
    results: list[EpisodeResult] = []
    for index in track(range(config.episodes), name):
        instruction = instructions[index % len(instructions)] if instructions else None
        results.append(run_episode(env, policy, config.seed + index, instruction))
    return PolicyResults(tuple(results))


def _policy(name: str, config: ClosedLoopConfig, env: Any) -> Policy:
    search = search_config(config.planner)
    if name == "planner":
        model = WorldModel.from_pretrained(config.world_model)
        server = ImaginationServer(model, ProgressModel.from_pretrained(config.world_model), cast(Order, config.order))
        return ImaginationPlanner(server, search, model.config.action_dim, config.replan_every)
    if name == "oracle":
        if config.env != "tabletop":
            raise RoboAlignError(f"policy oracle: expected env tabletop, found {config.env!r}")
        return OraclePlanner(env.unwrapped, search, config.replan_every)
    return make_policy(name)


STUDY = Study("closed_loop", ClosedLoopConfig, study)
