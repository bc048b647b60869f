"""Streams on frame times, against the definitions written out message by message."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roboalign_core.episodes.readers.rosbag import alignment
from roboalign_core.episodes.readers.rosbag.episodes import Span, frame_times
from roboalign_core.episodes.readers.rosbag.fields import Field
from roboalign_core.episodes.readers.rosbag.options import Command, CommandKind, Source, Topics
from roboalign_core.episodes.readers.rosbag.tracks import Survey, Track
from roboalign_core.errors import RoboAlignError

PERIOD, GAP = 100, 250

# Stamps that jitter, drop out and come in bursts, some of them on the frames.
stamps = st.lists(st.integers(0, 1500), min_size=1, max_size=40, unique=True).map(
    lambda found: np.array(sorted(found), np.int64)
)
frame_counts = st.integers(2, 12)


def frames(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.int64) * PERIOD


def values(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(-8, 9, (count, 2)).astype(np.float64)


@given(stamps, frame_counts)
def test_a_target_is_the_newest_at_the_next_frame(found: np.ndarray, count: int) -> None:
    found = found - found[0]  # one is known at the first frame
    rows = alignment.targets(frames(count), found, values(len(found)))
    for t in range(count):
        until = min(t + 1, count - 1) * PERIOD
        newest = max(place for place, stamp in enumerate(found) if stamp <= until)
        np.testing.assert_array_equal(rows[t], values(len(found))[newest])


@given(stamps, frame_counts)
def test_steps_are_neither_lost_nor_counted_twice(found: np.ndarray, count: int) -> None:
    rows = alignment.steps(frames(count), found, values(len(found)))
    for t in range(count - 1):
        inside = (found > t * PERIOD) & (found <= (t + 1) * PERIOD)
        np.testing.assert_array_equal(rows[t], values(len(found))[inside].sum(axis=0))
    assert not rows[-1].any()


@given(stamps, frame_counts)
def test_integrals_are_speed_times_time(found: np.ndarray, count: int) -> None:
    """Each velocity lasts until the next, or for the gap; what falls between two frames is its share."""
    rows = alignment.integrals(frames(count), found, values(len(found)), GAP)
    ends = np.minimum(np.append(found[1:], 1 << 40), found + GAP)
    for t in range(count - 1):
        shares = np.minimum(ends, (t + 1) * PERIOD) - np.maximum(found, t * PERIOD)
        expected = (values(len(found)) * shares.clip(min=0)[:, None]).sum(axis=0) / alignment.NS
        np.testing.assert_allclose(rows[t], expected, atol=1e-15)
    assert not rows[-1].any()


@given(stamps, frame_counts)
def test_gaps_are_the_times_without_news(found: np.ndarray, count: int) -> None:
    times = frames(count)
    gaps = alignment.gaps(found, times, GAP)
    for now in range(0, int(times[-1]) + 1, 10):
        before, after = found[found <= now], found[(found > now) & (found <= times[-1])]
        last = int(before[-1]) if len(before) else 0
        following = int(after[0]) if len(after) else int(times[-1])
        silent = following - last > GAP and last <= now < following
        assert silent == any(at <= now < at + length for at, length in gaps)


@given(
    st.integers(0, 1 << 60), st.integers(0, 3_000_000_000), st.sampled_from([1.0, 7.5, 10.0, 15.0, 29.97, 30.0, 60.0])
)
def test_a_grid_covers_the_time_and_no_more(start: int, length: int, rate: float) -> None:
    times = alignment.grid(start, start + length, rate)
    steps = np.diff(times) * rate / alignment.NS
    assert times[0] == start
    assert times[-1] <= start + length < times[-1] + 1.001 * alignment.NS / rate
    np.testing.assert_allclose(steps, 1, atol=1e-6)


def surveyed(**streams: np.ndarray) -> Survey:
    tracks = {name: Track(found * 10**6, np.arange(len(found)), found, []) for name, found in streams.items()}
    return Survey(Path("bag"), tracks, {}, ())


@given(stamps, stamps, stamps, st.integers(-700, 700), st.sampled_from(list(CommandKind)))
def test_frames_begin_when_all_is_known_and_end_with_the_first_camera(
    front: np.ndarray, wrist: np.ndarray, told: np.ndarray, shift: int, kind: CommandKind
) -> None:
    """Times in ms: every camera has shown an image, a target is known one frame on, and no earlier start would do."""
    told = told + shift
    topics = Topics(10, {"a": "front", "b": "wrist"}, (Command(Source("told", Field("x")), "x", "m", kind),))
    needs = max(front[0], wrist[0]), (told[0] if kind is CommandKind.ABSOLUTE else -(10**6))
    stop = min(front[-1], wrist[-1])
    earliest = next(ms for ms in range(-1000, 3000) if ms >= needs[0] and ms + PERIOD >= needs[1])
    survey = surveyed(front=front, wrist=wrist, told=told)
    if earliest + PERIOD > stop:
        with pytest.raises(RoboAlignError, match=r"expected two frames while all streams run, found [01]: front"):
            frame_times(survey, topics, Span())
        return
    times = frame_times(survey, topics, Span()) // 10**6
    np.testing.assert_array_equal(times, np.arange(earliest, stop + 1, PERIOD))


@given(stamps, st.integers(0, 1500), st.integers(1, 700))
def test_an_episode_knows_its_own_messages_only(front: np.ndarray, start: int, length: int) -> None:
    topics = Topics(10, {"a": "front"}, (Command(Source("told", Field("x")), "x", "m", CommandKind.DELTA),), "a")
    inside = front[(front >= start) & (front < start + length)]
    survey, span = surveyed(front=front, told=front), Span(start * 10**6, (start + length) * 10**6)
    if len(inside) < 2:
        with pytest.raises(RoboAlignError, match="expected two frames"):
            frame_times(survey, topics, span)
        return
    np.testing.assert_array_equal(frame_times(survey, topics, span) // 10**6, inside)


@given(stamps, st.randoms(use_true_random=False), st.integers(0, 10))
def test_any_order_of_receipt_gives_the_order_of_the_stamps(
    found: np.ndarray, chance: random.Random, repeats: int
) -> None:
    sent = [*found, *(found[chance.randrange(len(found))] for _ in range(repeats))]
    chance.shuffle(sent)
    received = np.array(sent, np.int64)
    places, late, twice = alignment.in_order(received, [str(stamp) for stamp in sent], True, 1500)
    np.testing.assert_array_equal(received[places], found)
    assert twice == repeats
    assert late == sum(stamp < max(sent[: place + 1]) for place, stamp in enumerate(sent))


def test_differing_messages_of_one_stamp() -> None:
    times = np.array([1, 2, 2, 3], np.int64)
    places, _, twice = alignment.in_order(times, ["a", "b", "c", "d"], False, 10)
    assert (places.tolist(), twice) == ([0, 1, 2, 3], 0)
    with pytest.raises(RoboAlignError, match="expected one message a stamp"):
        alignment.in_order(times, ["a", "b", "c", "d"], True, 10)


def test_a_stamp_too_far_back() -> None:
    times = np.array([100, 90, 110], np.int64)
    assert alignment.in_order(times, "abc", True, 10)[0].tolist() == [1, 0, 2]
    with pytest.raises(RoboAlignError, match=r"found message 1 stamped .* before an earlier one"):
        alignment.in_order(times, "abc", True, 9)


def test_a_grid_of_a_clock_that_jumped() -> None:
    with pytest.raises(RoboAlignError, match="expected at most 1000000 frames"):
        alignment.grid(0, 1 << 61, 30)
    assert len(alignment.grid(5, 4, 30)) == 0
