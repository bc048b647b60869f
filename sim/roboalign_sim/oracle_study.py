"""``roboalign evaluate study=oracle``: does the state oracle rank scripted successes above scripted failures?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.progress import track

from roboalign_core.benchmark.oracles import EXACT, READ, StateOracle, load_oracle
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.evaluation.statistics import bootstrap_mean, wilson
from roboalign_core.evaluation.study import Study
from roboalign_core.rubric import HIGHEST, KEYS
from roboalign_sim import robosuite, tabletop
from roboalign_sim.closed_loop import run_episode
from roboalign_sim.policies import Policy
from roboalign_sim.recording import recorder
from roboalign_sim.registry import make_env

_SMALLEST = 16  # pixels, where nobody looks at the frames
_PHYSICAL = slice(2, 6)
_STATE_VECTORS: dict[str, Callable[..., npt.NDArray[np.float32]]] = {
    "tabletop": tabletop.state_vector,
    "robosuite_lift": robosuite.state_vector,
}

Array = npt.NDArray[np.floating]


@dataclass
class OracleConfig:
    """Settings.

    Attributes:
        env: environment.
        success: the policy that succeeds.
        failures: policies that fail, each in its own way, on the same scenes and instructions.
        scenes: how many; each is acted in by every policy.
        steps: frames per episode.
        probe: bundled name or folder of a model with a state probe: the oracle then judges what it reads from the
            frames; none: the simulator's own states.
        seed: of the first scene; the training episodes have other seeds.
    """

    env: str = "tabletop"
    success: str = "expert"
    failures: list[str] = field(default_factory=lambda: ["wrong_object", "no_contact", "incomplete"])
    scenes: int = 48
    steps: int = 30
    probe: str = ""
    seed: int = 300_000


@dataclass(frozen=True, slots=True)
class _Judged:
    """An episode of a policy: what the environment says about its end, and what the oracle says about it."""

    policy: str
    scene: int
    success: bool
    scores: npt.NDArray[np.float32]


def study(config: OracleConfig, out: str) -> Mapping[str, Any]:
    """Judge every policy on the same scenes.

    A pair is one scene's success and one of its failures, as the environment itself decides at the end of the episode.
    Intervals are over scenes.
    """
    judged = _judge_all(config)
    figures: dict[str, Any] = {"episodes": len(judged), "scenes": config.scenes}
    pairs = {name: _ordered(judged, config.success, name) for name in config.failures}
    by_scene: dict[int, list[float]] = {}
    for ordered in pairs.values():
        for scene, value in ordered.items():
            by_scene.setdefault(scene, []).append(value)
    if by_scene:
        figures |= bootstrap_mean([float(np.mean(v)) for v in by_scene.values()]).as_results("ordered_share")
    for name, ordered in pairs.items():
        figures[f"{name}_pairs"] = len(ordered)
        if ordered:
            figures |= bootstrap_mean(list(ordered.values())).as_results(f"{name}_ordered_share")
    full = [bool((one.scores[_PHYSICAL] == HIGHEST[_PHYSICAL]).all()) for one in judged]
    figures |= wilson(sum(full), len(full)).as_results("physical_full_share")
    agrees = [bool((one.scores[1] == HIGHEST[1]) == one.success) for one in judged]
    figures |= wilson(sum(agrees), len(agrees)).as_results("success_agreement")
    missing = [name for name, ordered in pairs.items() if not ordered]
    if missing:
        figures["missing"] = dict.fromkeys(missing, "no scene with a success and this failure")
    return {**figures, "detail": _means(judged)}


def _judge_all(config: OracleConfig) -> list[_Judged]:
    oracle, probe = _oracle(config), StateProbe.from_pretrained(config.probe) if config.probe else None
    policies = _policies(config)
    size = probe.config.height if probe else _SMALLEST
    if probe and tuple(probe.config.columns) != oracle.columns:
        raise RoboAlignError(f"study.probe: expected the columns {oracle.columns}, found {probe.config.columns}")
    env = make_env(config.env, size=size, max_steps=config.steps - 1, terminate_on_success=False)
    try:
        instructions = oracle.instructions
        return [
            _judge(oracle, probe, env, name, policy, config.seed + scene, instructions[scene % len(instructions)])
            for scene in track(range(config.scenes), "oracle")
            for name, policy in policies.items()
        ]
    finally:
        env.close()


def _judge(
    oracle: StateOracle, probe: StateProbe | None, env: Any, name: str, policy: Policy, seed: int, instruction: str
) -> _Judged:
    states, success, to_row = list[Array](), list[bool](), _STATE_VECTORS[oracle.source]

    def keep(_: npt.NDArray[np.uint8], info: Mapping[str, Any]) -> None:
        states.append(to_row(info["state"]))
        success.append(bool(info["success"]))

    result = run_episode(env, policy, seed, instruction, keep_frames=probe is not None, on_step=keep)
    if probe is None or result.frames is None:
        rows, tolerance = np.stack(states), EXACT
    else:
        rows, tolerance = probe.read(result.frames), READ
    scores = oracle.score_states(rows, result.actions, instruction, tolerance)
    return _Judged(name, seed, success[-1], scores)


def _oracle(config: OracleConfig) -> StateOracle:
    oracle = load_oracle(config.env)
    if oracle is None:
        raise RoboAlignError(f"study.env: expected an environment with an oracle, found {config.env!r}")
    for name, low in (("scenes", 1), ("steps", 2)):
        if getattr(config, name) < low:
            raise RoboAlignError(f"study.{name}: expected at least {low}, found {getattr(config, name)}")
    return oracle


def _policies(config: OracleConfig) -> dict[str, Policy]:
    known, names = recorder(config.env).policies, [config.success, *config.failures]
    if not config.failures or len(set(names)) < len(names) or not known.keys() >= set(names):
        raise RoboAlignError(
            f"study.success and study.failures: expected different ones of {sorted(known)}, found {names}"
        )
    return {name: known[name]() for name in names}


def _ordered(judged: list[_Judged], success: str, failure: str) -> dict[int, float]:
    """Scene → 1 where the success has the higher total, 0 where not; scenes in which both did what they are for."""
    good = {one.scene: one for one in judged if one.policy == success and one.success}
    bad = {one.scene: one for one in judged if one.policy == failure and not one.success}
    return {scene: float(good[scene].scores.sum() > bad[scene].scores.sum()) for scene in sorted(good.keys() & bad)}


def _means(judged: list[_Judged]) -> dict[str, dict[str, float]]:
    """Each policy's mean scores, total and share of successes."""
    detail: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(one.policy for one in judged):
        mine = [one for one in judged if one.policy == name]
        means = np.mean([one.scores for one in mine], axis=0)
        detail[name] = {key: float(mean) for key, mean in zip(KEYS, means, strict=True)}
        detail[name] |= {"total": float(means.sum()), "success": float(np.mean([one.success for one in mine]))}
    return detail


STUDY = Study("oracle", OracleConfig, study)
