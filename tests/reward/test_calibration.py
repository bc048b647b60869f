"""From logits to scores, and to how far off they may be."""

from __future__ import annotations

import pytest
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.calibration import Calibration


def logits(heads: int = 4, count: int = 500, spread: float = 0.0, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    common = torch.randn(1, count, 6, generator=random)
    return common + spread * torch.randn(heads, count, 6, generator=random)


def test_it_is_nothing_by_default() -> None:
    found = logits(spread=0.5)
    shares, errors = Calibration().apply(found)
    torch.testing.assert_close(shares, found.sigmoid().mean(0))
    torch.testing.assert_close(errors, found.sigmoid().std(0))


def test_a_distortion_is_undone() -> None:
    found = logits()
    scales, shifts = torch.linspace(0.5, 2.0, 6), torch.linspace(-1.0, 1.0, 6)
    labels = (found[0] * scales + shifts).sigmoid()
    calibration = Calibration.fit(found, labels)
    torch.testing.assert_close(torch.tensor(calibration.scale), scales, atol=0.15, rtol=0.1)
    torch.testing.assert_close(torch.tensor(calibration.shift), shifts, atol=0.1, rtol=0.1)
    before = (Calibration().apply(found)[0] - labels).square().mean()
    after = (calibration.apply(found)[0] - labels).square().mean()
    assert after < 0.02 * before


def test_order_and_range_stay_even_where_labels_run_backwards() -> None:
    found = logits()
    calibration = Calibration.fit(found, (-found[0]).sigmoid())
    shares = calibration.apply(20 * found)[0]
    assert min(calibration.scale) > 0
    assert shares.min() >= 0
    assert shares.max() <= 1
    order = found[0].argsort(0)
    assert (shares.gather(0, order).diff(dim=0) >= 0).all()


def test_the_standard_error_is_that_of_pairs_not_seen() -> None:
    """Heads that disagree more where they err more: the fitted error follows."""
    random = torch.Generator().manual_seed(1)
    hard = (torch.arange(4000) % 2).float()[None, :, None]
    centre = 0.5 * torch.randn(1, 4000, 6, generator=random)
    found = centre + (0.2 + hard) * torch.randn(32, 4000, 6, generator=random)
    noise = 0.15 * (0.2 + hard[0]) * torch.randn(4000, 6, generator=random)
    labels = (centre[0].sigmoid() + noise).clamp(0, 1)
    calibration = Calibration.fit(found, labels)
    shares, errors = calibration.apply(found)
    real = [(shares - labels)[half::2].square().mean().sqrt().item() for half in (0, 1)]
    said = [errors[half::2].square().mean().sqrt().item() for half in (0, 1)]
    assert said[1] == pytest.approx(real[1], rel=0.1)
    assert said[0] == pytest.approx(real[0], abs=0.03)
    assert said[1] > 2 * said[0]


def test_heads_that_never_disagree_leave_the_floor() -> None:
    found = logits(spread=0.0)
    labels = (found[0].sigmoid() + 0.1 * torch.randn(500, 6)).clamp(0, 1)
    calibration = Calibration.fit(found, labels)
    shares, errors = calibration.apply(found)
    assert errors.std(0).max() < 1e-6
    torch.testing.assert_close(errors[0].mean(), (shares - labels).square().mean().sqrt(), atol=0.01, rtol=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": [1.0] * 5}, "scale: expected 6 finite numbers"),
        ({"scale": [-1.0] * 6}, "scale: expected 6 finite numbers of at least 0"),
        ({"shift": [float("nan")] * 6}, "shift: expected 6 finite numbers"),
        ({"floor": [-0.1] * 6}, "floor: expected 6 finite numbers of at least 0"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, list[float]], message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        Calibration(**changes)
