"""Scripted failures fail, each in its own way and no other."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_sim.collect import CollectConfig, collect_episodes
from roboalign_sim.failures import other_object
from roboalign_sim.tabletop import STEP_METRES, state_from_vector
from roboalign_sim.tasks import task_of

FAILURES = ("wrong_object", "no_contact", "incomplete", "wrong_direction")


@pytest.fixture(scope="module")
def outcomes():
    """For each failure: of each episode the task, first and last state, and the success."""
    found = {}
    for name in FAILURES:
        shares = {"tabletop": {name: 1.0}}
        config = CollectConfig(out="unused", episodes=24, workers=1, size=16, steps=30, seed=2, policies=shares)
        found[name] = []
        for episode in collect_episodes(config):
            states = [state_from_vector(row) for row in episode.extras["observation.state"][[0, -1]]]
            found[name].append((task_of(episode.instruction), *states, episode))
    return found


def _moved(start, end, name):
    return float(np.linalg.norm(end[name][:2] - start[name][:2]))


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_fails(outcomes, name):
    assert not any(episode.success for *_, episode in outcomes[name])


@pytest.mark.parametrize("name", FAILURES)
def test_every_failure_does_something_and_then_stands_still(outcomes, name):
    done = [np.abs(episode.actions).max(axis=1) > 0 for *_, episode in outcomes[name]]
    assert np.mean([moves.any() for moves in done]) > 0.9
    assert np.mean([not moves[-3:].any() for moves in done]) > 0.9


def test_the_wrong_object_is_pushed_and_the_right_one_is_left_alone(outcomes):
    for task, start, end, _ in outcomes["wrong_object"]:
        if task.kind != "reach":
            assert _moved(start, end, other_object(task.target)) > 0.04
            assert _moved(start, end, task.target) < 0.02


def test_nothing_is_touched_from_above_or_beside(outcomes):
    for _, start, end, episode in outcomes["no_contact"]:
        assert max(_moved(start, end, name) for name in ("red_cube", "blue_cylinder")) < 1e-6
        assert np.abs(episode.actions[:, :2]).sum() * STEP_METRES > 0.02


def test_what_is_incomplete_goes_the_right_way(outcomes):
    kinds = set()
    for task, start, end, _ in outcomes["incomplete"]:
        kinds.add(task.kind)
        way = (end[task.target] - start[task.target])[:2]
        if task.kind == "push":
            assert 0.012 < way @ np.array(task.direction) < 0.045
        elif task.kind == "zone":
            first, last = (np.linalg.norm(at[task.target][:2] - at["zone"]) for at in (start, end))
            assert 0.045 < last < first - 0.01
    assert kinds == {"push", "zone", "reach"}


def test_the_wrong_direction_is_another_one(outcomes):
    for task, start, end, _ in outcomes["wrong_direction"]:
        way = (end[task.target] - start[task.target])[:2]
        if task.kind == "push":
            assert np.linalg.norm(way) > 0.04
            assert way @ np.array(task.direction) < 0.5 * np.linalg.norm(way)
        elif task.kind == "reach":
            assert np.linalg.norm((end["finger"] - end[task.target][:3])[:2]) >= np.linalg.norm(
                (start["finger"] - start[task.target][:3])[:2]
            )
