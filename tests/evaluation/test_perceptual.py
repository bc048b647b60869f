from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch

from roboalign_core import RoboAlignError
from roboalign_core.errors import MissingExtraError
from roboalign_core.evaluation import perceptual as perceptual_module
from roboalign_core.evaluation.perceptual import Perceptual
from roboalign_core.torchvision_ops import declare_missing_ops

needs_lpips = pytest.mark.skipif(
    importlib.util.find_spec("lpips") is None or importlib.util.find_spec("torchvision") is None,
    reason='lpips is not installed: pip install "roboalign[perceptual]"',
)


def pictures(count: int = 4) -> np.ndarray:
    frames = np.full((count, 64, 64, 3), (60, 90, 120), np.uint8)
    for index in range(count):
        frames[index, 20:40, 8 * index : 8 * index + 20] = (220, 60, 40)
    return frames


def test_absent_package_gives_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtraError, match=r'pip install "roboalign\[perceptual\]"'):
        Perceptual()


def test_nothing_is_declared_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert declare_missing_ops() == []


@needs_lpips
def test_distance_orders_disturbances_and_is_the_same_in_every_instance() -> None:
    frames = pictures()
    noise = np.random.default_rng(0).normal(size=frames.shape)
    worse = [np.clip(frames + amplitude * noise, 0, 255).astype(np.uint8) for amplitude in (0, 8, 40)]
    perceptual = Perceptual()
    assert perceptual.name in ("lpips", "lpips_random")
    values = [perceptual(other, frames) for other in worse]
    assert values[0] == pytest.approx(np.zeros(4), abs=1e-6)
    assert (values[1] > 1e-6).all()
    assert (values[2] > values[1]).all()
    np.testing.assert_array_equal(Perceptual()(worse[1], frames), values[1])
    assert perceptual(worse[1].reshape(2, 2, 64, 64, 3), frames.reshape(2, 2, 64, 64, 3)).shape == (2, 2)


@needs_lpips
def test_a_mask_chooses_what_counts() -> None:
    frames = pictures()
    worse = frames.copy()
    worse[:, 20:40, :20] = 0
    left = np.zeros((4, 64, 64), bool)
    left[:, :, :32] = True
    perceptual = Perceptual()
    assert (perceptual(worse, frames, left) > perceptual(worse, frames, ~left)).all()
    assert np.isnan(perceptual(worse, frames, np.zeros_like(left))).all()
    everywhere = perceptual(worse, frames, np.ones_like(left))
    np.testing.assert_allclose(everywhere, perceptual(worse, frames), rtol=0.2)
    with pytest.raises(RoboAlignError, match="expected bool"):
        perceptual(worse, frames, left.astype(float))


def test_a_random_trunk_is_no_training_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        perceptual_module.Perceptual, "__init__", lambda self, device: setattr(self, "name", "lpips_random")
    )
    with pytest.raises(RoboAlignError, match="expected LPIPS' trained trunk alexnet"):
        perceptual_module.trained_perceptual(torch.device("cpu"))


@needs_lpips
def test_bad_images_are_refused() -> None:
    perceptual = Perceptual()
    with pytest.raises(RoboAlignError, match="one shape"):
        perceptual(pictures(2), pictures(3))
    with pytest.raises(RoboAlignError, match="32x32"):
        perceptual(pictures()[:, :31], pictures()[:, :31])


@needs_lpips
def test_transformers_still_import_after_the_declaration() -> None:
    declare_missing_ops()
    from transformers import LlamaForCausalLM

    assert LlamaForCausalLM is not None
