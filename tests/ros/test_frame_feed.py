"""Pairing frames with steps, and counting what was lost."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("roboalign_nodes", reason="needs ros2_ws/src/roboalign_nodes")

from roboalign_nodes.frame_feed import FrameFeed, StepKey


def picture(number: int) -> np.ndarray:
    return np.full((2, 2, 3), number, np.uint8)


def steps(feed: FrameFeed, until: StepKey | None = None) -> list[int]:
    return [seen.key.step for seen in feed.take(until)]


@pytest.mark.parametrize("frame_first", [False, True])
def test_either_order_of_arrival(frame_first: bool) -> None:
    feed = FrameFeed()
    for step in range(3):
        if frame_first:
            feed.add(picture(step), stamp_ns=step)
        feed.announce(StepKey(1, step), stamp_ns=step)
        if not frame_first:
            feed.add(picture(step), stamp_ns=step)
    seen = feed.take()
    assert [(item.key, item.frame[0, 0, 0]) for item in seen] == [(StepKey(1, step), step) for step in range(3)]
    assert (feed.received, feed.dropped) == (3, 0)


def test_a_lost_frame_is_counted_once_a_later_one_arrives() -> None:
    feed = FrameFeed()
    for step in range(4):
        feed.announce(StepKey(1, step), step)
        if step not in (1, 2):
            feed.add(picture(step), step)
    assert steps(feed) == [0, 3]
    assert feed.dropped == 2


def test_a_frame_that_somebody_waited_for_in_vain_counts_once() -> None:
    feed = FrameFeed()
    feed.announce(StepKey(1, 0), 0)
    feed.expired(StepKey(1, 0))
    feed.expired(StepKey(1, 0))
    feed.announce(StepKey(1, 1), 1)
    feed.add(picture(1), 1)
    assert feed.dropped == 1


def test_a_repetition_heals() -> None:
    feed = FrameFeed()
    feed.announce(StepKey(1, 0), 0)
    feed.expired(StepKey(1, 0))
    feed.announce(StepKey(1, 0), 0)
    feed.add(picture(0), 0)
    feed.add(picture(0), 0)
    feed.announce(StepKey(1, 0), 0)
    assert steps(feed) == [0]
    assert (feed.received, feed.dropped) == (1, 1)


def test_take_up_to_a_step() -> None:
    feed = FrameFeed()
    for step in range(5):
        feed.announce(StepKey(1, step), step)
        feed.add(picture(step), step)
    assert steps(feed, StepKey(1, 2)) == [0, 1, 2]
    assert steps(feed, StepKey(1, 2)) == []
    assert steps(feed) == [3, 4]


def test_what_is_put_back_is_handed_out_again() -> None:
    feed = FrameFeed(capacity=3)
    for step in range(2):
        feed.announce(StepKey(1, step), step)
        feed.add(picture(step), step)
    taken = feed.take()
    feed.announce(StepKey(1, 2), 2)
    feed.add(picture(2), 2)
    feed.put_back(taken[1:], feed.restarts)
    assert steps(feed) == [1, 2]
    feed.announce(StepKey(1, 3), 3)
    feed.add(picture(3), 3)
    feed.announce(StepKey(1, 4), 4)
    feed.add(picture(4), 4)
    feed.put_back(taken, feed.restarts)
    assert steps(feed) == [0, 3, 4], "no more than its capacity"
    assert (feed.received, feed.dropped) == (5, 0)


@pytest.mark.parametrize("key", [StepKey(2, 0), StepKey(1, 0)])
def test_what_is_put_back_too_late_is_let_go(key: StepKey) -> None:
    feed = FrameFeed()
    for step in range(2):
        feed.announce(StepKey(1, step), step)
        feed.add(picture(step), step)
    taken, restarts = feed.take(), feed.restarts
    feed.announce(key, 2)  # the next episode, or a robot that starts anew
    feed.add(picture(2), 2)
    feed.put_back(taken, restarts)
    assert [seen.frame[0, 0, 0] for seen in feed.take()] == [2]


def test_a_new_episode_replaces_the_old_one() -> None:
    feed = FrameFeed()
    for stamp, key in enumerate([StepKey(1, 0), StepKey(1, 1), StepKey(2, 0)]):
        feed.announce(key, stamp)
        feed.add(picture(stamp), stamp)
    assert [seen.key for seen in feed.take()] == [StepKey(2, 0)]
    assert feed.dropped == 0


def test_the_first_frame_stays_when_nobody_looks() -> None:
    feed = FrameFeed(capacity=3)
    for step in range(10):
        feed.announce(StepKey(1, step), step)
        feed.add(picture(step), step)
    assert steps(feed) == [0, 8, 9]
    assert feed.dropped == 0


def test_a_robot_that_starts_anew() -> None:
    feed = FrameFeed()
    told = [(StepKey(5, 0), 0), (StepKey(5, 1), 1), (StepKey(1, 0), 2), (StepKey(1, 0), 2), (StepKey(1, 1), 3)]
    for key, stamp in told:
        feed.announce(key, stamp)
        feed.add(picture(stamp), stamp)
    assert [seen.key for seen in feed.take()] == [StepKey(1, 0), StepKey(1, 1)]
    assert (feed.restarts, feed.dropped) == (1, 0)


def test_memory_is_bounded_without_counterparts() -> None:
    feed = FrameFeed()
    for step in range(1000):
        feed.announce(StepKey(1, step), step)
    assert feed.dropped == 1000 - 64
    for stamp in range(10_000, 11_000):
        feed.add(picture(0), stamp)
    feed.announce(StepKey(2, 0), 10_000)
    assert feed.take() == []  # that frame was let go long ago
