"""Boxes say where things are seen, whatever the size of the frames."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.episodes.boxes import box_columns, boxes_of, region
from roboalign_core.errors import RoboAlignError

COLUMNS = box_columns(["hand", "cube"])


def masks(size: int = 8) -> list[np.ndarray]:
    hand, cube = np.zeros((2, size, size), bool)
    hand[1:3, 2:6] = True
    cube[5, 5] = True
    return [hand, cube]


def test_a_box_encloses_what_is_seen() -> None:
    assert COLUMNS[:4] == ("hand.left", "hand.top", "hand.right", "hand.bottom")
    np.testing.assert_allclose(boxes_of(masks()), [0.25, 0.125, 0.75, 0.375, 0.625, 0.625, 0.75, 0.75])


def test_what_is_not_seen_has_no_region() -> None:
    row = boxes_of([np.zeros((8, 8), bool), masks()[1]])
    assert not row[:4].any()
    assert not region(row, COLUMNS, ["hand"], (8, 8)).any()


@pytest.mark.parametrize("name", ["hand", "cube"])
def test_the_region_is_the_box(name: str) -> None:
    expected = dict(zip(["hand", "cube"], masks(), strict=True))[name]
    rows = np.stack([boxes_of(masks())] * 3)
    found = region(rows, COLUMNS, [name], (8, 8))
    assert found.shape == (3, 8, 8)
    assert (found == expected).all()
    large = region(rows[0], COLUMNS, [name], (16, 32))
    np.testing.assert_array_equal(large, expected.repeat(2, 0).repeat(4, 1))


def test_regions_join() -> None:
    row = boxes_of(masks())
    both = region(row, COLUMNS, ["hand", "cube"], (8, 8))
    assert (both == (masks()[0] | masks()[1])).all()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(RoboAlignError, match="expected one of cube, hand, found 'zone'"):
        region(boxes_of(masks()), COLUMNS, ["zone"], (8, 8))
