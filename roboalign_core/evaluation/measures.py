"""What imagined frames are measured by, beside what was recorded: pixels, regions, positions, frames that repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from roboalign_core.evaluation.held_out import HeldOut
from roboalign_core.evaluation.metrics import moving_region, psnr, ssim
from roboalign_core.evaluation.perceptual import Perceptual
from roboalign_core.evaluation.positions import Array, distance_cm, moved_error_cm
from roboalign_core.evaluation.regions import lost, masks, moved_objects

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Parts:
    """What there is to see.

    Attributes:
        effector: state columns of the end effector in the table plane, metres.
        objects: state columns of each object in the table plane, metres.
        regions: names of the recorded bounding boxes of each region.
        moved: an object counts as moved beyond so many metres.
    """

    effector: Sequence[str] = ()
    objects: Mapping[str, Sequence[str]] = field(default_factory=dict)
    regions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    moved: float = 0.02

    @property
    def columns(self) -> dict[str, Sequence[str]]:
        """State columns of the end effector, where it has some, and of each object."""
        return {**({"effector": self.effector} if self.effector else {}), **self.objects}


class Measures:
    """Curves (E, T) of frames (E, T, H, W, 3) that are held against those recorded after the first one.

    NaN where an episode has no value: an object that did not move, or is not seen.
    """

    def __init__(self, held_out: HeldOut, parts: Parts, perceptual: Perceptual | None) -> None:
        """What is looked for is found once, in the recording.

        Raises:
            RoboAlignError: a region names something that has no box.
        """
        self._held_out, self._parts, self._perceptual = held_out, parts, perceptual
        self._later = held_out.frames[:, 1:]
        self._moving = moving_region(held_out.frames)[:, 1:]
        self._regions = masks(held_out, parts.regions)
        self._all = np.logical_or.reduce(list(self._regions.values())) if self._regions else None
        seen = held_out.box_columns and parts.objects
        self._pushed = moved_objects(held_out, parts.objects, parts.moved) if seen else None

    def pixels(self, frames: Frames) -> dict[str, Array]:
        """Of whole frames, and of what moves in the recorded ones."""
        later = self._later
        curves = {"psnr_db": psnr(frames, later), "ssim": ssim(frames, later)}
        curves["moving_psnr_db"] = psnr(frames, later, self._moving)
        if self._perceptual is not None:
            curves[self._perceptual.name] = self._perceptual(frames, later)
        return curves

    def regions(self, frames: Frames) -> dict[str, Array]:
        """Of the regions, of all of them together, and of the objects that moved; none without recorded boxes."""
        later, curves = self._later, dict[str, Array]()
        for name, mask in self._regions.items():
            curves[f"{name}_psnr_db"] = psnr(frames, later, mask)
            curves[f"{name}_lost"] = lost(frames, later, mask)
        if self._pushed is not None:
            curves["moved_object_psnr_db"] = psnr(frames, later, self._pushed)
        if self._all is not None:
            curves["roi_psnr_db"] = psnr(frames, later, self._all)
        if self._all is not None and self._perceptual is not None:
            curves[f"roi_{self._perceptual.name}"] = self._perceptual(frames, later, self._all)
        return curves

    def positions(self, states: Array, names: Sequence[str]) -> dict[str, Array]:
        """Of states (E, T, K) with these names: distances in centimetres in the table plane to where things were."""
        parts, truth = self._parts, self._held_out.state.astype(np.float64)
        each = {part: distance_cm(states, truth[:, 1:], names, columns) for part, columns in parts.columns.items()}
        curves = {"effector_error_cm": each["effector"]} if parts.effector else {}
        curves["moved_object_error_cm"] = moved_error_cm(states, truth, names, parts.objects, parts.moved)
        curves["state_error_cm"] = np.mean(list(each.values()), axis=0)
        return curves


def repeats(frames: Frames, recorded: Frames, threshold: float) -> Array:
    """Where a frame repeats the one before although the action changed what the camera recorded: 1 or 0, (E, T).

    Changed: a channel of a pixel by more than ``threshold``, in [0, 1].

    Args:
        frames: (E, T + 1, H, W, 3), the first frame included.
        recorded: the same shape.
        threshold: a token says nothing below it, see ``TokenizerConfig.still_threshold``.

    Returns:
        NaN where nothing was recorded to change.
    """
    still, at_rest = (_change(video) <= 255 * threshold for video in (frames, recorded))
    return np.where(at_rest, np.nan, still.astype(np.float64))


def _change(video: Frames) -> NDArray[np.int16]:
    """(E, T + 1, H, W, 3) → (E, T): how much a channel of a pixel changes at most, 0..255."""
    steps = [
        np.abs(video[:, step].astype(np.int16) - video[:, step - 1]).max(axis=(1, 2, 3))
        for step in range(1, video.shape[1])
    ]
    return np.stack(steps, axis=1)
