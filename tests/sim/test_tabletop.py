"""The table-top environment: gymnasium's API, determinism, state, masks, bad input."""

from __future__ import annotations

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from roboalign_core.errors import RoboAlignError
from roboalign_sim import make_env, scene
from roboalign_sim.tabletop import STATE_NAMES, STEP_METRES, state_from_vector, state_vector
from roboalign_sim.tasks import INSTRUCTIONS, is_success


@pytest.fixture(scope="module")
def env():
    made = make_env("tabletop", terminate_on_success=False)
    yield made
    made.close()


@pytest.fixture(scope="module")
def actions():
    return np.random.default_rng(0).uniform(-1, 1, (8, 3)).astype(np.float32)


def _run(env, seed, actions):
    frames = [env.reset(seed=seed)[0]]
    infos = []
    for action in actions:
        frame, *_, info = env.step(action)
        frames.append(frame)
        infos.append(info)
    return np.stack(frames), infos


def test_gymnasium_accepts_it():
    made = gym.make("RoboAlign/Tabletop-v0")
    check_env(made.unwrapped, skip_render_check=False)
    made.close()


def test_a_seed_decides_the_episode(env, actions):
    frames, infos = _run(env, 5, actions)
    again, infos_again = _run(env, 5, actions)
    other, _ = _run(env, 6, actions)
    np.testing.assert_array_equal(frames, again)
    np.testing.assert_array_equal(state_vector(infos[-1]["state"]), state_vector(infos_again[-1]["state"]))
    assert np.abs(frames.astype(int) - other).max() > 50


def test_another_environment_of_the_same_seed_agrees(env, actions):
    made = make_env("tabletop", terminate_on_success=False)
    np.testing.assert_array_equal(_run(env, 5, actions)[0], _run(made, 5, actions)[0])
    made.close()


def test_a_restored_state_continues_alike(env, actions):
    env.reset(seed=3)
    env.step(actions[0])
    snapshot = env.get_state()
    first = [env.step(action) for action in actions]
    env.reset(seed=4)
    env.set_state(snapshot)
    second = [env.step(action) for action in actions]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        assert a[1:4] == b[1:4]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_action_moves_the_finger_by_its_scale(env, axis):
    _, info = env.reset(seed=11)
    before = info["state"]["finger"]
    sign = -1.0 if before[axis] > (0.055 if axis == 2 else 0.0) else 1.0
    action = np.zeros(3, np.float32)
    action[axis] = sign * 0.5
    env.step(np.array([0, 0, 1], np.float32) * (axis != 2))  # above the objects, so that nothing is in the way
    before = env.state()["finger"]
    moved = env.step(action)[-1]["state"]["finger"] - before
    assert moved[axis] == pytest.approx(sign * 0.5 * STEP_METRES, abs=0.002)


def test_the_finger_stays_in_its_workspace(env):
    env.reset(seed=0)
    for _ in range(20):
        env.step(np.ones(3, np.float32))
    x, y, z = env.state()["finger"]
    assert max(x, y) <= scene.FINGER_XY_LIMIT + 0.002
    assert z <= scene.FINGER_Z_RANGE[1] + 0.002


def test_an_object_moves_with_the_finger_and_stops_with_it(env):
    state = _push_right(env, steps=5)
    pushed = state["blue_cylinder"][0]
    resting = env.step(np.zeros(3, np.float32))[-1]["state"]["blue_cylinder"][0]
    assert pushed > 0.02
    assert abs(resting - pushed) < 0.003


def _push_right(env, steps):
    """The cylinder in the middle, the finger left of it, then steps to the right."""
    env.reset(seed=1, options={"instruction": "push the blue cylinder right"})
    _place(env, finger=(-0.06, 0.0, 0.026), cylinder=(0.0, 0.0), cube=(0.0, 0.12))
    for _ in range(steps):
        info = env.step(np.array([0.8, 0, 0], np.float32))[-1]
    return info["state"]


def _place(env, finger, cylinder, cube):
    from roboalign_sim.tabletop import _Layout

    objects = {"red_cube": np.array([*cube, 0.0]), "blue_cylinder": np.array([*cylinder, 0.0])}
    env._place(_Layout(objects, np.array([0.0, -0.12]), np.array(finger)))
    env._start = env.state()


def test_episodes_start_open_and_end_on_time():
    env = make_env("tabletop", max_steps=4, size=16)
    for seed, instruction in enumerate(INSTRUCTIONS):
        _, info = env.reset(seed=seed, options={"instruction": instruction})
        assert info["instruction"] == instruction
        assert not info["success"]
        ends = [env.step(np.zeros(3, np.float32))[2:4] for _ in range(4)]
        assert ends == [(False, False)] * 3 + [(False, True)]
    env.close()


def test_success_ends_the_episode_only_if_asked():
    for ends in (True, False):
        env = make_env("tabletop", terminate_on_success=ends, size=16)
        env.reset(seed=1, options={"instruction": "reach the blue cylinder"})
        _place(env, finger=(-0.08, 0.0, 0.026), cylinder=(0.0, 0.0), cube=(0.0, 0.12))
        _, _, terminated, _, info = env.step(np.array([1, 0, 0], np.float32))
        assert info["success"]
        assert terminated is ends
        env.close()


