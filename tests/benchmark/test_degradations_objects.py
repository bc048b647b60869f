"""Damage to one object: the block's and the tip's colours say where they are, whatever the boxes say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from roboalign_core.benchmark.degradations import DEGRADATIONS
from roboalign_core.benchmark.degradations.layers import background_of, filled
from roboalign_core.benchmark.degradations.track import track_of
from roboalign_core.episodes import Episode
from roboalign_core.episodes.boxes import BOXES, region

Push = Callable[..., Episode]
COLUMNS = [f"{name}.{side}" for name in ("tip", "block", "rest", "zone") for side in ("left", "top", "right", "bottom")]


def is_red(frames: np.ndarray) -> np.ndarray:
    return (frames[..., 0] > 110) & (frames[..., 1] < 80) & (frames[..., 2] < 80)


def is_yellow(frames: np.ndarray) -> np.ndarray:
    return (frames[..., 0] > 190) & (frames[..., 1] > 160) & (frames[..., 2] < 80)


def middle(mask: np.ndarray) -> np.ndarray:
    """(T, 2) to the right and down, in pixels; NaN where nothing is."""
    y, x = np.mgrid[: mask.shape[1], : mask.shape[2]]
    with np.errstate(invalid="ignore"):
        return np.stack([(mask * x).sum((1, 2)), (mask * y).sum((1, 2))], 1) / mask.sum((1, 2))[:, None]


def red(episode: Episode) -> np.ndarray:
    return middle(is_red(episode.frames))


def apart(episode: Episode, recorded: Episode) -> np.ndarray:
    return np.linalg.norm(red(episode) - red(recorded), axis=1)


def gone(episode: Episode, recorded: Episode) -> float:
    return 1 - is_red(episode.frames).sum() / is_red(recorded.frames).sum()


def jumps(episode: Episode, recorded: Episode) -> float:
    return float(apart(episode, recorded).mean())


def height(episode: Episode, recorded: Episode) -> float:
    return float((red(recorded) - red(episode))[-1, 1])


def stopped(episode: Episode, recorded: Episode) -> float:
    return float(apart(episode, recorded)[-1])


def idle(episode: Episode, recorded: Episode) -> float:
    """The way that the tip does not go."""
    ways = [np.ptp(middle(is_yellow(one.frames))[:, 0]) for one in (recorded, episode)]
    return float(ways[0] - ways[1])


def gap(episode: Episode, recorded: Episode) -> float:
    """How much farther than recorded the block is from the tip, while the tip pushes."""
    pushing = slice(int(0.35 * len(recorded)), int(0.75 * len(recorded)))
    far = [
        np.linalg.norm(red(one) - middle(is_yellow(one.frames)), axis=1)[pushing].mean() for one in (episode, recorded)
    ]
    return float(far[0] - far[1])


@pytest.mark.parametrize(
    ("name", "figure", "at_full"),
    [
        ("object_vanishing", gone, 0.9),
        ("object_teleporting", jumps, 15),
        ("gravity_break", height, 15),
        ("robot_without_effect", stopped, 12),
        ("object_without_robot", idle, 25),
        ("contact_gap", gap, 3),
        ("penetration", lambda *episodes: -gap(*episodes), 2),
    ],
)
def test_the_figure_grows_with_the_strength(
    name: str, figure: Callable[..., float], at_full: float, curve: Callable[..., np.ndarray]
) -> None:
    measured = curve(name, figure)
    assert measured[0] == 0
    assert (np.diff(measured) > 0).all(), measured
    assert measured[-1] > at_full, measured


@pytest.mark.parametrize("size", [64, 160])
def test_what_vanishes_leaves_the_table_behind(size: int, push: Push, pool: Any) -> None:
    for seed in range(3):
        episode = push(seed, size=size)
        empty = DEGRADATIONS["object_vanishing"].apply(episode, 1.0, np.random.default_rng(0), pool)
        assert not is_red(empty.frames[1:]).any()
        assert not empty.extras[BOXES][1:, 4:8].any()
        where = region(episode.extras[BOXES], COLUMNS, ["block"], (size, size))
        where &= ~region(episode.extras[BOXES], COLUMNS, ["tip"], (size, size))
        y, x = (np.mgrid[:size, :size] + 0.5) * 64 / size
        table = np.stack([110 + 0.5 * x, 115 + 0.4 * y, 120 + 0 * x], -1)
        errors = np.abs(empty.frames[1:] - table)[where[1:]]
        assert np.percentile(errors, 95) < 12
        seen = is_yellow(episode.frames)
        assert (is_yellow(empty.frames) & seen).sum() > 0.97 * seen.sum()  # the robot stays


def test_only_the_last_share_is_without_the_object(push: Push, pool: Any) -> None:
    episode = push(0, length=21)
    empty = DEGRADATIONS["object_vanishing"].apply(episode, 0.5, np.random.default_rng(0), pool)
    np.testing.assert_array_equal(empty.frames[:11], episode.frames[:11])
    assert not is_red(empty.frames[11:]).any()


@pytest.mark.parametrize("name", ["object_teleporting", "gravity_break", "robot_without_effect", "contact_gap"])
def test_there_is_one_block_and_its_box_is_where_it_is(name: str, push: Push, pool: Any) -> None:
    for seed in range(3):
        episode = push(seed)
        damaged = DEGRADATIONS[name].apply(episode, 1.0, np.random.default_rng(seed), pool)
        inside = region(damaged.extras[BOXES], COLUMNS, ["block"], (64, 64))
        found = is_red(damaged.frames)
        assert (found & inside).sum() > 0.95 * found.sum()
        amount = found.sum((1, 2)) / is_red(episode.frames).sum((1, 2)).max()
        assert (amount < 1.15).all()
        for other in (slice(0, 4), slice(8, 12), slice(12, 16)):
            np.testing.assert_array_equal(damaged.extras[BOXES][:, other], episode.extras[BOXES][:, other])


def test_what_has_no_part_in_it_stays(push: Push, pool: Any) -> None:
    episode = push(1)
    for name in ("robot_without_effect", "contact_gap", "penetration", "object_vanishing"):
        damaged = DEGRADATIONS[name].apply(episode, 1.0, np.random.default_rng(0), pool)
        np.testing.assert_array_equal(damaged.frames[:, :, :12][:, :18], episode.frames[:, :, :12][:, :18])
        np.testing.assert_array_equal(damaged.actions, episode.actions)
        for key in ("observation.state", "progress"):
            np.testing.assert_array_equal(damaged.extras[key], episode.extras[key])


def test_an_object_without_effect_stays_where_it_is_at_first(push: Push, pool: Any) -> None:
    episode = push(1)
    damaged = DEGRADATIONS["robot_without_effect"].apply(episode, 1.0, np.random.default_rng(0), pool)
    clear = np.abs(red(damaged) - middle(is_yellow(damaged.frames)))[:, 0] > 9  # else the tip hides a part
    assert clear.sum() >= 6
    np.testing.assert_allclose(red(damaged)[clear], np.broadcast_to(red(episode)[0], (clear.sum(), 2)), atol=0.3)


def test_an_object_without_robot_goes_its_way(push: Push, pool: Any) -> None:
    episode = push(1)
    damaged = DEGRADATIONS["object_without_robot"].apply(episode, 1.0, np.random.default_rng(0), pool)
    np.testing.assert_allclose(red(damaged), red(episode), atol=1.6)  # the tip hides a part in the recording
    yellow = middle(is_yellow(damaged.frames))
    np.testing.assert_allclose(yellow, np.broadcast_to(yellow[0], yellow.shape), atol=0.01)
    np.testing.assert_array_equal(damaged.extras["observation.state"][:, 0], 0)  # rows come with the robot


def test_a_gap_lets_the_block_start_first(push: Push, pool: Any) -> None:
    episode = push(0, length=40)
    start = {}
    for name in ("contact_gap", "penetration"):
        damaged = DEGRADATIONS[name].apply(episode, 1.0, np.random.default_rng(0), pool)
        start[name] = int(np.argmax(np.abs(red(damaged) - red(damaged)[0])[:, 0] > 2.5))
    recorded = int(np.argmax(np.abs(red(episode) - red(episode)[0])[:, 0] > 2.5))
    assert start["contact_gap"] <= recorded - 6
    assert start["penetration"] >= recorded + 6


def test_an_object_that_rises_throws_a_shadow(push: Push, pool: Any) -> None:
    episode = push(1)
    risen = DEGRADATIONS["gravity_break"].apply(episode, 1.0, np.random.default_rng(0), pool)
    box = (episode.extras[BOXES][-1, 4:8] * 64).astype(int)
    under = (slice(box[3] - 4, box[3] - 2), slice((box[0] + box[2]) // 2 - 2, (box[0] + box[2]) // 2 + 2))
    beside = episode.frames[-1, box[3] + 3 : box[3] + 5, under[1]]
    assert risen.frames[-1][under].mean() < 0.75 * beside.mean()


def test_an_object_of_the_colours_of_its_table_is_moved_with_its_whole_box(push: Push, pool: Any) -> None:
    episode = push(1)
    y, x = np.mgrid[:64, :64] + 0.5
    table = np.stack([110 + 0.5 * x, 115 + 0.4 * y, 120 + 0 * x], -1).astype(np.uint8)
    frames = np.where(is_red(episode.frames)[..., None], table + 9, episode.frames)
    hidden = push(1, frames=frames)
    risen = DEGRADATIONS["gravity_break"].apply(hidden, 1.0, np.random.default_rng(0), pool)
    sizes = [one.extras[BOXES][-1, 6:8] - one.extras[BOXES][-1, 4:6] for one in (risen, hidden)]
    np.testing.assert_allclose(*sizes, atol=1 / 64)


def test_the_track_sees_what_the_robot_hides(push: Push) -> None:
    """A tall robot stands before the left half of a block: the box that is seen of it is half as wide."""
    boxes = np.zeros((10, 8), np.float32)
    boxes[:, 4:8] = np.array([20, 20, 30, 30]) / 64
    boxes[:5, [4, 6]] += 12 / 64  # it moves first
    boxes[6:, 4] = 25 / 64
    boxes[6:, :4] = np.array([18, 10, 25, 40]) / 64
    track = track_of(push(0, length=10, extras={BOXES: boxes}))
    np.testing.assert_array_equal(track.boxes[5:], np.tile([20, 20, 30, 30], (5, 1)))
    np.testing.assert_array_equal(track.boxes[:5], np.tile([32, 20, 42, 30], (5, 1)))
    np.testing.assert_array_equal(track.clear, [0, 1, 2, 3, 4, 5, 5, 5, 5, 5])


def test_the_background_is_what_is_never_covered() -> None:
    frames = np.full((6, 8, 8, 3), 50, np.uint8)
    covered = np.zeros((6, 8, 8), bool)
    covered[:4, 2:4, 2:4] = covered[:, 5:7, 5:7] = True
    frames[covered] = 200
    np.testing.assert_array_equal(background_of(frames, covered), 50)


def test_holes_are_filled_from_both_sides() -> None:
    image = np.zeros((1, 5, 3), np.uint8)
    image[0, 0], image[0, 4] = 100, 200
    known = np.array([[True, False, False, False, True]])
    np.testing.assert_array_equal(filled(image, known)[0, :, 0], [100, 125, 150, 175, 200])
    alone = np.array([[False, False], [False, True]])
    np.testing.assert_array_equal(filled(np.full((2, 2, 3), 7, np.uint8), alone), 7)
