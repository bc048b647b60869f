"""The six scores."""

from __future__ import annotations

import numpy as np
import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import DIMENSIONS, HIGHEST, KEYS, Scores


def test_the_scales_are_those_of_the_paper() -> None:
    assert [dimension.highest for dimension in DIMENSIONS] == [3, 2, 1, 1, 1, 2]
    assert HIGHEST.sum() == 10
    assert Scores.perfect(3).total.tolist() == [10, 10, 10]


def test_scores_add_up_and_normalise() -> None:
    scores = Scores(np.array([[3, 1, 1, 0, 0.5, 2]], np.float64))
    assert scores.raw.dtype == np.float32
    np.testing.assert_allclose(scores.total, [7.5])
    np.testing.assert_allclose(scores.normalised, [[1, 0.5, 1, 0, 0.5, 1]])
    assert Scores.of(scores.rows()).raw.tolist() == scores.raw.tolist()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (np.zeros((2, 5)), r"expected shape \(B, 6\), found \(2, 5\)"),
        (np.zeros(6), r"expected shape \(B, 6\), found \(6,\)"),
        (np.array([[4.0, 0, 0, 0, 0, 0]]), "instruction_following of video 0: expected 0 to 3, found 4.0"),
        (np.array([[0.0] * 6, [0, 0, 0, 0, 0, -1]]), "physics_adherence of video 1: expected 0 to 2, found -1.0"),
        (np.array([[0, np.nan, 0, 0, 0, 0]]), "manipulation_success of video 0: expected 0 to 2, found nan"),
    ],
)
def test_impossible_scores_are_refused(raw: np.ndarray, message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        Scores(raw)


def test_mappings_need_the_six_keys_and_numbers() -> None:
    good = dict.fromkeys(KEYS, 1)
    with pytest.raises(RoboAlignError, match="expected the keys"):
        Scores.of([{**good, "extra": 1}])
    with pytest.raises(RoboAlignError, match="contact_realism: expected a number, found True"):
        Scores.of([{**good, "contact_realism": True}])
    with pytest.raises(RoboAlignError, match="contact_realism: expected a number, found '1'"):
        Scores.of([{**good, "contact_realism": "1"}])
