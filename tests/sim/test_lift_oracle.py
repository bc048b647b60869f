"""Lift's oracle: a recorded lift keeps full marks, and each way to break it costs what it should."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("robosuite", reason="needs the extra sim")

from roboalign_core.rubric import HIGHEST, KEYS
from roboalign_sim.closed_loop import run_episode
from roboalign_sim.lift_failures import Drop, Miss
from roboalign_sim.registry import make_env
from roboalign_sim.robosuite import INSTRUCTION, STATE_NAMES, LiftExpert, state_vector
from roboalign_sim.state_oracle import LIFT

HEIGHT = STATE_NAMES.index("cube.z")


@pytest.fixture(scope="module")
def recorded():
    """States (T, 8), actions (T - 1, 4) and success of one episode of each policy, on one scene."""
    env = make_env("robosuite_lift", size=16, max_steps=16, terminate_on_success=False)
    episodes = {}
    for policy in (LiftExpert(), Miss(), Drop()):
        rows, success = [], []

        def keep(_, info, rows=rows, success=success):
            rows.append(state_vector(info["state"]))
            success.append(info["success"])

        result = run_episode(env, policy, 3, on_step=keep)
        episodes[type(policy)] = (np.stack(rows).astype(np.float64), result.actions, success[-1])
    env.close()
    return episodes


def _lost(rows, actions):
    scores = LIFT.score_states(rows, actions, INSTRUCTION)
    losses = dict(zip(KEYS[2:], (HIGHEST - scores)[2:].astype(int).tolist(), strict=True))
    return {key: loss for key, loss in losses.items() if loss}


@pytest.mark.parametrize(
    ("policy", "expected"), [(LiftExpert, (3, 2)), (Miss, (1, 0)), (Drop, (2, 0))], ids=["expert", "miss", "drop"]
)
def test_recorded_episodes_are_real_and_ranked(recorded, policy, expected):
    rows, actions, success = recorded[policy]
    scores = LIFT.score_states(rows, actions, INSTRUCTION)
    assert tuple(scores[:2]) == expected
    assert LIFT.findings(rows, actions) == []
    assert bool(scores[1] == 2) == success


def _teleport(rows):
    rows[4:, 3] += 0.2


def _slide_far_off(rows):
    rows[:, 4] += 0.3 + 0.01 * np.arange(len(rows))


def _float(rows):
    rows[2:, HEIGHT] += 0.1


def _sink(rows):
    rows[2:, HEIGHT] = 0.795


def _close_through(rows):
    rows[:, 3:6] = rows[:, :3]
    rows[:, HEIGHT] = 0.82
    rows[:, 2] = 0.82
    rows[:, 7] = 0.0


@pytest.mark.parametrize(
    ("tamper", "lost"),
    [
        (_teleport, {"temporal_consistency": 1}),
        (_slide_far_off, {"action_outcome_consistency": 1, "contact_realism": 1}),
        (_float, {"physics_adherence": 2}),
        (_sink, {"physics_adherence": 2}),
        (_close_through, {"contact_realism": 1}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_state_costs_what_it_should_and_no_more(recorded, tamper, lost):
    rows, actions = (array.copy() for array in recorded[Miss][:2])
    tamper(rows)
    assert _lost(rows, actions) == lost


def test_a_hand_without_effect_is_found(recorded):
    rows, actions, _ = recorded[LiftExpert]
    frozen = np.tile(rows[0], (len(rows), 1))
    frozen[1:, HEIGHT] = 0.82
    assert _lost(frozen, actions) == {"action_outcome_consistency": 1}


def test_a_cube_that_rises_alone_floats(recorded):
    rows, actions, _ = recorded[LiftExpert]
    rows = rows.copy()
    rows[:, 0] -= 0.25
    assert _lost(rows, actions)["physics_adherence"] == 2
