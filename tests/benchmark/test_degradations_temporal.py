"""Damage to the order of frames: figures from pixels alone grow with the strength, and rows go with their frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from roboalign_core.benchmark.degradations import DEGRADATIONS
from roboalign_core.episodes import Episode
from roboalign_core.errors import RoboAlignError

Push = Callable[..., Episode]
Curve = Callable[..., np.ndarray]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def restlessness(episode: Episode, recorded: Episode) -> float:
    return difference(episode.frames[1:], episode.frames[:-1])


def from_recorded(episode: Episode, recorded: Episode) -> float:
    return difference(episode.frames, recorded.frames)


def held(episode: Episode, recorded: Episode) -> float:
    return float((episode.frames[1:] == episode.frames[:-1]).all((1, 2, 3)).mean())


def missing(episode: Episode, recorded: Episode) -> float:
    return 1 - len(episode) / len(recorded)


def backwards(episode: Episode, recorded: Episode) -> float:
    """The share of steps that lead from a recorded frame to the one before it."""
    places = {frame.tobytes(): number for number, frame in enumerate(recorded.frames)}
    order = np.array([places[frame.tobytes()] for frame in episode.frames])
    return float((np.diff(order) == -1).mean())


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("frame_shuffle", restlessness),
        ("segment_swap", from_recorded),
        ("foreign_segment", from_recorded),
        ("freeze", held),
        ("truncation", missing),
        ("time_reversal", backwards),
    ],
)
def test_the_figure_grows_with_the_strength(name: str, figure: Callable[..., float], curve: Curve) -> None:
    measured = curve(name, figure)
    assert (np.diff(measured) > 0).all(), measured


@pytest.mark.parametrize("name", ["frame_shuffle", "segment_swap", "truncation", "time_reversal"])
def test_rows_go_with_their_frames(name: str, push: Push, pool: Any) -> None:
    episode = push(0)
    damaged = DEGRADATIONS[name].apply(episode, 0.6, np.random.default_rng(4), pool)
    times = damaged.extras["observation.state"][:, 0].astype(int)
    np.testing.assert_array_equal(damaged.frames, episode.frames[times])
    np.testing.assert_array_equal(damaged.actions, episode.actions[times])
    for key, rows in damaged.extras.items():
        np.testing.assert_array_equal(rows, episode.extras[key][times])
    if name not in ("truncation", "time_reversal"):
        assert sorted(times) == list(range(len(episode)))


def test_a_shuffle_moves_its_share_of_frames(push: Push, pool: Any) -> None:
    shuffled = DEGRADATIONS["frame_shuffle"].apply(push(0, length=21), 0.5, np.random.default_rng(0), pool)
    times = shuffled.extras["observation.state"][:, 0]
    assert (times != np.arange(21)).sum() == 10


def test_swapped_segments_keep_their_own_order(push: Push, pool: Any) -> None:
    swapped = DEGRADATIONS["segment_swap"].apply(push(0, length=21), 0.5, np.random.default_rng(2), pool)
    times = swapped.extras["observation.state"][:, 0].astype(int)
    away = np.flatnonzero(times != np.arange(21))
    assert len(away) == 10
    np.testing.assert_array_equal(np.diff(times[away[:5]]), 1)
    np.testing.assert_array_equal(times[times[away]], away)


def test_a_hanging_video_goes_on_getting_commands(push: Push, pool: Any) -> None:
    episode = push(0, length=21)
    hanging = DEGRADATIONS["freeze"].apply(episode, 0.5, np.random.default_rng(0), pool)
    times = np.minimum(np.arange(21), 10)
    np.testing.assert_array_equal(hanging.frames, episode.frames[times])
    np.testing.assert_array_equal(hanging.extras["progress"], episode.extras["progress"][times])
    np.testing.assert_array_equal(hanging.actions, episode.actions)


def test_a_truncated_video_keeps_its_beginning(push: Push, pool: Any) -> None:
    episode = push(0, length=22)
    for strength, length in ((0.5, 12), (1.0, 2)):
        short = DEGRADATIONS["truncation"].apply(episode, strength, np.random.default_rng(0), pool)
        np.testing.assert_array_equal(short.frames, episode.frames[:length])


def test_reversed_time_has_no_jump(push: Push, pool: Any) -> None:
    episode = push(0, length=21)
    turned = DEGRADATIONS["time_reversal"].apply(episode, 0.5, np.random.default_rng(0), pool)
    np.testing.assert_array_equal(turned.frames, episode.frames[[*range(10, 0, -1), *range(11)]])
    whole = DEGRADATIONS["time_reversal"].apply(episode, 1.0, np.random.default_rng(0), pool)
    np.testing.assert_array_equal(whole.frames, episode.frames[::-1])


class OneDonor:
    """Always the same other episode."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode

    def donor(self, episode: Episode, rng: np.random.Generator) -> Episode:
        return self.episode

    def instruction(self, episode: Episode, rng: np.random.Generator) -> str:
        raise AssertionError("no instruction is wanted")


@pytest.mark.parametrize("length", [30, 7])
def test_a_foreign_segment_comes_with_its_rows(length: int, push: Push) -> None:
    episode, donor = push(0), push(7, length=length)
    spliced = DEGRADATIONS["foreign_segment"].apply(episode, 0.5, np.random.default_rng(1), OneDonor(donor))
    foreign = np.flatnonzero((spliced.frames != episode.frames).any((1, 2, 3)))
    np.testing.assert_array_equal(foreign, np.arange(foreign[0], foreign[0] + 12))
    times = spliced.extras["observation.state"][foreign, 0].astype(int)
    np.testing.assert_array_equal(spliced.frames[foreign], donor.frames[times])
    np.testing.assert_array_equal(spliced.actions[foreign], donor.actions[times])
    assert (np.diff(times) == 1).all() if length == 30 else set(times) == set(range(7))


def test_a_donor_of_another_kind_is_refused(push: Push) -> None:
    episode = push(0)
    for donor, message in (
        (push(1, size=32), r"frames \(H, W\): expected \(64, 64\), found \(32, 32\)"),
        (replace(push(1), actions=np.zeros((24, 3), np.float32)), r"actions \(columns\): expected 1, found 3"),
        (replace(push(1), extras={}), r"extras \(name: columns\)"),
    ):
        with pytest.raises(RoboAlignError, match=f"foreign_segment: the donor's {message}"):
            DEGRADATIONS["foreign_segment"].apply(episode, 0.5, np.random.default_rng(0), OneDonor(donor))
