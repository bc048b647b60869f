"""Pictures of an episode: from a video, by the time of each frame, or from image files in a table."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roboalign_core.episodes.readers.base import MOST_BYTES
from roboalign_core.episodes.readers.lerobot.entries import VideoSpan
from roboalign_core.episodes.readers.lerobot.info import Camera
from roboalign_core.episodes.video import decode_timed, probe
from roboalign_core.errors import RoboAlignError

SLACK = 0.1
"""The share of a frame's duration by which a time may be off; sums of durations drift a little over a long video."""


def frames_of_video(span: VideoSpan, camera: Camera, length: int, fps: float) -> NDArray[np.uint8]:
    """The frames (T, H, W, 3) at ``span.start + t / fps``; each must be there.

    Raises:
        RoboAlignError: the video is absent, damaged, of another size, too short or too long, or frames lie elsewhere.
    """
    header = probe(span.path)
    if (header.height, header.width) != (camera.height, camera.width):
        found = f"{header.height} × {header.width}"
        raise RoboAlignError(f"{span.path}: expected frames of {camera.height} × {camera.width}, found {found}")
    if span.is_whole and header.frames not in (0, length):
        raise RoboAlignError(f"{span.path}: expected {length} frames, one a row, found {header.frames}")
    frames = _empty(str(span.path), camera, length)
    done = 0
    for time, pixels in islice(decode_timed(span.path, span.start - 0.5 / fps), length):
        expected = span.start + done / fps
        if abs(time - expected) * fps > SLACK:
            raise RoboAlignError(f"{span.path}: expected frame {done} at {expected:.4f} s, found it at {time:.4f} s")
        if pixels.shape != frames.shape[1:]:
            raise RoboAlignError(f"{span.path}: expected frames of shape {frames.shape[1:]}, found {pixels.shape}")
        frames[done] = pixels
        done += 1
    if done < length:
        raise RoboAlignError(f"{span.path}: expected {length} frames from {span.start:.4f} s on, found {done}")
    return frames


def frames_of_images(where: str, images: Iterable[bytes], camera: Camera, length: int) -> NDArray[np.uint8]:
    """The frames (T, H, W, 3) of ``length`` PNG or JPEG files.

    Raises:
        RoboAlignError: an image is damaged, of another size, or not 8-bit RGB.
    """
    frames = _empty(where, camera, length)
    for row, (data, frame) in enumerate(zip(images, frames, strict=True)):
        try:
            with Image.open(BytesIO(data), formats=("PNG", "JPEG")) as image:
                found = f"{image.height} × {image.width} {image.mode}"
                if (image.height, image.width, image.mode) != (camera.height, camera.width, "RGB"):
                    raise RoboAlignError(
                        f"{where}: row {row}: expected {camera.height} × {camera.width} RGB, found {found}"
                    )
                frame[:] = np.asarray(image)
        except RoboAlignError:
            raise
        except Exception as error:  # what was damaged decides
            raise RoboAlignError(f"{where}: row {row}: expected a whole PNG or JPEG image, found: {error}") from error
    return frames


def _empty(where: str, camera: Camera, length: int) -> NDArray[np.uint8]:
    shape = (length, camera.height, camera.width, 3)
    most = MOST_BYTES // (camera.height * camera.width * 3)
    if length > most:
        raise RoboAlignError(f"{where}: expected at most {most} frames of this size in an episode, found {length}")
    return np.empty(shape, np.uint8)
