"""What frames show at all. A probe gives a place to everything, also to what an imagined frame does not contain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from roboalign_sim.state_oracle.checks import Array, Flags, running_median

_SATURATION = 0.55  # of a colour that is a thing's and not the table's, however the light falls
_CHROMA = 0.2  # difference of the largest and the smallest channel, of 1, below which a hue is noise
_FRAMES = 3  # of a running median: less is a flicker, which is another fault


@dataclass(frozen=True, slots=True)
class Look:
    """How a thing is told from all others: by hues that nothing else has.

    Attributes:
        hues: (low, high) in degrees, several where a thing has several colours; low may be above high, around 0.
        least: share of the pixels that it has in the first frame from which on it is there.
    """

    hues: tuple[tuple[float, float], ...]
    least: float


def unseen(frames: npt.NDArray[np.uint8], looks: Mapping[str, Look]) -> dict[str, Flags]:
    """(T,) for each thing, the frames (T, H, W, 3) that do not show it. The first frame is taken to show all."""
    hue, strong = _hues(frames)
    found = {}
    for name, look in looks.items():
        inside = np.zeros(hue.shape, bool)
        for low, high in look.hues:
            inside |= (hue > low) & (hue < high) if low < high else (hue > low) | (hue < high)
        pixels: Array = (inside & strong).sum(axis=(1, 2), dtype=np.float64)
        found[name] = running_median(pixels, _FRAMES) < look.least * pixels[0]
    return found


def _hues(frames: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], Flags]:
    """(T, H, W) degrees, and where the colour is strong enough to have one."""
    red, green, blue = np.moveaxis(frames.astype(np.float32) / 255, -1, 0)
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    chroma = high - low
    strong = (chroma > _CHROMA) & (chroma > _SATURATION * high)
    per = np.where(strong, chroma, 1)
    turn: npt.NDArray[np.float32] = np.where(
        high == red,
        (green - blue) / per % 6,
        np.where(high == green, (blue - red) / per + 2, (red - green) / per + 4),
    )
    return 60 * turn, np.asarray(strong)
