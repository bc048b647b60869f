"""Errors in centimetres on places worked out by hand."""

from __future__ import annotations

import numpy as np

from roboalign_core.evaluation.positions import distance_cm, has_moved, moved_error_cm

NAMES = ("finger.z", "cube.x", "cube.y", "ball.x", "ball.y")  # metres
OBJECTS = {"cube": ["cube.x", "cube.y"], "ball": ["ball.x", "ball.y"]}


def places(*rows: tuple[float, ...]) -> np.ndarray:
    """One episode of states (1, T, 5)."""
    return np.array([rows])


def test_distances_are_in_centimetres_and_in_the_columns_that_are_named() -> None:
    truth = places((0.5, 0.1, 0.2, 0, 0), (0.5, 0.1, 0.2, 0, 0))
    seen = truth + places((9, 0.03, -0.04, 0, 0.02), (9, 0, 0, 0.06, 0.08))  # 3 and 4 cm, then 6 and 8 cm
    np.testing.assert_allclose(distance_cm(seen, truth, NAMES, OBJECTS["cube"]), [[5, 0]], atol=1e-9)
    np.testing.assert_allclose(distance_cm(seen, truth, NAMES, OBJECTS["ball"]), [[2, 10]], atol=1e-9)
    np.testing.assert_allclose(distance_cm(seen, truth, NAMES, ["ball.y"]), [[2, 8]], atol=1e-9)


def test_an_object_has_moved_beyond_the_threshold_from_where_it_was_first() -> None:
    cube = [(0, 0), (0.015, 0), (0.03, 0), (0.03, 0.04), (0.01, 0)]  # 1.5, 3 and 5 cm away, and back
    truth = places(*((0.1 * step, *place, 0, 0) for step, place in enumerate(cube)))
    np.testing.assert_array_equal(has_moved(truth, NAMES, OBJECTS["cube"], 0.02), [[False, True, True, False]])
    assert not has_moved(truth, NAMES, OBJECTS["cube"], 0.06).any()
    assert not has_moved(truth, NAMES, OBJECTS["ball"], 0.02).any()


def test_errors_are_means_over_the_objects_that_have_moved() -> None:
    truth = places(
        (0, 0.1, 0.1, 0.3, 0.3),
        (0, 0.1, 0.1, 0.31, 0.3),  # the ball rolled 1 cm: below the threshold
        (0, 0.13, 0.14, 0.31, 0.3),  # the cube went 5 cm
        (0, 0.13, 0.14, 0.3, 0.42),  # the ball 12 cm, too
    )
    seen = truth[:, 1:] + places((0, 0.03, 0.04, 0.5, 0.5), (0, 0.03, 0.04, 0.5, 0.5), (7, 0.03, 0.04, 0, -0.01))
    found = moved_error_cm(seen, truth, NAMES, OBJECTS, 0.02)
    np.testing.assert_allclose(found, [[np.nan, 5, 3]], atol=1e-9)  # none; the cube's 5 cm; the mean of 5 and 1 cm
    still = np.broadcast_to(truth[:, :1], truth.shape)
    assert np.isnan(moved_error_cm(seen, still, NAMES, OBJECTS, 0.02)).all()
