"""robosuite's Lift behind our interface."""

from __future__ import annotations

import logging

import numpy as np
import pytest

pytest.importorskip("robosuite", reason="needs the extra sim")

from gymnasium.utils.env_checker import check_env

from roboalign_core.errors import MissingExtraError, RoboAlignError
from roboalign_sim import make_env
from roboalign_sim.closed_loop import run_episode
from roboalign_sim.collect import CollectConfig, collect_episodes
from roboalign_sim.robosuite import INSTRUCTION, STATE_NAMES, LiftExpert, state_vector


@pytest.fixture(scope="module")
def env():
    made = make_env("robosuite_lift", masks=True)
    yield made
    made.close()


def test_gymnasium_accepts_it(env):
    check_env(env, skip_render_check=True)


def test_the_expert_lifts_the_cube(env):
    expert = LiftExpert()
    results = [run_episode(env, expert, seed, INSTRUCTION) for seed in range(4)]
    assert sum(result.success for result in results) >= 3
    assert all(result.progress > 0.9 for result in results if result.success)


def test_a_seed_decides_the_episode(env):
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 4)).astype(np.float32)
    runs = []
    for seed in (1, 1, 2):
        frames = [env.reset(seed=seed)[0]]
        for action in actions:
            frame, *_, info = env.step(action)
            frames.append(frame)
        runs.append((np.stack(frames), state_vector(info["state"])))
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert not np.array_equal(runs[0][1], runs[2][1])


def test_info_is_that_of_our_environments(env):
    frame, info = env.reset(seed=0)
    assert frame.shape == (64, 64, 3)
    assert info["instruction"] == INSTRUCTION
    assert info["success"] is False
    assert 0 <= info["progress"] <= 1
    assert state_vector(info["state"]).shape == (len(STATE_NAMES),)
    red, green, _ = frame[info["masks"]["cube"]].mean(0)
    assert red > 2 * green
    assert info["masks"]["finger"].any()


@pytest.mark.parametrize("action", [np.full(4, np.nan, np.float32), np.zeros(3, np.float32), np.zeros(4, np.int64)])
def test_a_bad_action_is_refused(env, action):
    env.reset(seed=0)
    with pytest.raises(RoboAlignError, match="action: expected"):
        env.step(action)


@pytest.mark.parametrize("instruction", ["", "push the red cube left"])
def test_an_unknown_instruction_is_refused(env, instruction):
    with pytest.raises(RoboAlignError, match=INSTRUCTION):
        env.reset(seed=0, options={"instruction": instruction})


def test_collecting_works():
    config = CollectConfig(out="unused", env="robosuite_lift", episodes=1, workers=1, steps=6)
    (episode,) = collect_episodes(config)
    assert episode.frames.shape == (6, 64, 64, 3)
    assert episode.extras["observation.state"].shape == (6, len(STATE_NAMES))
    assert episode.source == "robosuite_lift"


def test_it_is_quiet(caplog, capfd):
    with caplog.at_level(logging.INFO):
        make_env("robosuite_lift").close()
    assert not caplog.records
    assert "robosuite" not in capfd.readouterr().err
    assert logging.root.manager.disable == logging.NOTSET


def test_without_robosuite_the_error_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "robosuite", None)
    with pytest.raises(MissingExtraError, match=r'pip install "roboalign\[sim\]"'):
        make_env("robosuite_lift")
