from __future__ import annotations

import pickle

import numpy as np
import pytest

from roboalign_core.errors import RoboAlignError

NAN_ACTIONS = np.zeros((12, 3), np.float32)
NAN_ACTIONS[4, 1] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": np.zeros((12, 64, 64, 3), np.float32)}, "frames: expected a uint8 array, found float32"),
        ({"frames": np.zeros((12, 3, 64, 64), np.uint8)}, r"frames: expected shape \(T, H, W, 3\)"),
        ({"frames": np.zeros((1, 64, 64, 3), np.uint8)}, "frames: expected at least 2 frames, found 1"),
        ({"frames": [[1, 2]]}, "frames: expected a uint8 array, found list"),
        ({"actions": np.zeros((12, 3))}, "actions: expected a float32 array, found float64"),
        ({"actions": np.zeros((11, 3), np.float32)}, "actions: expected 12 rows, one per frame, found 11"),
        ({"actions": np.zeros(12, np.float32)}, r"actions: expected shape \(T, K\)"),
        ({"actions": NAN_ACTIONS}, "actions: expected finite numbers, found nan at row 4, column 1"),
        ({"extras": {"progress": np.zeros((3, 1), np.float32)}}, r"extras\['progress'\]: expected 12 rows"),
        ({"extras": {"progress": np.full((12, 1), np.inf, np.float32)}}, r"extras\['progress'\]: expected finite"),
        ({"fps": 0.0}, "fps: expected a positive number"),
        ({"fps": float("nan")}, "fps: expected a positive number"),
        ({"success": 1}, "success: expected true, false or None, found 1"),
        ({"instruction": None}, "instruction: expected text"),
        ({"camera": ""}, "camera: expected text"),
    ],
)
def test_names_the_field_that_is_wrong(make_episode, changes, message):
    with pytest.raises(RoboAlignError, match=message):
        make_episode(**changes)


def test_an_empty_instruction_is_allowed_and_episodes_travel_between_processes(make_episode):
    episode = make_episode(instruction="")
    copy = pickle.loads(pickle.dumps(episode))
    assert copy.instruction == ""
    assert len(copy) == 12
    np.testing.assert_array_equal(copy.extras["progress"], episode.extras["progress"])
