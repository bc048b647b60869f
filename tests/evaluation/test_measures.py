"""Frames that repeat although something should happen."""

from __future__ import annotations

import numpy as np

from roboalign_core.evaluation.measures import repeats


def test_a_frame_that_repeats_counts_only_where_the_recording_changed() -> None:
    recorded = np.zeros((1, 5, 8, 8, 3), np.uint8)
    for step, place in enumerate((0, 2, 2, 4, 6)):
        recorded[0, step, 3, place] = 200
    imagined = recorded.copy()
    imagined[0, 3] = imagined[0, 2]
    np.testing.assert_array_equal(repeats(recorded, recorded, 0.05)[0], [0, np.nan, 0, 0])
    np.testing.assert_array_equal(repeats(imagined, recorded, 0.05)[0], [0, np.nan, 1, 0])
    frozen = np.broadcast_to(recorded[:, :1], recorded.shape)
    np.testing.assert_array_equal(repeats(frozen, recorded, 0.05)[0], [1, np.nan, 1, 1])


def test_changes_below_the_threshold_are_none() -> None:
    recorded = np.zeros((1, 3, 8, 8, 3), np.uint8)
    recorded[0, 1:, 0, 0] = 100
    recorded[0, 2, 1, 1] = 200
    flickering = np.zeros_like(recorded)
    flickering[0, 1] = 10
    assert repeats(flickering, recorded, 0.05).tolist() == [[1, 1]]
    assert repeats(flickering, recorded, 0.03).tolist() == [[0, 0]]