def test_appearance_is_drawn_only_on_request():
    plain, drawn = (make_env("tabletop", randomise_appearance=flag) for flag in (False, True))
    colours = {flag: set() for flag in (False, True)}
    for seed in range(4):
        for flag, env in ((False, plain), (True, drawn)):
            frame, _ = env.reset(seed=seed)
            colours[flag].add(tuple(frame[_table_pixel(env)]))
    assert len(colours[False]) == 1
    assert len(colours[True]) == 4
    plain.close()
    drawn.close()


def _table_pixel(env):
    """A pixel that shows the table alone."""
    ids = env._camera.geom_ids(env._data)
    bare = ids == env._model.geom("table").id
    for row, column in ((40, 4), (40, 59), (20, 6), (20, 57), (55, 30)):
        if bare[row - 1 : row + 2, column - 1 : column + 2].all():
            return row, column
    raise AssertionError("no bare table among the probes")


def test_masks_lie_where_the_state_says():
    size = 128
    env = make_env("tabletop", masks=True, size=size)
    for seed in range(5):
        frame, info = env.reset(seed=seed)
        masks, state = info["masks"], info["state"]
        assert {name: mask.shape for name, mask in masks.items()} == dict.fromkeys(scene.MASKED, (size, size))
        assert sum(mask.astype(int) for mask in masks.values()).max() == 1
        for name in scene.OBJECTS:
            rows, columns = np.nonzero(masks[name])
            assert columns.mean() == pytest.approx(size / 2 + state[name][0] / 0.415 * size, abs=size * 0.03)
            assert rows.mean() == pytest.approx(size / 2 - state[name][1] * 0.88 / 0.415 * size, abs=size * 0.08)
        red, _, blue = frame[masks["red_cube"]].mean(0)
        assert red > 2 * blue
        red, _, blue = frame[masks["blue_cylinder"]].mean(0)
        assert blue > 2 * red
    env.close()


def test_the_state_vector_has_a_way_back(env):
    _, info = env.reset(seed=2)
    vector = state_vector(info["state"])
    assert vector.shape == (len(STATE_NAMES),)
    assert vector.dtype == np.float32
    back = state_from_vector(vector)
    for name, value in info["state"].items():
        np.testing.assert_allclose(back[name], value, atol=1e-6)
    with pytest.raises(RoboAlignError, match=r"\(13,\).*\(4,\)"):
        state_from_vector(vector[:4])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.array([0, np.nan, 0], np.float32), "finite"),
        (np.zeros(4, np.float32), r"\(3,\)"),
        (np.zeros((1, 3), np.float32), r"\(3,\)"),
        (np.zeros(3, np.uint8), "uint8"),
        (np.array([0, 1.5, 0], np.float32), r"\[-1, 1\]"),
        ("left", "floats"),
    ],
)
def test_a_bad_action_is_refused_and_changes_nothing(env, action, message):
    env.reset(seed=0)
    before = state_vector(env.state())
    with pytest.raises(RoboAlignError, match=message):
        env.step(action)
    np.testing.assert_array_equal(state_vector(env.state()), before)


@pytest.mark.parametrize("instruction", ["", "open the drawer", None, 3, ["reach the red cube"]])
def test_an_unknown_instruction_is_refused(env, instruction):
    with pytest.raises(RoboAlignError, match="instruction: expected one of"):
        env.reset(seed=0, options={"instruction": instruction})


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_env("kitchen"),
        lambda: make_env("tabletop", size=4),
        lambda: make_env("tabletop", max_steps=0),
        lambda: make_env("tabletop", colour="red"),
        lambda: make_env("tabletop", instructions=()),
        lambda: make_env("tabletop", instructions=("sing",)),
        lambda: make_env("tabletop", render_mode="human"),
        lambda: make_env("tabletop").step(np.zeros(3, np.float32)),
        lambda: make_env("tabletop").reset(options={"speed": 2}),
    ],
)
def test_bad_arguments_are_refused(make):
    with pytest.raises(RoboAlignError, match="expected"):
        make()


@pytest.mark.parametrize("package", ["gymnasium", "mujoco"])
def test_a_missing_package_is_named_with_its_pip_line(package):
    code = f"import sys; sys.modules[{package!r}] = None; import roboalign_sim.tabletop"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert 'pip install "roboalign[sim]"' in done.stderr


def test_success_needs_the_state_not_the_image(env):
    state = _push_right(env, steps=5)
    assert is_success("push the blue cylinder right", env._start, state)
    assert not is_success("push the blue cylinder left", env._start, state)
    assert not is_success("push the red cube right", env._start, state)


def test_importing_the_simulation_needs_neither_ros_nor_robosuite():
    code = "import sys, roboalign_sim.collect; sys.exit(any(m in sys.modules for m in ('rclpy', 'robosuite')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
