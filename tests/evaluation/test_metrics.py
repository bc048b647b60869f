from __future__ import annotations

import numpy as np
import pytest
import torch

from roboalign_core import RoboAlignError
from roboalign_core.evaluation.metrics import PSNR_OF_IDENTICAL_DB, moving_region, psnr, ssim


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def disturbed(images: np.ndarray, amplitude: int, seed: int = 1) -> np.ndarray:
    offset = np.random.default_rng(seed).integers(-amplitude, amplitude + 1, images.shape)
    return np.clip(images.astype(int) + offset, 0, 255).astype(np.uint8)


def naive_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Equation 13 of the paper, one window at a time."""
    x, y = x.astype(float) / 255, y.astype(float) / 255
    offsets = np.arange(11) - 5
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for channel in range(3):
        for row in range(x.shape[0] - 10):
            for column in range(x.shape[1] - 10):
                a = x[row : row + 11, column : column + 11, channel]
                b = y[row : row + 11, column : column + 11, channel]
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a = (window * (a - mean_a) ** 2).sum()
                var_b = (window * (b - mean_b) ** 2).sum()
                both = (window * (a - mean_a) * (b - mean_b)).sum()
                values.append(
                    (2 * mean_a * mean_b + 0.01**2)
                    * (2 * both + 0.03**2)
                    / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2))
                )
    return float(np.mean(values))


def test_psnr_of_a_known_error() -> None:
    dark = np.zeros((2, 8, 8, 3), np.uint8)
    light = dark.copy()
    light[0] = 51  # a fifth of the range everywhere: MSE 0.04
    light[1, :4] = 51  # over half of the picture: MSE 0.02
    np.testing.assert_allclose(psnr(light, dark), [10 * np.log10(25), 10 * np.log10(50)])


def test_psnr_keeps_leading_dimensions_and_takes_tensors() -> None:
    images = noise(2, 3, 16, 16)
    other = disturbed(images, 9)
    values = psnr(images, other)
    assert values.shape == (2, 3)
    np.testing.assert_array_equal(psnr(torch.from_numpy(images), torch.from_numpy(other)), values)
    np.testing.assert_allclose(psnr(images / 255.0, other / 255.0), values)
    assert psnr(images[0, 0], other[0, 0]).shape == ()


def test_psnr_of_identical_images_is_finite() -> None:
    images = noise(4, 16, 16)
    np.testing.assert_array_equal(psnr(images, images), np.full(4, PSNR_OF_IDENTICAL_DB))


def test_masked_psnr_sees_only_the_mask() -> None:
    images = noise(2, 16, 16)
    other = images.copy()
    other[:, :4, :4] = 255 - other[:, :4, :4]
    inside = np.zeros((2, 16, 16), bool)
    inside[:, :4, :4] = True
    np.testing.assert_allclose(psnr(images, other, inside), psnr(images[:, :4, :4], other[:, :4, :4]))
    np.testing.assert_array_equal(psnr(images, other, ~inside), [PSNR_OF_IDENTICAL_DB] * 2)
    inside[1] = False
    assert np.isnan(psnr(images, other, inside)).tolist() == [False, True]


def test_one_mask_for_a_whole_batch() -> None:
    images, mask = noise(3, 16, 16), np.eye(16, dtype=bool)
    other = disturbed(images, 30)
    expected = [float(psnr(a, b, mask)) for a, b in zip(images, other, strict=True)]
    np.testing.assert_allclose(psnr(images, other, mask), expected)


@pytest.mark.parametrize("amplitude", [2, 30, 200])
def test_ssim_equals_the_formula(amplitude: int) -> None:
    images = noise(2, 15, 18)
    other = disturbed(images, amplitude)
    expected = [naive_ssim(a, b) for a, b in zip(images, other, strict=True)]
    np.testing.assert_allclose(ssim(images, other), expected, atol=1e-9)


def test_ssim_orders_and_is_one_only_for_identical_images() -> None:
    images = noise(5, 24, 24)
    values = [float(ssim(images, disturbed(images, amplitude)).mean()) for amplitude in (0, 5, 50, 255)]
    assert values[0] == pytest.approx(1.0)
    assert values == sorted(values, reverse=True)
    assert values[1] < 1.0


def test_ssim_over_more_images_than_one_pass_takes() -> None:
    images = noise(300, 12, 12)
    other = disturbed(images, 20)
    np.testing.assert_allclose(ssim(images, other)[[0, 299]], ssim(images[[0, 299]], other[[0, 299]]))


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (noise(8, 8), noise(8, 9), "same shape and dtype"),
        (noise(8, 8), noise(8, 8) / 255.0, "same shape and dtype"),
        (noise(8, 8)[..., :2], noise(8, 8)[..., :2], r"\(\.\.\., H, W, 3\)"),
        (noise(8, 8).astype(np.int64), noise(8, 8).astype(np.int64), "int64"),
        (noise(8, 8).astype(float), noise(8, 8).astype(float), r"values in 0\.\.1"),
        (np.full((8, 8, 3), np.nan), np.zeros((8, 8, 3)), "finite"),
        (np.zeros((0, 8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8), "at least one image"),
    ],
)
def test_bad_images_are_refused(first: np.ndarray, second: np.ndarray, message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        psnr(first, second)


def test_bad_masks_and_small_images_are_refused() -> None:
    with pytest.raises(RoboAlignError, match="expected bool"):
        psnr(noise(8, 8), noise(8, 8), np.ones((8, 8)))
    with pytest.raises(RoboAlignError, match="broadcasts"):
        psnr(noise(8, 8), noise(8, 8), np.ones((8, 7), bool))
    with pytest.raises(RoboAlignError, match="at least 11x11"):
        ssim(noise(10, 20), noise(10, 20))


def test_the_moving_region_is_what_moves() -> None:
    frames = np.full((2, 6, 16, 16, 3), 100, np.uint8)
    for step in range(6):
        frames[0, step, 4:7, 2 * step : 2 * step + 3] = (250, 200, 0)
    frames[:, :, 12:, 12:] = 0  # dark, but at rest
    region = moving_region(frames)
    assert region.shape == (2, 6, 16, 16)
    assert not region[1].any()
    for step in range(6):
        expected = np.zeros((16, 16), bool)
        expected[4:7, 2 * step : 2 * step + 3] = True
        assert (region[0, step] == expected).all()
    assert np.isnan(psnr(frames[1], frames[1], region[1])).all()
