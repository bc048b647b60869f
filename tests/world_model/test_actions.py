"""Actions as bins."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.actions import ActionBinner


def test_the_range_is_from_the_first_to_the_99th_percentile() -> None:
    actions = np.stack([np.linspace(0, 100, 10001), np.linspace(-1, 1, 10001)], axis=1)
    actions[0, 0] = -1e6  # one outlier must not make the bins coarse
    binner = ActionBinner.fit(actions.astype(np.float32), 64)
    np.testing.assert_allclose(binner.low, [1, -0.98], atol=0.011)
    np.testing.assert_allclose(binner.high, [99, 0.98], atol=0.011)
    assert (binner.bins, binner.dim) == (64, 2)
    whole = ActionBinner.fit(actions.astype(np.float32), 64, percentile=0)
    np.testing.assert_allclose((*whole.low, *whole.high), [-1e6, -1, 100, 1])


def test_edges() -> None:
    binner = ActionBinner((0.0,), (4.0,), 4)
    values = torch.tensor([-100.0, 0.0, 0.999, 1.0, 3.999, 4.0, 100.0]).unsqueeze(-1)
    found = binner(values)
    assert found.dtype == torch.int64
    assert found.flatten().tolist() == [0, 0, 0, 1, 3, 3, 3]


@settings(deadline=None, max_examples=50)
@given(bins=st.integers(1, 300), low=st.floats(-100, 100), width=st.floats(0.01, 100), share=st.floats(0, 0.999))
def test_a_value_is_less_than_a_bin_away_from_the_middle_of_its_bin(
    bins: int, low: float, width: float, share: float
) -> None:
    binner = ActionBinner((low,), (low + width,), bins)
    value = low + share * width
    found = int(binner(torch.tensor([[value]], dtype=torch.float64)))
    assert 0 <= found < bins
    assert abs(low + (found + 0.5) * width / bins - value) <= 0.51 * width / bins + 1e-6


def test_a_component_that_never_changes_gets_a_range() -> None:
    actions = np.tile(np.array([[0.0, 3.0]], np.float32), (50, 1))
    binner = ActionBinner.fit(actions, 10)
    assert binner.low == (-1.0, 2.0)
    assert binner.high == (1.0, 4.0)
    assert binner(torch.from_numpy(actions[:1])).tolist() == [[5, 5]]


def test_any_leading_axes() -> None:
    binner = ActionBinner((0.0, 0.0), (1.0, 2.0), 8)
    actions = torch.rand(3, 4, 5, 2)
    found = binner(actions)
    assert found.shape == (3, 4, 5, 2)
    assert torch.equal(found[1, 2, 3], binner(actions[1, 2, 3]))


def test_bad_actions_are_refused() -> None:
    binner = ActionBinner((0.0, 0.0), (1.0, 1.0))
    with pytest.raises(RoboAlignError, match="expected width 2, found 3"):
        binner(torch.zeros(4, 3))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(RoboAlignError, match="finite"):
            binner(torch.tensor([[0.0, bad]]))


@pytest.mark.parametrize(
    "actions",
    [np.zeros((0, 3)), np.zeros(3), np.array([[0.0, np.nan]]), np.array([[np.inf, 0.0]])],
    ids=["none", "one axis", "NaN", "infinity"],
)
def test_nothing_to_fit_is_refused(actions: np.ndarray) -> None:
    with pytest.raises(RoboAlignError, match="actions to bin"):
        ActionBinner.fit(actions)


@pytest.mark.parametrize(
    ("low", "high", "bins"), [((0.0,), (1.0,), 0), ((0.0, 0.0), (1.0,), 8), ((1.0,), (1.0,), 8), ((0.0,), (np.nan,), 8)]
)
def test_impossible_ranges_are_refused(low: tuple[float, ...], high: tuple[float, ...], bins: int) -> None:
    with pytest.raises(RoboAlignError, match="action bins"):
        ActionBinner(low, high, bins)


@pytest.mark.parametrize("percentile", [-1, 50, np.nan])
def test_a_range_without_a_middle_is_refused(percentile: float) -> None:
    with pytest.raises(RoboAlignError, match=r"expected a percentile in \[0, 50\), found"):
        ActionBinner.fit(np.zeros((3, 1)), percentile=percentile)
