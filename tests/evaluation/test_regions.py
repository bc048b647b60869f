"""A robot that is not drawn is noticed, however small it is."""

from __future__ import annotations

import numpy as np

from roboalign_core.episodes.boxes import box_columns, boxes_of
from roboalign_core.evaluation.held_out import HeldOut
from roboalign_core.evaluation.regions import lost, masks, moved_objects, without_box


def frames() -> tuple[np.ndarray, np.ndarray]:
    """A finger of 3×3 pixels that wanders over 64×64, and where it is; (1, 6, 64, 64, …)."""
    real = np.full((1, 6, 64, 64, 3), 90, np.uint8)
    mask = np.zeros((1, 6, 64, 64), bool)
    for step in range(6):
        real[0, step, 20:23, 8 * step : 8 * step + 3] = (250, 200, 0)
        mask[0, step, 20:23, 8 * step : 8 * step + 3] = True
    return real, mask


def test_what_is_drawn_is_not_lost() -> None:
    real, mask = frames()
    assert not lost(real, real, mask).any()
    darker = (real.astype(int) - 25).clip(0).astype(np.uint8)
    assert not lost(darker, real, mask).any()


def test_what_is_left_out_is_lost() -> None:
    real, mask = frames()
    drawn = real.copy()
    drawn[0, 2:4] = 90
    np.testing.assert_array_equal(lost(drawn, real, mask)[0], [0, 0, 1, 1, 0, 0])
    beside = np.roll(real, 5, axis=2)
    assert lost(beside, real, mask).all()


def test_nothing_to_see_has_no_value() -> None:
    real, mask = frames()
    assert np.isnan(lost(real, real, np.zeros_like(mask))).all()
    assert np.isnan(lost(real, np.full_like(real, 90), mask)).all()


def test_what_rests_all_the_time_has_no_value_however_noisy_the_video() -> None:
    noise = np.random.default_rng(0).normal(0, 2, (1, 6, 64, 64, 3))
    mask = np.zeros((1, 6, 64, 64), bool)
    mask[:, :, 20:40, 20:40] = True
    clean = np.full((1, 6, 64, 64, 3), 90.0)
    clean[:, :, 20:40, 20:40] = (200, 30, 30)
    assert np.isnan(lost(clean.astype(np.uint8), (clean + noise).round().astype(np.uint8), mask)).all()


def test_masks_are_of_the_frames_after_the_first() -> None:
    real, mask = frames()
    boxes = np.stack([[boxes_of([each]) for each in mask[0]]])
    none = np.zeros((1, 6, 0), np.float32)
    data = HeldOut(real, none[:, 1:], none, (), boxes, box_columns(["finger"]))
    np.testing.assert_array_equal(masks(data, {"robot": ["finger"]})["robot"], mask[:, 1:])
    assert masks(HeldOut(real, none[:, 1:], none, (), none, ()), {"robot": ["finger"]}) == {}


def test_only_objects_that_moved_count_as_pushed() -> None:
    real, mask = frames()
    boxes = np.stack([[np.concatenate([boxes_of([each]), boxes_of([mask[0, 0]])]) for each in mask[0]]])
    state = np.zeros((1, 6, 3), np.float32)
    state[0, :, 0] = np.arange(6) * 0.01
    objects = {"cube": ["cube.x"], "ball": ["ball.x"], "ghost": ["ghost.x"]}
    names = tuple(column for columns in objects.values() for column in columns)
    data = HeldOut(real, np.zeros((1, 5, 0), np.float32), state, names, boxes, box_columns(["cube", "ball"]))
    assert without_box(data, objects) == ["ghost"]
    found = moved_objects(data, objects, 0.025)
    np.testing.assert_array_equal(found[0, :2], np.zeros_like(mask[0, 1:3]), "not further than 2.5 cm yet")
    np.testing.assert_array_equal(found[0, 2:], mask[0, 3:], "the cube's box alone")
