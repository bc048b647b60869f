"""What was seen, continued in many ways, is summarised as each of the whole videos would be."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.footage import Footage
from roboalign_core.reward.summary import small, summarise

SIZE = (8, 8)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def seen(frames: np.ndarray, count: int) -> Footage:
    footage = Footage(SIZE, count)
    for frame in frames:
        footage.add(frame)
    return footage


@pytest.mark.parametrize("past", [0, 1, 2, 5, 8, 9, 31])
@pytest.mark.parametrize("steps", [1, 2, 6, 12])
@pytest.mark.parametrize("count", [2, 8])
def test_a_continuation_is_summarised_as_the_whole_video(past: int, steps: int, count: int) -> None:
    before, later = noise(past, *SIZE), noise(3, steps, *SIZE, seed=1)
    found = seen(before, count).continued(later)
    for row in range(3):
        np.testing.assert_array_equal(found[row], summarise(np.concatenate([before, later[row]]), count))


@pytest.mark.parametrize("keep", [1, 2, 5])
@pytest.mark.parametrize("past", [1, 2, 4, 9])
def test_a_video_may_begin_with_the_newest_frames(keep: int, past: int) -> None:
    before, later = noise(past, *SIZE), noise(2, 3, *SIZE, seed=1)
    footage = Footage(SIZE, 4, keep)
    for frame in before:
        footage.add(frame)
    assert len(footage) == min(keep, past)
    expected = summarise(np.concatenate([before[-keep:], later[1]]), 4)
    np.testing.assert_array_equal(footage.continued(later)[1], expected)


def test_frames_of_any_size_are_resized_as_a_video_is() -> None:
    before, later = noise(4, 16, 12), noise(2, 3, 10, 10, seed=1)
    found = seen(before, 4).continued(later)
    whole = np.concatenate([small(before, SIZE), small(later[1], SIZE)])
    np.testing.assert_array_equal(found[1], summarise(whole, 4))


def test_the_caller_may_reuse_its_frame_buffer() -> None:
    buffer = noise(*SIZE)
    footage = Footage(SIZE, 4)
    footage.add(buffer)
    kept = buffer.copy()
    buffer[:] = 0
    np.testing.assert_array_equal(footage.continued(noise(1, 1, *SIZE))[0, 0, 0], kept)


def test_what_is_no_image_is_refused() -> None:
    footage = Footage(SIZE, 4)
    for bad in (noise(8), noise(*SIZE).astype(np.float32), None):
        with pytest.raises(RoboAlignError, match="frame: expected a uint8 array"):
            footage.add(bad)
    with pytest.raises(RoboAlignError, match="futures: expected a uint8 array"):
        footage.continued(noise(1, 2, *SIZE).astype(np.float32))
    assert len(footage) == 0
