"""Degradations of objects, on what the simulators record: boxes and colours as they really are."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.benchmark.degradations import DEGRADATIONS
from roboalign_core.benchmark.degradations.track import track_of
from roboalign_core.episodes.boxes import BOXES, region
from roboalign_sim.collect import CollectConfig, collect_episodes
from roboalign_sim.recording import recorder

COLOURS = {1: ("red_cube", 0), 2: ("blue_cylinder", 2)}  # of a box: its name, and the colour channel that stands out


def coloured(frames, channel):
    others = np.delete(frames, channel, axis=-1).max(-1).astype(int)
    return (frames[..., channel] > 60) & (frames[..., channel] > 2 * others)


@pytest.fixture(scope="module")
def episodes():
    """Those of a few pushes in which an object moves."""
    policies = {"tabletop": {"expert": 1.0}}
    config = CollectConfig(out="unused", episodes=12, workers=1, boxes=True, policies=policies)
    found = [e for e in collect_episodes(config) if DEGRADATIONS["object_vanishing"].reason_not(e) is None]
    assert len(found) >= 4
    return found


@pytest.mark.parametrize("env", ["tabletop", "robosuite_lift"])
def test_the_robot_has_the_first_box(env):
    assert recorder(env).seen[0] == "finger"


def test_the_object_that_was_pushed_vanishes(episodes):
    columns = recorder("tabletop").columns(boxes=True)[BOXES]
    for episode in episodes:
        name, channel = COLOURS[track_of(episode).number]
        empty = DEGRADATIONS["object_vanishing"].apply(episode, 1.0, np.random.default_rng(0), None)
        inside = region(episode.extras[BOXES], columns, [name], episode.frames.shape[1:3])[1:]
        before = (coloured(episode.frames[1:], channel) & inside).sum((1, 2))
        after = (coloured(empty.frames[1:], channel) & inside).sum((1, 2))
        assert before.min() > 30
        assert (after <= 0.03 * before).mean() > 0.95
        assert after.max() < 0.1 * before.min()


def test_the_object_stays_behind(episodes):
    columns = recorder("tabletop").columns(boxes=True)[BOXES]
    for episode in episodes:
        name, channel = COLOURS[track_of(episode).number]
        damaged = DEGRADATIONS["robot_without_effect"].apply(episode, 1.0, np.random.default_rng(0), None)
        first = region(episode.extras[BOXES][:1], columns, [name], episode.frames.shape[1:3])
        here = (coloured(damaged.frames, channel) & first).sum((1, 2))
        everywhere = coloured(damaged.frames, channel).sum((1, 2))
        assert (here > 0.4 * here[0]).all()  # the finger hides a part
        assert (here > 0.9 * everywhere).all()
