"""Videos of any length and size as a few frames, of which no flicker is lost."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from roboalign_core.reward.summary import chosen, small, summarise


@pytest.mark.parametrize("count", [2, 5, 16])
def test_frames_lie_evenly_from_the_first_to_the_last(count: int) -> None:
    for length in range(count, 200):
        picked = chosen(length, count)
        assert (picked[0], picked[-1], len(picked)) == (0, length - 1, count)
        steps = np.diff(picked)
        assert steps.min() >= 1
        assert steps.max() - steps.min() <= 1


def test_short_videos_are_taken_whole() -> None:
    np.testing.assert_array_equal(chosen(3, 8), [0, 1, 2])
    video = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    summary = summarise(video, 8)
    np.testing.assert_array_equal(summary[0], video)
    np.testing.assert_array_equal(summary[1, 0], 0)
    np.testing.assert_array_equal(summary[1, 1:], np.abs(np.diff(video.astype(int), axis=0)))


def test_one_frame_is_a_video_that_does_not_change() -> None:
    video = np.full((1, 8, 8, 3), 7, np.uint8)
    assert summarise(video, 8).shape == (2, 1, 8, 8, 3)
    assert not summarise(video, 8)[1].any()


def test_a_flash_between_the_chosen_frames_is_seen() -> None:
    video = np.full((33, 8, 8, 3), 100, np.uint8)
    picked = chosen(33, 8)
    flash = next(frame for frame in range(33) if frame not in picked and frame + 1 not in picked)
    video[flash] += 50
    summary = summarise(video, 8)
    assert (summary[0] == 100).all()
    after = int(np.searchsorted(picked, flash))
    assert [part.max() for part in summary[1]] == [50 if index == after else 0 for index in range(8)]


def test_every_change_counts_once() -> None:
    random = np.random.default_rng(0)
    video = random.integers(0, 256, (21, 4, 4, 3), dtype=np.uint8)
    picked, changes = chosen(21, 6), np.abs(np.diff(video.astype(int), axis=0))
    expected = [changes[first:last].max(0) for first, last in pairwise(picked)]
    np.testing.assert_array_equal(summarise(video, 6)[1, 1:], expected)


def test_resizing_in_blocks_is_resizing() -> None:
    video = np.random.default_rng(0).integers(0, 256, (300, 12, 20, 3), dtype=np.uint8)
    whole = small(video, (8, 8))
    assert whole.shape == (300, 8, 8, 3)
    np.testing.assert_array_equal(whole[250:], small(video[250:], (8, 8)))
    assert small(video, (12, 20)) is video
