"""What progress rewards, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_sim.tasks import INSTRUCTIONS, is_success, progress, progress_all, task_of, way_behind


def _state(finger=(0.15, 0.15, 0.08), red_cube=(-0.08, -0.08), blue_cylinder=(0.0, 0.0), zone=(0.0, 0.1), yaw=0.0):
    return {
        "finger": np.array(finger, float),
        "red_cube": np.array([*red_cube, 0.0275, yaw]),
        "blue_cylinder": np.array([*blue_cylinder, 0.0225, 0.0]),
        "zone": np.array(zone, float),
    }


RIGHT = "push the blue cylinder right"
ZONE = "push the blue cylinder to the green zone"


def test_there_are_the_promised_instructions():
    assert len(INSTRUCTIONS) == 12
    assert len(set(INSTRUCTIONS)) == 12
    assert {task_of(instruction).target for instruction in INSTRUCTIONS} == {"red_cube", "blue_cylinder"}


@pytest.mark.parametrize(
    ("instruction", "moved"),
    [("right", (0.05, 0)), ("left", (-0.05, 0)), ("forward", (0, 0.05)), ("back", (0, -0.05))],
)
def test_a_push_succeeds_in_its_own_direction_only(instruction, moved):
    start, end = _state(), _state(blue_cylinder=(moved[0] * 1.02, moved[1] * 1.02))
    pushed = [name for name in INSTRUCTIONS if name.startswith("push the blue") and is_success(name, start, end)]
    assert pushed == [f"push the blue cylinder {instruction}"]
    assert not is_success(pushed[0], start, _state(blue_cylinder=(moved[0] * 0.98, moved[1] * 0.98)))


def test_a_push_that_slips_aside_does_not_count():
    assert not is_success(RIGHT, _state(), _state(blue_cylinder=(0.055, 0.06)))


def test_reaching_needs_nearness_and_height():
    start = _state()
    side = 0.0275 + 0.016
    reach = "reach the blue cylinder"
    assert is_success(reach, start, _state(finger=(side + 0.011, 0, 0.04)))
    assert not is_success(reach, start, _state(finger=(side + 0.013, 0, 0.04)))
    assert not is_success(reach, start, _state(finger=(side + 0.005, 0, 0.05)))


def test_reaching_knows_the_cubes_corner():
    turned, straight = (_state(red_cube=(0, 0), finger=(0.062, 0, 0.03), yaw=yaw) for yaw in (np.pi / 4, 0.0))
    assert is_success("reach the red cube", turned, turned)
    assert not is_success("reach the red cube", straight, straight)


def test_the_zone_counts_the_objects_centre():
    start = _state()
    assert is_success(ZONE, start, _state(blue_cylinder=(0.0, 0.06)))
    assert not is_success(ZONE, start, _state(blue_cylinder=(0.0, 0.05)))


def test_progress_stays_in_its_range():
    rng = np.random.default_rng(0)
    for _ in range(300):
        states = [
            _state(
                (*rng.uniform(-0.18, 0.18, 2), rng.uniform(0.02, 0.09)), *rng.uniform(-0.17, 0.17, (3, 2)), rng.normal()
            )
            for _ in range(2)
        ]
        values = progress_all(*states)
        assert values.shape == (12,)
        assert values.dtype == np.float32
        assert (values >= 0).all()
        assert (values <= 1 + 1e-6).all()


def test_progress_all_is_progress_of_each():
    start, end = _state(), _state(finger=(0.1, 0.0, 0.03), blue_cylinder=(0.02, 0.01))
    expected = [progress(instruction, start, end) for instruction in INSTRUCTIONS]
    np.testing.assert_allclose(progress_all(start, end), expected, rtol=1e-6)


@pytest.mark.parametrize("instruction", [RIGHT, "push the red cube forward", ZONE, "reach the red cube"])
def test_coming_nearer_is_never_worse(instruction):
    """Along the way that leads behind (or to) the object, over it, progress rises all the time."""
    start = _state()
    task = task_of(instruction)
    place = start[task.target][:2]
    direction = np.array(task.direction or ((0.0, 1.0) if task.kind == "zone" else (-1.0, -1.0)))
    goal = place - direction / np.linalg.norm(direction) * 0.048
    way = np.linspace((0.15, 0.15), goal, 20)
    heights = np.concatenate([np.full(20, 0.08), np.linspace(0.08, 0.03, 8)])
    points = np.concatenate([way, np.repeat(goal[None], 8, 0)])
    values = [progress(instruction, start, _state(finger=(*p, z))) for p, z in zip(points, heights, strict=True)]
    if task.kind != "reach":  # over the object itself reaching is worth less than beside it
        assert np.diff(values).min() > -1e-6
    assert values[-1] == max(values)
    assert values[-1] > values[0] + 0.1


def test_following_through_is_always_better():
    start = _state()
    contact = 0.0275 + 0.016
    values = [
        progress(RIGHT, start, _state(finger=(x - contact, 0, 0.03), blue_cylinder=(x, 0)))
        for x in np.linspace(0, 0.06, 13)
    ]
    assert np.diff(values).min() > 0.01
    assert values[-1] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("instruction", [RIGHT, "push the blue cylinder forward"])
def test_pushing_the_wrong_way_is_worse_than_waiting(instruction):
    start = _state(finger=(0.05, 0.05, 0.03))
    waiting = progress(instruction, start, start)
    task = task_of(instruction)
    for centimetres in (1, 2, 4):
        shift = -0.01 * centimetres * np.array(task.direction)
        end = _state(finger=(*(np.array([0.05, 0.05]) + shift), 0.03), blue_cylinder=tuple(shift))
        assert progress(instruction, start, end) < waiting


def test_pushing_away_from_the_zone_is_worse_than_waiting():
    start = _state(finger=(0, 0.05, 0.03))
    away = _state(finger=(0, 0.03, 0.03), blue_cylinder=(0, -0.02))
    assert progress(ZONE, start, away) < progress(ZONE, start, start)


def test_the_way_behind_leads_around_or_over_never_through():
    low_in_front = _state(finger=(0.05, 0.0, 0.03))
    high_in_front = _state(finger=(0.05, 0.0, 0.08))
    behind = _state(finger=(-0.05, 0.0, 0.03))
    straight = 0.05 + 0.0435
    assert way_behind(behind, "blue_cylinder", (1.0, 0.0)) == pytest.approx(0.0, abs=1e-3)
    assert way_behind(low_in_front, "blue_cylinder", (1.0, 0.0)) > straight + 0.02
    assert way_behind(high_in_front, "blue_cylinder", (1.0, 0.0)) == pytest.approx(straight + 0.045, abs=0.03)


def test_a_small_move_changes_progress_a_little():
    """No cliffs for a planner or a learned objective to fall off: 2 mm never change more than 6 %."""
    rng = np.random.default_rng(1)
    start = _state()
    for _ in range(500):
        finger = np.array([*rng.uniform(-0.15, 0.15, 2), rng.uniform(0.02, 0.09)])
        cylinder = rng.uniform(-0.1, 0.1, 2)
        step_f, step_c = rng.normal(size=3), rng.normal(size=2)
        near = _state(
            finger + 0.002 * step_f / np.linalg.norm(step_f),
            blue_cylinder=cylinder + 0.002 * step_c / np.linalg.norm(step_c),
        )
        here = _state(finger, blue_cylinder=cylinder)
        for instruction in (RIGHT, "reach the blue cylinder"):
            assert abs(progress(instruction, start, near) - progress(instruction, start, here)) < 0.06


def test_unknown_instructions_are_refused_everywhere():
    for function in (progress, is_success):
        with pytest.raises(RoboAlignError, match="expected one of"):
            function("", _state(), _state())
