"""The table-top's oracle: real physics keeps full marks, and each way to break a state costs what it should."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from roboalign_core.benchmark.oracles import EXACT, READ, Tolerance
from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import HIGHEST, KEYS
from roboalign_sim.collect import CollectConfig, collect_episodes
from roboalign_sim.policies import POLICIES
from roboalign_sim.state_oracle import TABLETOP
from roboalign_sim.state_oracle.geometry import to_box, to_cylinder
from roboalign_sim.tabletop import STATE_NAMES
from roboalign_sim.tasks import INSTRUCTIONS

STATE = "observation.state"
FRAMES = 16
COLUMN = {name: index for index, name in enumerate(STATE_NAMES)}
CUBE, CYLINDER = COLUMN["red_cube.x"], COLUMN["blue_cylinder.x"]
SURFACES = 0.0275 + 0.016  # between the middles of the tip and the cylinder when they touch


@pytest.fixture(scope="module")
def episodes():
    """104 recorded episodes of all policies."""
    shares = {"tabletop": dict.fromkeys(POLICIES, 1.0)}
    config = CollectConfig(out="unused", episodes=104, workers=1, size=16, steps=18, seed=5, policies=shares)
    return list(collect_episodes(config))


def _scene(path=None, actions=None):
    """States (T, 13) and actions of a finger that drives left far behind both objects, unless another path is given."""
    actions = np.tile([-0.6, 0.0, 0.0], (FRAMES, 1)) if actions is None else actions
    rows = np.zeros((len(actions), len(STATE_NAMES)))
    if path is None:
        path = np.array([0.14, 0.16, 0.05]) + 0.03 * np.vstack([np.zeros(3), np.cumsum(actions[:-1], axis=0)])
    rows[:, :3] = path
    rows[:, CUBE : CUBE + 4] = (0.06, 0.02, 0.0275, 0.3)
    rows[:, CYLINDER : CYLINDER + 4] = (-0.06, -0.04, 0.0225, 0.0)
    rows[:, 11:] = (0.05, -0.1)
    return rows, actions


def _drive(start, step, frames=FRAMES):
    """A finger that obeys: (T, 3) places and (T, 3) actions of `step` metres a frame."""
    actions = np.tile(np.array(step) / 0.03, (frames, 1))
    return np.array(start) + np.arange(frames)[:, None] * np.array(step), actions


def _lost(rows, actions, tolerance=EXACT):
    """What the last four dimensions lose, where they lose anything."""
    scores = TABLETOP.score_states(rows, actions, "reach the red cube", tolerance)
    return {
        key: int(high - score)
        for key, high, score in zip(KEYS[2:], HIGHEST[2:], scores[2:], strict=True)
        if high > score
    }


def _teleport(rows):
    rows[8:, CYLINDER] -= 0.09


def _flicker(rows):
    rows[8, CYLINDER] -= 0.1


def _finger_jumps(rows):
    rows[8:, 1] -= 0.08


def _float(rows):
    rows[4:, COLUMN["red_cube.z"]] += np.minimum(np.arange(FRAMES - 4) * 0.01, 0.06)


def _float_a_little(rows):
    rows[:, COLUMN["blue_cylinder.z"]] += 0.012


def _vanish(rows):
    rows[6:10, CUBE : CUBE + 4] = np.nan


def _leave(rows):
    rows[:, CYLINDER] = -0.21


def _merge(rows):
    rows[:, CYLINDER : CYLINDER + 2] = rows[:, CUBE : CUBE + 2]


def _fly(rows):
    rows[5:9, CYLINDER] += np.arange(4) * 0.055
    rows[9:, CYLINDER] = rows[8, CYLINDER]


def _zone_drifts(rows):
    rows[:, 11] += np.arange(FRAMES) * 0.004


def _move_alone(rows):
    rows[:, CYLINDER] += np.arange(FRAMES) * 0.004


def _turn_alone(rows):
    rows[:, COLUMN["red_cube.yaw"]] += np.arange(FRAMES) * 0.05


def test_the_scene_itself_is_without_fault():
    assert _lost(*_scene()) == {}


@pytest.mark.parametrize(
    ("tamper", "lost"),
    [
        (_teleport, {"temporal_consistency": 1}),
        (_flicker, {"temporal_consistency": 1}),
        (_finger_jumps, {"temporal_consistency": 1}),
        (_float, {"physics_adherence": 2}),
        (_float_a_little, {"physics_adherence": 1}),
        (_vanish, {"physics_adherence": 2, "temporal_consistency": 1}),
        (_leave, {"physics_adherence": 2}),
        (_merge, {"physics_adherence": 2}),
        (_fly, {"physics_adherence": 1}),
        (_zone_drifts, {"physics_adherence": 1}),
        (_move_alone, {"action_outcome_consistency": 1, "contact_realism": 1}),
        (_turn_alone, {"action_outcome_consistency": 1, "contact_realism": 1}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_state_costs_what_it_should_and_no_more(tamper, lost):
    rows, actions = _scene()
    tamper(rows)
    assert _lost(rows, actions) == lost


def _pushed_from_afar(gap):
    """The tip drives, and the cylinder keeps `gap` metres before it."""
    path, actions = _drive((-0.15, -0.04, 0.026), (0.01, 0, 0))
    rows, actions = _scene(path, actions)
    rows[:, CYLINDER] = path[:, 0] + SURFACES + gap
    return rows, actions


def test_a_push_with_contact_is_real_and_one_from_afar_is_not():
    assert _lost(*_pushed_from_afar(0.0)) == {}
    assert _lost(*_pushed_from_afar(0.015)) == {"contact_realism": 1}


def test_one_object_may_push_the_other():
    rows, actions = _pushed_from_afar(0.0)
    rows[:, COLUMN["red_cube.yaw"]] = 0.0
    rows[:, CUBE] = rows[:, CYLINDER] + 0.055
    rows[:, CUBE + 1] = rows[:, CYLINDER + 1]
    assert _lost(rows, actions) == {}
    rows[:, CUBE] += 0.02  # no longer touched by it
    assert _lost(rows, actions) == {"contact_realism": 1}


def _through():
    path, actions = _drive((-0.15, -0.04, 0.026), (0.02, 0, 0), 10)
    return _scene(path, actions)


def _no_effect():
    rows, _ = _scene(np.tile([0.14, 0.16, 0.05], (FRAMES, 1)))
    return rows, _scene()[1]


def _no_command():
    rows, actions = _scene()
    return rows, np.zeros_like(actions)


@pytest.mark.parametrize(
    ("make", "lost"),
    [
        (_through, "contact_realism"),
        (_no_effect, "action_outcome_consistency"),
        (_no_command, "action_outcome_consistency"),
    ],
)
def test_a_finger_that_passes_through_or_ignores_commands(make, lost):
    assert _lost(*make()) == {lost: 1}


def test_the_finger_stops_at_the_gantrys_end_without_blame():
    actions = np.tile([1.0, 0.0, 0.0], (FRAMES, 1))
    path = np.minimum(np.array([0.0, 0.16, 0.05]) + np.arange(FRAMES)[:, None] * [0.03, 0, 0], [0.18, 1, 1])
    assert _lost(*_scene(path, actions)) == {}
    path[:, 0] = np.minimum(path[:, 0], 0.12)  # ends early
    assert _lost(*_scene(path, actions)) == {"action_outcome_consistency": 1}


@pytest.mark.parametrize(
    ("make", "noise", "lost"),
    [
        (_scene, READ.noise, {}),
        (lambda: _pushed_from_afar(0.0), READ.noise, {}),
        (_through, 0.004, {"contact_realism": 1}),
        (_no_effect, READ.noise, {"action_outcome_consistency": 1}),
        (lambda: _tampered(_teleport, 0.06), READ.noise, {"temporal_consistency": 1}),
        (lambda: _tampered(_float, 0.02), READ.noise, {"physics_adherence": 2}),
    ],
    ids=["whole", "push", "through", "no effect", "teleport", "float"],
)
def test_noisy_readings_are_judged_by_the_same_measure(make, noise, lost):
    rng = np.random.default_rng(0)
    places = [column for column, name in enumerate(STATE_NAMES) if not name.endswith("yaw")]
    right = []
    for _ in range(12):
        rows, actions = make()
        rows[:, places] += rng.normal(0.0, noise, (len(rows), len(places)))
        right.append(_lost(rows, actions, Tolerance(noise)) == lost)
    assert np.mean(right) >= 0.8


def _tampered(tamper, further):
    rows, actions = _scene()
    tamper(rows)
    if tamper is _teleport:
        rows[8:, CYLINDER + 1] += 2 * further
    else:
        rows[8:, COLUMN["red_cube.z"]] += further
    return rows, actions


def test_noise_without_tolerance_is_no_real_episode():
    rows, actions = _scene()
    rows[:, :11] += np.random.default_rng(0).normal(0.0, READ.noise, (len(rows), 11))
    assert _lost(rows, actions)


def test_real_episodes_of_all_policies_keep_full_physical_marks(episodes):
    scores = np.stack([TABLETOP.score(episode, episode.instruction) for episode in episodes])
    assert (scores[:, 2:] == HIGHEST[2:]).all(axis=1).mean() == 1.0
    assert [bool(row[1] == 2) for row in scores] == [episode.success for episode in episodes]
    assert [bool(row[0] == 3) for row in scores] == [episode.success for episode in episodes]
    assert 0.1 < np.mean([episode.success for episode in episodes]) < 0.9


def test_an_action_sequence_of_another_episode_does_not_fit(episodes):
    scores = [
        TABLETOP.score_states(a.extras[STATE], b.actions, a.instruction)[2]
        for a, b in itertools.pairwise(episodes[:25])
    ]
    assert np.mean(scores) <= 0.1


def test_findings_say_why(episodes):
    episode = episodes[0]
    rows = episode.extras[STATE].copy()
    assert TABLETOP.findings(rows, episode.actions) == []
    rows[9:, 11] += 0.05
    (finding,) = TABLETOP.findings(rows, episode.actions)
    assert (finding.key, finding.frame, finding.loss) == ("temporal_consistency", 9, 1)
    assert "zone" in finding.what


PUSH, ZONE, REACH = (
    "push the blue cylinder right",
    "push the blue cylinder to the green zone",
    "reach the blue cylinder",
)


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        (PUSH, (2, 1)),  # 3 cm of the 5
        ("push the blue cylinder left", (1, 0)),
        ("push the blue cylinder forward", (1, 0)),
        ("push the red cube right", (1, 0)),
        (REACH, (3, 2)),
        ("reach the red cube", (1, 0)),
    ],
)
def test_what_half_a_push_is_worth(instruction, expected):
    path, actions = _drive((-0.15, -0.04, 0.026), (0.01, 0, 0), 9)
    rows, actions = _scene(path, actions)
    rows[:, CYLINDER] = np.maximum(-0.06, path[:, 0] + SURFACES)
    assert tuple(TABLETOP.score_states(rows, actions, instruction)[:2]) == expected


def test_what_is_far_from_everything_is_unrelated():
    rows, actions = _scene()
    assert [TABLETOP.score_states(rows, actions, name)[0] for name in INSTRUCTIONS if "cylinder" in name] == [0] * 6


def test_what_vanished_is_not_done():
    rows, actions = _pushed_from_afar(0.0)
    assert tuple(TABLETOP.score_states(rows, actions, PUSH)[:2]) == (3, 2)
    rows[-1, CYLINDER : CYLINDER + 4] = np.nan
    assert tuple(TABLETOP.score_states(rows, actions, PUSH)[:2]) == (2, 1)


def test_the_last_action_may_be_left_out(episodes):
    episode = episodes[0]
    whole = TABLETOP.score_states(episode.extras[STATE], episode.actions, episode.instruction)
    short = TABLETOP.score_states(episode.extras[STATE], episode.actions[:-1], episode.instruction)
    np.testing.assert_array_equal(whole, short)
    assert whole.dtype == np.float32


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instruction": "fold the towel"}, "fold the towel"),
        ({"states": np.zeros((FRAMES, 8))}, "states"),
        ({"states": np.zeros((1, 13))}, "states"),
        ({"states": np.full((FRAMES, 13), np.inf)}, "finite"),
        ({"states": np.full((FRAMES, 13), np.nan)}, "finger.x"),
        ({"actions": np.zeros((FRAMES - 2, 3))}, "actions"),
        ({"actions": np.zeros((FRAMES, 4))}, "actions"),
        ({"actions": np.full((FRAMES, 3), np.nan)}, "finite"),
    ],
)
def test_bad_input_is_refused(change, said):
    rows, actions = _scene()
    given = {"states": rows, "actions": actions, "instruction": REACH, **change}
    with pytest.raises(RoboAlignError, match=said):
        TABLETOP.score_states(**given)


def test_an_episode_without_its_state_is_refused(episodes):
    bare = dataclasses.replace(episodes[0], extras={"progress": episodes[0].extras["progress"]})
    with pytest.raises(RoboAlignError, match=r"observation\.state.*progress"):
        TABLETOP.score(bare, REACH)


def test_gaps_are_those_of_the_shapes():
    at = np.array([[0.0, 0.0, 0.0, np.pi / 4]])
    half = (1.0, 1.0, 2.0)
    points = {(2.0, 0.0, 0.0): 2 - np.sqrt(2), (0.0, 0.0, 2.5): 0.5, (0.0, 0.0, 0.0): -1.0}
    for point, expected in points.items():
        assert to_box(np.array([point]), at, half)[0] == pytest.approx(expected)
    points = {(2.0, 0.0, 0.0): 1.0, (2.0, 0.0, 3.0): np.sqrt(2), (0.5, 0.0, 0.0): -0.5}
    for point, expected in points.items():
        assert to_cylinder(np.array([point]), at, 1.0, 2.0)[0] == pytest.approx(expected)
