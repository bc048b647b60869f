"""Videos that browsers play: H.264, yuv420p, in MP4."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import atomic_path

Frames = NDArray[np.uint8]
_CRF = "18"
_LABEL_HEIGHT = 24
_LABEL_SIZE = 16
_GAP = 4
_INK, _PAPER = (235, 235, 235), (24, 26, 30)


def write_mp4(path: str | os.PathLike[str], frames: Frames, fps: float, upscale: int = 1) -> None:
    """Write a video atomically.

    Args:
        path: ends in ``.mp4``.
        frames: ``(T, H, W, 3)`` uint8.
        fps: frames per second.
        upscale: every pixel becomes a block of this many pixels squared, which keeps the colours of small frames.

    Raises:
        RoboAlignError: frames of another shape or dtype, no frames, or a frame rate or factor that is not positive.
    """
    if Path(path).suffix != ".mp4":
        raise RoboAlignError(f"{path}: expected a name that ends in .mp4")
    _check(frames, fps, upscale)
    with atomic_path(path) as temporary:
        _encode(temporary, frames, fps, upscale)


def mp4_bytes(frames: Frames, fps: float, upscale: int = 1) -> bytes:
    """The bytes of the file that :func:`write_mp4` writes; arguments and errors as there."""
    _check(frames, fps, upscale)
    with tempfile.TemporaryDirectory() as folder:  # faststart rewrites the finished file, so there has to be one
        path = Path(folder) / "video.mp4"
        _encode(path, frames, fps, upscale)
        return path.read_bytes()


def side_by_side(videos: Sequence[Frames], labels: Sequence[str], upscale: int = 1) -> Frames:
    """Several videos in one picture, each under its label.

    Args:
        videos: each ``(T, H, W, 3)`` uint8, all of one shape.
        labels: one per video, ASCII or Latin text.
        upscale: as in :func:`write_mp4`; labels are drawn afterwards and stay sharp.

    Returns:
        ``(T, H * upscale + 24, total width, 3)`` uint8.

    Raises:
        RoboAlignError: no videos, or shapes or numbers that differ.
    """
    if not videos or len(videos) != len(labels):
        raise RoboAlignError(f"side_by_side: expected as many labels as videos, found {len(labels)} and {len(videos)}")
    if len({video.shape for video in videos}) > 1:
        shapes = ", ".join(f"{label} {video.shape}" for label, video in zip(labels, videos, strict=True))
        raise RoboAlignError(f"side_by_side: expected videos of one shape, found {shapes}")
    for video in videos:
        _check(video, 1.0, upscale)
    count, height, width = videos[0].shape[:3]
    height, width = height * upscale, width * upscale
    canvas = np.empty((count, height + _LABEL_HEIGHT, len(videos) * (width + _GAP) - _GAP, 3), np.uint8)
    canvas[:] = _PAPER
    for index, (video, label) in enumerate(zip(videos, labels, strict=True)):
        left = index * (width + _GAP)
        canvas[:, :_LABEL_HEIGHT, left : left + width] = _label(label, width)
        canvas[:, _LABEL_HEIGHT:, left : left + width] = _enlarge(video, upscale)
    return canvas


def _label(text: str, width: int) -> Frames:
    picture = Image.new("RGB", (width, _LABEL_HEIGHT), _PAPER)
    ImageDraw.Draw(picture).text((4, 2), text, fill=_INK, font=ImageFont.load_default(_LABEL_SIZE))
    return np.asarray(picture)


def _enlarge(frames: Frames, factor: int) -> Frames:
    return frames if factor == 1 else frames.repeat(factor, axis=1).repeat(factor, axis=2)


def _encode(path: Path, frames: Frames, fps: float, upscale: int) -> None:
    first = _even(_enlarge(frames[:1], upscale))
    height, width = first.shape[1:3]
    # faststart puts the index first, so that a browser plays from the first bytes on
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": _CRF, "profile": "main", "threads": "1"}
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(_even(_enlarge(frame[None], upscale))[0], format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _even(frames: Frames) -> Frames:
    """yuv420p wants even sides: the last row or column is repeated where a side is odd."""
    height, width = frames.shape[1:3]
    if height % 2 == 0 and width % 2 == 0:
        return np.ascontiguousarray(frames)
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _check(frames: Frames, fps: float, upscale: int) -> None:
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        found = f"{frames.shape} {frames.dtype}" if isinstance(frames, np.ndarray) else type(frames).__name__
        raise RoboAlignError(f"video: expected frames (T, H, W, 3) uint8, found {found}")
    if frames.size == 0:
        raise RoboAlignError(f"video: expected at least one frame, found shape {frames.shape}")
    if not 0 < fps <= 1000:
        raise RoboAlignError(f"video: expected a frame rate in (0, 1000], found {fps}")
    if upscale < 1:
        raise RoboAlignError(f"video: expected an upscale factor of at least 1, found {upscale}")
