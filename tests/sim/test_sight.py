"""Whether a frame shows a thing at all: a probe gives a place to everything."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.benchmark.oracles import READ
from roboalign_core.episodes import Episode
from roboalign_core.episodes.boxes import BOXES
from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import HIGHEST
from roboalign_sim.collect import CollectConfig, collect_episodes
from roboalign_sim.state_oracle import LIFT, TABLETOP
from roboalign_sim.state_oracle.sight import Look, unseen

STATE = "observation.state"
MARGIN = 6  # pixels: the spot below the finger is not in its box


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return list(collect_episodes(CollectConfig(out="unused", episodes=12, workers=1, seed=31, boxes=True)))


def _without(episode: Episode, box: int, since: int) -> np.ndarray:
    """Frames in which a box is painted over with what is beside it."""
    frames = episode.frames.copy()
    corners = episode.extras[BOXES].reshape(len(episode), -1, 4)[:, box] * 64
    for frame, (left, top, right, bottom) in zip(frames[since:], corners[since:], strict=False):
        rows = slice(max(int(top) - MARGIN, 0), int(bottom) + MARGIN)
        columns = slice(max(int(left) - MARGIN, 0), int(right) + MARGIN)
        frame[rows, columns] = np.median(frame.reshape(-1, 3), axis=0)
    return frames


def test_recorded_frames_show_everything(episodes: list[Episode]) -> None:
    for episode in episodes:
        np.testing.assert_array_equal(
            TABLETOP.as_seen(episode.extras[STATE], episode.frames), episode.extras[STATE].astype(np.float64)
        )


def test_what_is_painted_over_is_not_there(episodes: list[Episode]) -> None:
    columns = {0: 0, 1: 3, 2: 7}  # boxes of the finger, the cube, the cylinder; the x of each in the state
    for episode in episodes[:4]:
        for box, column in columns.items():
            seen = TABLETOP.as_seen(episode.extras[STATE], _without(episode, box, 10))
            gone = np.isnan(seen[:, column])
            assert not gone[:9].any()
            assert gone[11:].all()


def test_one_frame_is_a_flicker_and_no_absence(episodes: list[Episode]) -> None:
    episode = episodes[0]
    frames = episode.frames.copy()
    frames[7] = 90
    assert not np.isnan(TABLETOP.as_seen(episode.extras[STATE], frames)).any()


def test_an_empty_table_is_worth_nothing_wherever_the_probe_sees_things(episodes: list[Episode]) -> None:
    done = next(episode for episode in episodes if episode.success)
    frames = done.frames.copy()
    frames[2:] = 90
    state, given = done.extras[STATE], (done.actions, done.instruction, READ)
    assert TABLETOP.score_states(state, *given).sum() == HIGHEST.sum()
    scores = TABLETOP.score_states(TABLETOP.as_seen(state, frames), *given)
    assert (scores <= [2, 1, 0, 0, 0, 0]).all()


def test_only_the_hidden_thing_is_missed(episodes: list[Episode]) -> None:
    episode, box = next((episode, box) for episode in episodes for box in (1, 2) if _apart(episode, box))
    seen = TABLETOP.as_seen(episode.extras[STATE], _without(episode, box, 12))
    assert np.isnan(seen).any()
    scores = TABLETOP.score_states(seen, episode.actions, episode.instruction, READ)
    assert (scores[3], scores[5]) == (0, 0)
    assert (scores[2], scores[4]) == (1, 1)  # the robot is there, and does what it is told


def _apart(episode: Episode, box: int) -> bool:
    """Whether the finger and the spot below it stay off a box that is painted over."""
    corners = episode.extras[BOXES].reshape(len(episode), -1, 4)[12:] * 64
    near = (corners[:, 0, :2] < corners[:, box, 2:] + 2 * MARGIN) & (
        corners[:, box, :2] < corners[:, 0, 2:] + 2 * MARGIN
    )
    return not near.all(1).any()


def test_hues_may_lie_around_red() -> None:
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    frames[:2, :4] = (220, 20, 40)
    frames[2:, :4] = (20, 20, 220)
    gone = unseen(frames, {"red": Look(((340, 20),), 0.5), "blue": Look(((205, 265),), 0.5)})
    assert gone["red"].tolist() == [False, False, True, True]
    assert not gone["blue"].any()  # none in the first frame: nothing to miss


def test_frames_that_do_not_fit_are_refused(episodes: list[Episode]) -> None:
    episode = episodes[0]
    with pytest.raises(RoboAlignError, match=r"frames: expected shape \(\d+, H, W, 3\) uint8, found \(5, 64, 64, 3\)"):
        TABLETOP.as_seen(episode.extras[STATE], episode.frames[:5])
    with pytest.raises(RoboAlignError, match="found frames, of which it knows nothing"):
        LIFT.as_seen(np.zeros((3, 8)), np.zeros((3, 8, 8, 3), np.uint8))
