"""How well the scripts do, and that a seed decides what they do."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import CEMConfig
from roboalign_sim import make_env
from roboalign_sim.closed_loop import evaluate_policy, run_episode
from roboalign_sim.oracle import OraclePlanner
from roboalign_sim.policies import POLICIES, make_policy
from roboalign_sim.tasks import INSTRUCTIONS


def _small():
    return make_env("tabletop", size=16)


def test_the_expert_succeeds_at_every_instruction():
    results = evaluate_policy(_small, make_policy("expert"), range(100, 136), INSTRUCTIONS)
    assert results.success_rate >= 0.9
    assert min(results.by_instruction().values()) >= 0.6
    assert set(results.by_instruction()) == set(INSTRUCTIONS)


def test_random_motion_seldom_succeeds():
    results = evaluate_policy(_small, make_policy("random"), range(36), INSTRUCTIONS)
    assert results.success_rate <= 0.15


def test_the_noisy_expert_lies_between():
    results = evaluate_policy(_small, make_policy("noisy"), range(36), INSTRUCTIONS)
    assert 0.3 <= results.success_rate <= 0.95


def test_the_contact_policy_keeps_objects_moving():
    env = make_env("tabletop", size=16, terminate_on_success=False)
    policy, moving = make_policy("contact"), []
    for seed in range(8):
        places = []
        run_episode(
            env,
            policy,
            seed,
            on_step=lambda _, info, places=places: places.append(
                np.concatenate([info["state"][name][:2] for name in ("red_cube", "blue_cylinder")])
            ),
        )
        moving.append(np.abs(np.diff(places, axis=0)).max(1) > 0.002)
    assert np.mean(moving) > 0.25
    env.close()


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_seed_decides_the_actions(name):
    env, policy = _small(), make_policy(name)
    first = run_episode(env, policy, 3)
    again = run_episode(env, policy, 3)
    other = run_episode(env, policy, 4)
    np.testing.assert_array_equal(first.actions, again.actions)
    assert first.actions.dtype == np.float32
    assert np.abs(first.actions).max() <= 1
    assert first.actions.shape != other.actions.shape or not np.array_equal(first.actions, other.actions)
    env.close()


def test_run_episode_keeps_frames_on_request():
    env = _small()
    result = run_episode(env, make_policy("random"), 0, "reach the red cube", keep_frames=True)
    assert result.instruction == "reach the red cube"
    assert result.frames.shape == (result.steps + 1, 16, 16, 3)
    assert run_episode(env, make_policy("random"), 0).frames is None
    env.close()


def test_a_policy_that_returns_no_action_is_refused():
    class Broken:
        def reset(self, seed):
            pass

        def act(self, observation, info):
            return np.full(3, np.nan, np.float32)

    with pytest.raises(RoboAlignError, match="finite"):
        evaluate_policy(_small, Broken(), [0])


def test_unknown_policies_and_no_seeds_are_refused():
    with pytest.raises(RoboAlignError, match="policy: expected"):
        make_policy("genius")
    with pytest.raises(RoboAlignError, match="at least one seed"):
        evaluate_policy(_small, make_policy("random"), [])


@pytest.mark.slow
def test_planning_with_the_simulator_itself_succeeds():
    """The ceiling of planning here: progress misleads no planner of a short horizon, for any instruction."""
    env = _small()
    planner = OraclePlanner(env, CEMConfig(candidates=64, horizon=8, iterations=3, elites=8))
    results = [run_episode(env, planner, 300 + k, instruction) for k, instruction in enumerate(INSTRUCTIONS)]
    assert sum(result.success for result in results) >= 11
    env.close()
