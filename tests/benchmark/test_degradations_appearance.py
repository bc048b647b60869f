"""Damage to whole frames: figures from pixels alone grow with the strength."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from roboalign_core.benchmark.degradations import DEGRADATIONS
from roboalign_core.episodes import Episode
from roboalign_core.episodes.boxes import BOXES

Push = Callable[..., Episode]


def unsteady_light(episode: Episode, recorded: Episode) -> float:
    return float(np.abs(np.diff(episode.frames.mean((1, 2, 3)))).mean())


def lost_detail(episode: Episode, recorded: Episode) -> float:
    edges = [np.abs(np.diff(one.frames.astype(float), axis=2)).mean() for one in (episode, recorded)]
    return 1 - edges[0] / edges[1]


def red_centre(frames: np.ndarray) -> np.ndarray:
    """(T, 2) middle of the red block, in pixels to the right and down."""
    red = (frames[..., 0] > 110) & (frames[..., 1] < 80) & (frames[..., 2] < 80)
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    return np.stack([(red * x).sum((1, 2)), (red * y).sum((1, 2))], 1) / red.sum((1, 2))[:, None]


def drift(episode: Episode, recorded: Episode) -> float:
    return float(np.linalg.norm(red_centre(episode.frames) - red_centre(recorded.frames), axis=1).mean())


@pytest.mark.parametrize(
    ("name", "figure"), [("flicker", unsteady_light), ("blur", lost_detail), ("texture_drift", drift)]
)
def test_the_figure_grows_with_the_strength(
    name: str, figure: Callable[..., float], curve: Callable[..., np.ndarray]
) -> None:
    measured = curve(name, figure)
    assert (np.diff(measured) > 0).all(), measured


@pytest.mark.parametrize("name", ["flicker", "blur", "texture_drift"])
def test_rows_stay_where_they_are(name: str, push: Push, pool: Any) -> None:
    episode = push(0)
    damaged = DEGRADATIONS[name].apply(episode, 1.0, np.random.default_rng(0), pool)
    np.testing.assert_array_equal(damaged.actions, episode.actions)
    np.testing.assert_array_equal(damaged.extras["progress"], episode.extras["progress"])
    if name != "texture_drift":
        np.testing.assert_array_equal(damaged.extras[BOXES], episode.extras[BOXES])


def test_flicker_goes_both_ways(push: Push, pool: Any) -> None:
    episode = push(0)
    ratio = DEGRADATIONS["flicker"].apply(episode, 1.0, np.random.default_rng(0), pool).frames.mean((1, 2, 3))
    ratio = ratio / episode.frames.mean((1, 2, 3))
    assert ratio.min() < 0.8
    assert ratio.max() > 1.2


def test_blur_grows_along_the_video_and_keeps_the_light(push: Push, pool: Any) -> None:
    episode = push(0)
    blurred = DEGRADATIONS["blur"].apply(episode, 1.0, np.random.default_rng(0), pool).frames.astype(float)
    left = np.square(np.diff(blurred, axis=2)).mean((1, 2, 3))
    left = left / np.square(np.diff(episode.frames.astype(float), axis=2)).mean((1, 2, 3))
    assert (np.diff(left[::4]) < 0).all(), left
    np.testing.assert_allclose(blurred.mean((1, 2, 3)), episode.frames.mean((1, 2, 3)), rtol=0.02)


def test_a_flat_image_stays_flat(push: Push, pool: Any) -> None:
    flat = push(0, frames=np.full((24, 64, 48, 3), 90, np.uint8))
    for name in ("blur", "texture_drift"):
        damaged = DEGRADATIONS[name].apply(flat, 1.0, np.random.default_rng(0), pool)
        np.testing.assert_array_equal(damaged.frames, flat.frames)


def test_boxes_drift_with_what_is_in_them(push: Push, pool: Any) -> None:
    """Where the block is drawn then, its box is: nearer than the box that was recorded."""
    errors, without = [], []
    for seed in range(4):
        episode = push(seed)
        damaged = DEGRADATIONS["texture_drift"].apply(episode, 1.0, np.random.default_rng(seed), pool)
        drawn = red_centre(damaged.frames)
        for found, into in ((damaged, errors), (episode, without)):
            box = found.extras[BOXES][:, 4:8] * 64
            into.append(np.linalg.norm((box[:, :2] + box[:, 2:]) / 2 - 0.5 - drawn, axis=1)[-8:].mean())
    assert np.mean(errors) < 0.5 * np.mean(without)
    assert np.mean(errors) < 1.5
