"""Frames out of sensor_msgs/Image and sensor_msgs/CompressedImage."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from roboalign_core.errors import RoboAlignError

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_LARGEST = 16384  # pixels of a side

# Bytes of a pixel, and where red, green and blue lie in them; opacity is left out.
_ENCODINGS = {
    "rgb8": (3, [0, 1, 2]),
    "bgr8": (3, [2, 1, 0]),
    "rgba8": (4, [0, 1, 2]),
    "bgra8": (4, [2, 1, 0]),
    "mono8": (1, [0, 0, 0]),
}
_MODES = ("RGB", "RGBA", "L")


def to_frame(message: Any, where: str) -> NDArray[np.uint8]:
    """The image of a decoded message of either type: (H, W, 3) uint8 RGB. Grey is repeated, opacity left out.

    Raises:
        RoboAlignError: another encoding or format, a damaged image, or sizes that contradict the bytes.
    """
    return _from_compressed(message, where) if hasattr(message, "format") else _from_raw(message, where)


def fingerprint(message: Any) -> tuple[object, ...]:
    """What two messages share that show the same."""
    about = message.format if hasattr(message, "format") else (message.height, message.width, message.encoding)
    return (about, len(message.data), zlib.crc32(message.data))


def _from_raw(message: Any, where: str) -> NDArray[np.uint8]:
    height, width, step = int(message.height), int(message.width), int(message.step)
    if message.encoding not in _ENCODINGS:
        raise RoboAlignError(f"{where}: expected encoding {', '.join(_ENCODINGS)}, found {message.encoding!r:.80}")
    size, channels = _ENCODINGS[message.encoding]
    _check_size(height, width, where)
    if step < width * size or len(message.data) != height * step:
        raise RoboAlignError(
            f"{where}: expected {height} rows of at least {width * size} bytes ({width} pixels, {message.encoding}), "
            f"found rows of {step} (step) and {len(message.data)} bytes in all"
        )
    rows = np.asarray(message.data, np.uint8).reshape(height, step)[:, : width * size]
    return np.ascontiguousarray(rows.reshape(height, width, size)[..., channels])


def _from_compressed(message: Any, where: str) -> NDArray[np.uint8]:
    if "compressedDepth" in message.format:
        raise RoboAlignError(f"{where}: expected a colour or grey image, found {message.format!r:.80}")
    try:
        with Image.open(io.BytesIO(message.data.tobytes()), formats=("JPEG", "PNG")) as image:
            _check_size(image.height, image.width, where)
            if image.mode not in _MODES:
                raise RoboAlignError(f"{where}: expected a JPEG or PNG image in 8 bits, found mode {image.mode}")
            return np.asarray(image.convert("RGB")).copy()
    except RoboAlignError:
        raise
    except Exception as error:  # of PIL and zlib: what was damaged decides
        found = f"{message.format!r:.80}, {len(message.data)} bytes: {error!s:.200}"
        raise RoboAlignError(f"{where}: expected a whole JPEG or PNG image, found {found}") from error


def _check_size(height: int, width: int, where: str) -> None:
    if not (0 < height <= _LARGEST and 0 < width <= _LARGEST):
        raise RoboAlignError(f"{where}: expected an image of 1 to {_LARGEST} pixels a side, found {height} x {width}")
