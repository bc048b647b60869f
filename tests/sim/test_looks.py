"""The table-top under looks that training does not show: other colours, a camera that was moved."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from roboalign_core.benchmark.oracles import load_oracle
from roboalign_core.errors import RoboAlignError
from roboalign_sim import make_env
from roboalign_sim.collect import CollectConfig, collect_episodes, run
from roboalign_sim.looks import Looks, moved_camera, source_of
from roboalign_sim.policies import POLICIES
from roboalign_sim.scene import COLOURS, OBJECTS, words
from roboalign_sim.state_oracle import TABLETOP
from roboalign_sim.tabletop import state_vector
from roboalign_sim.tasks import INSTRUCTIONS, instructions_of, task_of, with_other_object

SWAPPED, MOVED = Looks(colours="swapped"), Looks(camera_shift=0.02, camera_turn=1.0)


def _collected(looks, policies=None, **changes):
    config = CollectConfig(out="unused", episodes=6, workers=1, size=32, steps=12, looks=looks, **changes)
    config.policies = {"tabletop": policies or dict.fromkeys(POLICIES, 1.0)}
    return list(collect_episodes(config))


@pytest.fixture(scope="module")
def standard():
    return _collected(Looks())


@pytest.fixture(scope="module", params=[colours for colours in COLOURS if colours != "standard"])
def painted(request):
    """The same episodes under another scheme, with its oracle."""
    return _collected(Looks(colours=request.param)), load_oracle(source_of(request.param)), request.param


def _renamed(text, colours):
    for name in OBJECTS:
        text = text.replace(words(name, "standard"), words(name, colours))
    return text


def test_every_scheme_has_the_same_tasks_in_words_of_its_own():
    assert instructions_of("standard") == INSTRUCTIONS
    for colours in COLOURS:
        for mine, standard in zip(instructions_of(colours), INSTRUCTIONS, strict=True):
            found, expected = task_of(mine, colours), task_of(standard)
            assert (found.kind, found.target, found.direction) == (expected.kind, expected.target, expected.direction)
    every = [text for colours in COLOURS for text in instructions_of(colours)]
    assert len(every) == len(set(every)) == len(COLOURS) * len(INSTRUCTIONS)
    assert instructions_of("swapped")[0] == "reach the blue cube"


def test_the_other_object_is_meant_in_the_same_way():
    for text in INSTRUCTIONS:
        task, other = task_of(text), with_other_object(task_of(text))
        assert (task.kind, task.direction) == (other.kind, other.direction)
        assert {task.target, other.target} == set(OBJECTS)


def test_painted_episodes_are_the_same_but_for_paint_and_words(standard, painted):
    episodes, _, colours = painted
    for plain, other in zip(standard, episodes, strict=True):
        np.testing.assert_array_equal(other.actions, plain.actions)
        np.testing.assert_array_equal(other.extras["observation.state"], plain.extras["observation.state"])
        np.testing.assert_array_equal(other.extras["progress"], plain.extras["progress"])
        assert other.success == plain.success
        assert other.instruction == _renamed(plain.instruction, colours) != plain.instruction
        assert (plain.source, other.source) == ("tabletop", f"tabletop_{colours}")
        assert np.abs(other.frames.astype(int) - plain.frames).max() > 80


def test_the_cube_is_drawn_in_the_colour_that_words_give_it():
    colours = {}
    for looks in (Looks(), SWAPPED):
        env = make_env("tabletop", looks=looks, masks=True)
        frame, info = env.reset(seed=3)
        colours[looks.colours] = {name: frame[info["masks"][name]].mean(0).argmax() for name in OBJECTS}
        env.close()
    red, blue = 0, 2
    assert colours["standard"] == {"red_cube": red, "blue_cylinder": blue}
    assert colours["swapped"] == {"red_cube": blue, "blue_cylinder": red}


def test_each_oracle_judges_its_own_words_alike(standard, painted):
    episodes, oracle, colours = painted
    for plain, other in zip(standard, episodes, strict=True):
        for text in INSTRUCTIONS:
            np.testing.assert_array_equal(oracle.score(other, _renamed(text, colours)), TABLETOP.score(plain, text))
    with pytest.raises(RoboAlignError, match=rf"oracle tabletop_{colours}: instruction: expected .* 'reach the red"):
        oracle.score(episodes[0], "reach the red cube")


def test_an_oracle_looks_for_things_in_their_own_colours(painted):
    episodes, oracle, colours = painted
    states = episodes[0].extras["observation.state"]
    env = make_env("tabletop", looks=Looks(colours=colours), masks=True)
    frame, info = env.reset(seed=0)
    env.close()
    frames, rows = np.stack([frame] * 8), np.tile(states[:1], (8, 1))
    assert not np.isnan(oracle.as_seen(rows, frames)).any()
    frames[4:][:, info["masks"]["red_cube"]] = 128  # from here on no frame shows the cube
    gone = np.isnan(oracle.as_seen(rows, frames)).any(0)
    assert gone[3:7].all()
    assert not gone[np.r_[:3, 7:13]].any()


@pytest.mark.parametrize("colours", COLOURS)
def test_every_scheme_has_its_oracle(colours):
    oracle = load_oracle(source_of(colours))
    assert oracle is not None
    assert oracle.instructions == instructions_of(colours)


def test_words_of_another_scheme_are_refused():
    env = make_env("tabletop", looks=SWAPPED)
    with pytest.raises(RoboAlignError, match=r"expected one of .*blue cube.*, found 'reach the red cube'"):
        env.reset(seed=0, options={"instruction": "reach the red cube"})
    assert env.reset(seed=0, options={"instruction": "reach the blue cube"})[1]["instruction"] == "reach the blue cube"
    env.close()


def _first_frames(looks, seeds) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    env = make_env("tabletop", looks=looks)
    for seed in seeds:
        frame, info = env.reset(seed=seed)
        yield frame.astype(int), state_vector(info["state"])
    env.close()


def test_a_moved_camera_sees_the_same_scenes_from_other_places():
    seeds = [0, 1, 2]
    plain, moved, again = (list(_first_frames(looks, seeds)) for looks in (Looks(), MOVED, MOVED))
    for (frame, state), (other, same), (repeated, _) in zip(plain, moved, again, strict=True):
        np.testing.assert_array_equal(state, same)
        np.testing.assert_array_equal(other, repeated)
        assert np.abs(frame - other).mean() > 3
    slightly = list(_first_frames(Looks(camera_shift=0.002), seeds))
    for (frame, _), (near, _), (far, _) in zip(plain, slightly, moved, strict=True):
        assert 0 < np.abs(frame - near).mean() < np.abs(frame - far).mean()


def test_the_camera_keeps_its_place_within_an_episode_and_in_a_snapshot():
    env = make_env("tabletop", looks=MOVED)
    first, _ = env.reset(seed=1)
    snapshot = env.get_state()
    still = env.step(np.zeros(3, np.float32))[0]
    assert np.abs(still.astype(int) - first).mean() < 1
    env.reset(seed=2)
    env.set_state(snapshot)
    np.testing.assert_array_equal(env.render(), first)
    env.close()


def test_how_far_a_camera_is_moved():
    pose = np.array([0.0, -0.7, 1.4, 0.8, 0.6, 0.0, 0.0])
    rng = np.random.default_rng(0)
    moved = np.stack([moved_camera(pose, MOVED, rng) for _ in range(300)])
    shift = moved[:, :3] - pose[:3]
    assert np.abs(shift).max() <= 0.02
    assert (np.abs(shift).max(0) > 0.018).all()
    np.testing.assert_allclose(np.linalg.norm(moved[:, 3:], axis=1), 1, atol=1e-9)
    angle = np.degrees(2 * np.arccos(np.minimum(np.abs(moved[:, 3:] @ pose[3:]), 1)))
    assert 1.0 < angle.max() <= np.sqrt(3)
    state = rng.bit_generator.state
    np.testing.assert_array_equal(moved_camera(pose, Looks(), rng), pose)
    assert rng.bit_generator.state == state  # the standard look draws nothing


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colours": "green"}, r"looks\.colours: expected one of standard, swapped, orange_cyan, found 'green'"),
        ({"camera_shift": -0.1}, r"looks\.camera_shift: expected 0 metres or more, found -0\.1"),
        ({"camera_turn": 91.0}, r"looks\.camera_turn: expected 0 to 90 degrees, found 91\.0"),
    ],
)
def test_looks_are_checked(change, message):
    with pytest.raises(RoboAlignError, match=message):
        Looks(**change)


def test_other_environments_have_one_look():
    config = CollectConfig(out="unused", env="robosuite_lift", episodes=1, looks=SWAPPED)
    with pytest.raises(RoboAlignError, match=r"collect looks: expected the standard look for env=robosuite_lift"):
        next(collect_episodes(config))


def test_a_store_keeps_to_one_look(tmp_path):
    config = CollectConfig(out=str(tmp_path / "store"), episodes=1, workers=1, size=32, steps=4, looks=SWAPPED)
    assert run(config)["new_episodes"] == 1
    config.looks = Looks()
    with pytest.raises(RoboAlignError, match="looks"):
        run(config)
