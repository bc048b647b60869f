"""A policy and an environment together: one episode, or many with a success rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError
from roboalign_sim.policies import Policy


@dataclass(frozen=True, slots=True)
class EpisodeResult:
    """What became of one episode.

    Attributes:
        instruction: the task.
        success: whether any frame fulfilled it.
        steps: actions taken.
        progress: the progress at the end, in [0, 1].
        seed: of the episode.
        frames: (steps + 1, H, W, 3) uint8 if they were asked for.
        actions: (steps, A) float32.
    """

    instruction: str
    success: bool
    steps: int
    progress: float
    seed: int
    frames: npt.NDArray[np.uint8] | None
    actions: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PolicyResults:
    """What became of many episodes."""

    episodes: tuple[EpisodeResult, ...]

    @property
    def success_rate(self) -> float:
        """Share of the episodes that succeeded."""
        return sum(episode.success for episode in self.episodes) / len(self.episodes)

    def by_instruction(self) -> dict[str, float]:
        """The success rate of each instruction that came up."""
        names = sorted({episode.instruction for episode in self.episodes})
        rates = {}
        for name in names:
            chosen = [episode.success for episode in self.episodes if episode.instruction == name]
            rates[name] = sum(chosen) / len(chosen)
        return rates


def run_episode(
    env: gym.Env[Any, Any],
    policy: Policy,
    seed: int,
    instruction: str | None = None,
    keep_frames: bool = False,
    on_step: Callable[[npt.NDArray[np.uint8], Mapping[str, Any]], None] | None = None,
) -> EpisodeResult:
    """One episode, until the environment ends it.

    Args:
        env: an environment of ours; it decides on length and on ending with success.
        policy: what acts; a planner is one, too.
        seed: of the scene and of the policy.
        instruction: the task; drawn by the environment if absent.
        keep_frames: whether the result has the frames.
        on_step: called with each frame and ``info``, the first included.

    Raises:
        RoboAlignError: the instruction is unknown, or the policy returns something that is not an action.
    """
    options = None if instruction is None else {"instruction": instruction}
    frame, info = env.reset(seed=seed, options=options)
    policy.reset(seed)
    success, ended = bool(info["success"]), False
    frames, actions = [frame], list[npt.NDArray[np.float32]]()
    if on_step:
        on_step(frame, info)
    while not ended:
        action = policy.act(frame, info)
        frame, _, terminated, truncated, info = env.step(action)
        success, ended = success or bool(info["success"]), terminated or truncated
        actions.append(action)
        if keep_frames:
            frames.append(frame)
        if on_step:
            on_step(frame, info)
    return EpisodeResult(
        instruction=info["instruction"],
        success=success,
        steps=len(actions),
        progress=float(info["progress"]),
        seed=seed,
        frames=np.stack(frames) if keep_frames else None,
        actions=np.stack(actions),
    )


def evaluate_policy(
    make: Callable[[], gym.Env[Any, Any]],
    policy: Policy,
    seeds: Iterable[int],
    instructions: tuple[str, ...] | None = None,
) -> PolicyResults:
    """One episode per seed, on one environment.

    Args:
        make: makes the environment.
        policy: what acts.
        seeds: one per episode; two policies that get the same seeds and instructions meet the same scenes.
        instructions: taken in turn, so that each comes up equally often; drawn by the environment if absent.

    Raises:
        RoboAlignError: there are no seeds, or see :func:`run_episode`.
    """
    seeds = list(seeds)
    if not seeds:
        raise RoboAlignError("evaluate_policy: expected at least one seed, found none")
    env = make()
    try:
        results = []
        for count, seed in enumerate(seeds):
            instruction = instructions[count % len(instructions)] if instructions else None
            results.append(run_episode(env, policy, seed, instruction))
        return PolicyResults(tuple(results))
    finally:
        env.close()
