"""What long rollouts cost."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.evaluation.long_rollouts import Outcome, costs


def outcome(seconds: np.ndarray, window: int) -> Outcome:
    no_videos = np.zeros((0, seconds.shape[1], 8, 8, 3), np.uint8)
    return Outcome({}, seconds, window, window, tokens=70, bytes=3 * 2**20, videos=no_videos, steps=[])


def test_later_windows_are_compared_with_earlier_ones_frame_by_frame() -> None:
    """Within a window frames take longer and longer; that is no slowing down, and neither is a single hiccup."""
    window = np.tile(np.linspace(1.0, 2.0, 12), 8)[:90]  # the last one is cut short
    seconds = np.stack([window, window])
    seconds[:, 48:] *= 1.1
    seconds[0, 80] *= 50
    found = costs(outcome(seconds, 12))
    assert found["last_to_first_frames_pct"] == pytest.approx(10)
    assert (found["peak_tokens"], found["peak_cache_mb"]) == (70, 3)


def test_short_rollouts_have_nothing_to_compare() -> None:
    assert "last_to_first_frames_pct" not in costs(outcome(np.ones((1, 30)), 12))
