"""Looks change what is seen, smoothly and alike for the same number, and leave the scene what it was."""

from __future__ import annotations

import numpy as np
import torch

from roboalign_core.reward.looks import carried, exposed, looking


def test_a_look_is_the_same_for_the_same_number_and_another_for_another() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    still = np.full((16, 16, 3), 255, np.uint8)
    before = frames.copy()
    seen = looking(frames, 3, still)
    assert seen.shape == frames.shape
    assert seen.dtype == np.uint8
    np.testing.assert_array_equal(seen, looking(frames, 3, still))
    assert not np.array_equal(seen, looking(frames, 4, still))
    assert not np.array_equal(seen, looking(frames, 3, None))
    np.testing.assert_array_equal(frames, before)


def test_a_camera_that_moves_moves_smoothly_and_sees_the_same_scene() -> None:
    slope = np.linspace(40, 200, 32, dtype=np.float32)
    still = torch.from_numpy(np.tile((slope[:, None] + 0 * slope)[None, ..., None], (20, 1, 1, 3)).astype(np.uint8))
    seen = carried(still, np.random.default_rng(4)).numpy().astype(np.float32)
    assert seen.shape == (20, 32, 32, 3)
    steps = np.abs(np.diff(seen, axis=0))
    assert steps.max() < 40  # of 160
    assert (steps.mean((1, 2, 3)) > 0.1).all()
    assert 40 <= seen.min() < seen.max() <= 200
    again = carried(still, np.random.default_rng(4)).numpy()
    np.testing.assert_array_equal(seen, again)


def test_a_camera_that_adapts_to_the_light_changes_all_pixels_alike_and_slowly() -> None:
    still = torch.full((40, 8, 8, 3), 120, dtype=torch.uint8)
    seen = exposed(still, np.random.default_rng(1)).numpy().astype(int)
    assert (seen == seen[:, :1, :1, :1]).all()
    light = seen[:, 0, 0, 0]
    assert light.max() - light.min() > 5
    assert 90 <= light.min() <= light.max() <= 150
    assert np.abs(np.diff(light)).max() <= 10
