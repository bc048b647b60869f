"""Perceptual distance, from the optional package `lpips`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roboalign_core.errors import MissingExtraError, RoboAlignError, require
from roboalign_core.evaluation.metrics import checked_mask, unit_images
from roboalign_core.torchvision_ops import declare_missing_ops

_TRUNK_FILE = "alexnet-owt-7be5be79.pth"  # the name under which torch.hub keeps the trunk once downloaded
_RANDOM_TRUNK_SEED = 0
_BATCH = 64


def load_perceptual() -> tuple[Perceptual | None, str]:
    """The distance, or None and why it cannot be computed here."""
    try:
        return Perceptual(), ""
    except MissingExtraError as error:
        return None, str(error)


def trained_perceptual(device: torch.device) -> Perceptual:
    """The distance as a training loss.

    Raises:
        MissingExtraError: lpips or torchvision is not installed.
        RoboAlignError: its trained trunk is not on this machine; over a random one it would teach nothing.
    """
    perceptual = Perceptual(device)
    if perceptual.name != "lpips":
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise RoboAlignError(f"perceptual loss: expected LPIPS' trained trunk {_TRUNK_FILE} in {folder}, found none")
    return perceptual


class Perceptual:
    """Learned perceptual image patch similarity (Zhang et al. 2018), AlexNet; lower is more alike.

    Attributes:
        name: ``"lpips"`` with the trained trunk. ``"lpips_random"`` where that trunk is not on this machine: the same
            distance over a fixed random trunk. The two are different measures; a figure carries the name of its own.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Load the network.

        Raises:
            MissingExtraError: lpips or torchvision is not installed.
        """
        declare_missing_ops()
        require("torchvision", "perceptual")
        lpips = require("lpips", "perceptual")
        trained = (Path(torch.hub.get_dir()) / "checkpoints" / _TRUNK_FILE).is_file()
        self.name: Literal["lpips", "lpips_random"] = "lpips" if trained else "lpips_random"
        self._device = torch.device(device)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision by arguments that torchvision has deprecated
            torch.manual_seed(_RANDOM_TRUNK_SEED)
            network = lpips.LPIPS(net="alex", pnet_rand=not trained, verbose=False)
        self._network = network.eval().requires_grad_(False).to(self._device)

    @torch.no_grad()
    def __call__(self, prediction: Any, target: Any, mask: Any | None = None) -> NDArray[np.float64]:
        """Distance per image.

        Args:
            prediction: ``(..., H, W, 3)``, uint8 in 0..255 or floating point in 0..1, at least 32 x 32 pixels.
            target: the same shape.
            mask: bool ``(..., H, W)``; with it the mean of the distance map over these pixels alone.

        Returns:
            ``(...,)`` float64, 0 for identical images. NaN where the mask selects no pixel of an image.

        Raises:
            RoboAlignError: shapes differ, images are too small, or values are out of range.
        """
        first, second = unit_images(prediction), unit_images(target)
        if first.shape != second.shape or min(first.shape[-3:-1]) < 32:
            raise RoboAlignError(
                "perceptual distance: expected two arrays of one shape and at least 32x32 pixels, "
                f"found {first.shape} and {second.shape}"
            )
        self._network.spatial = mask is not None
        pairs = zip(self._batches(first), self._batches(second), strict=True)
        values = torch.cat([self._network(x, y, normalize=True).double().cpu() for x, y in pairs]).numpy()
        if mask is None:
            return values.reshape(first.shape[:-3])
        weights = checked_mask(mask, first.shape[:-1])
        pixels = weights.sum((-2, -1))
        total = (values.reshape(first.shape[:-1]) * weights).sum((-2, -1))
        return np.divide(total, pixels, out=np.full(pixels.shape, np.nan), where=pixels > 0)

    def loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Mean distance, a scalar, of pixels (B, 3, H, W) in about [0, 1], at least 32×32; differentiable, float32."""
        self._network.spatial = False
        with torch.autocast(predicted.device.type, enabled=False):
            return self._network(predicted.float(), target.float(), normalize=True).mean()

    def _batches(self, images: NDArray[np.float64]) -> list[Tensor]:
        flat = images.reshape(-1, *images.shape[-3:]).astype(np.float32)
        return [
            torch.from_numpy(flat[start : start + _BATCH]).permute(0, 3, 1, 2).to(self._device)
            for start in range(0, len(flat), _BATCH)
        ]
