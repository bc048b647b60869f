"""Collecting: the same episodes whatever the workers, resumed where it stopped, settings checked."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from roboalign_core.episodes import EpisodeStore
from roboalign_core.episodes.boxes import BOXES, region
from roboalign_core.errors import RoboAlignError
from roboalign_sim.collect import VERB, CollectConfig, collect_episodes, run
from roboalign_sim.recording import recorder
from roboalign_sim.scene import FINGER_XY_LIMIT
from roboalign_sim.tabletop import STATE_NAMES, STEP_METRES, state_from_vector
from roboalign_sim.tasks import INSTRUCTIONS, is_success, progress_all


def _config(**changes):
    return dataclasses.replace(CollectConfig(out="unused", episodes=4, workers=1, size=32, steps=12), **changes)


@pytest.fixture(scope="module")
def episodes():
    return list(collect_episodes(_config()))


def _assert_same(a, b):
    np.testing.assert_array_equal(a.frames, b.frames)
    np.testing.assert_array_equal(a.actions, b.actions)
    assert (a.instruction, a.success) == (b.instruction, b.success)
    for name, rows in a.extras.items():
        np.testing.assert_array_equal(rows, b.extras[name])


def test_episodes_do_not_depend_on_the_workers(episodes):
    parallel = list(collect_episodes(_config(workers=2)))
    assert len(parallel) == len(episodes) == 4
    for a, b in zip(episodes, parallel, strict=True):
        _assert_same(a, b)


def test_an_episode_does_not_depend_on_those_before(episodes):
    (last,) = collect_episodes(_config(), first=3)
    _assert_same(last, episodes[3])


def test_seeds_share_no_episode(episodes):
    other = list(collect_episodes(_config(seed=1)))
    for a in episodes:
        for b in other:
            assert not np.array_equal(a.extras["observation.state"][0], b.extras["observation.state"][0])


def test_extras_are_the_state_and_the_progress_of_all_instructions(episodes):
    for episode in episodes:
        rows = episode.extras["observation.state"]
        assert rows.shape == (12, len(STATE_NAMES))
        states = [state_from_vector(row) for row in rows]
        expected = np.stack([progress_all(states[0], state) for state in states])
        np.testing.assert_allclose(episode.extras["progress"], expected, atol=1e-4)
        assert episode.success == is_success(episode.instruction, states[0], states[-1])
        assert not episode.actions[-1].any()


def test_boxes_are_where_things_are_seen():
    (episode,) = collect_episodes(_config(episodes=1, boxes=True, size=64, policies={"tabletop": {"random": 1.0}}))
    columns = recorder("tabletop").columns(boxes=True)[BOXES]
    assert episode.extras[BOXES].shape == (12, len(columns))
    red = region(episode.extras[BOXES], columns, ["red_cube"], (64, 64))
    looks_red = (episode.frames[..., 0] > 150) & (episode.frames[..., 1] < 60) & (episode.frames[..., 2] < 60)
    assert looks_red.any((1, 2)).all()
    assert not (looks_red & ~red).any()
    assert (looks_red.sum((1, 2)) > 0.4 * red.sum((1, 2))).all()


def test_actions_lead_from_a_frame_to_the_next(episodes):
    explained = []
    for episode in episodes:
        xy = episode.extras["observation.state"][:, :2]
        wanted, happened = episode.actions[:-1, :2] * STEP_METRES, np.diff(xy, axis=0)
        inside = np.abs(xy[:-1] + wanted) < FINGER_XY_LIMIT
        explained.append((np.abs(happened - wanted) < 0.004)[inside])
    assert np.concatenate(explained).mean() > 0.9


def test_stopping_on_success_shortens_episodes():
    config = _config(steps=30, stop_on_success=True, policies={"tabletop": {"expert": 1.0}})
    for episode in collect_episodes(config):
        assert episode.success
        assert 2 <= len(episode.frames) < 30


def test_a_store_is_written_and_continued(tmp_path, episodes):
    out = str(tmp_path / "store")
    first = run(_config(out=out, episodes=2))
    assert first["new_episodes"] == 2
    assert first["frames_per_s"] > 0
    second = run(_config(out=out))
    assert (second["episodes"], second["new_episodes"], second["new_frames"]) == (4, 2, 24)
    store = EpisodeStore.open(out)
    assert len(store) == 4
    assert store.spec.extras["progress"] == INSTRUCTIONS
    for index, expected in enumerate(episodes):
        np.testing.assert_array_equal(store[index].actions, expected.actions)
        assert store[index].instruction == expected.instruction
    assert run(_config(out=out))["new_episodes"] == 0


def test_other_settings_do_not_go_into_the_same_store(tmp_path):
    out = str(tmp_path / "store")
    run(_config(out=out, episodes=1))
    for change in ({"seed": 5}, {"steps": 9}, {"size": 64}, {"policies": {"tabletop": {"random": 1.0}}}):
        with pytest.raises(RoboAlignError, match=next(iter(change))):
            run(_config(out=out, **change))
    assert len(EpisodeStore.open(out)) == 1


def test_a_store_does_not_depend_on_policies_that_it_does_not_use(tmp_path):
    """Also one that was begun before a policy existed."""
    out, shares = str(tmp_path / "store"), {"random": 1.0}
    run(_config(out=out, episodes=1, policies={"tabletop": shares}))
    unused = {**shares, "wrong_object": 0.0, "expert": 0.0}
    assert run(_config(out=out, episodes=2, policies={"tabletop": unused}))["new_episodes"] == 1
    first, second = EpisodeStore.open(out)[0], EpisodeStore.open(out)[1]
    alone = list(collect_episodes(_config(episodes=2, policies={"tabletop": shares})))
    np.testing.assert_array_equal(first.actions, alone[0].actions)
    np.testing.assert_array_equal(second.actions, alone[1].actions)


def test_more_episodes_than_asked_for_are_not_dropped(tmp_path):
    out = str(tmp_path / "store")
    run(_config(out=out, episodes=2))
    with pytest.raises(RoboAlignError, match="episodes=1"):
        run(_config(out=out, episodes=1))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RoboAlignError, match=str(tmp_path)):
        run(_config(out=str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "change",
    [
        {"env": "kitchen"},
        {"episodes": 0},
        {"workers": 0},
        {"steps": 1},
        {"size": 8},
        {"seed": -1},
        {"policies": {"tabletop": {}}},
        {"policies": {"tabletop": {"expert": -1.0}}},
        {"policies": {"tabletop": {"genius": 1.0}}},
        {"policies": {"tabletop": {"random": 1.0, "genius": 0.0}}},
        {"policies": {"tabletop": {"random": 0.0}}},
    ],
)
def test_bad_settings_are_refused_and_nothing_is_written(tmp_path, change):
    out = tmp_path / "store"
    with pytest.raises(RoboAlignError, match="expected"):
        run(_config(out=str(out), **change))
    assert not out.exists()


def test_the_yaml_node_mirrors_the_dataclass():
    from roboalign_core.cli import compose

    config = compose(VERB, ["out=x", "policies.tabletop.contact=0.5"])
    assert config == dataclasses.replace(CollectConfig(out="x"), policies=config.policies)
    assert config.policies["tabletop"]["contact"] == 0.5
    assert compose(VERB, ["out=x"]) == CollectConfig(out="x")


def test_failures_are_collected_by_name_and_not_by_default():
    from roboalign_core.cli import compose

    shares = compose(VERB, ["out=x", "policies.tabletop.wrong_object=0.5"]).policies["tabletop"]
    assert shares["wrong_object"] == 0.5
    used = {env: {name for name, share in mix.items() if share} for env, mix in CollectConfig(out="x").policies.items()}
    assert used == {"tabletop": {"expert", "noisy", "contact", "random"}, "robosuite_lift": {"expert", "random"}}
