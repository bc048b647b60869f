"""Packed chunks of MCAP files, unpacked no further than they say they are.

rosbags unpacks a chunk whole and compares its size with the one declared only then: a few kilobytes could fill memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from roboalign_core.errors import require

ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
_MOST = 1 << 30  # bytes of an unpacked chunk; recorders close one after a few megabytes


def limit_chunks() -> None:
    """Let rosbags unpack by our functions; once for the process, and again without effect."""
    storage = require("rosbags.rosbag2.storage_mcap", "rosbag")
    storage.DECOMPRESSORS.update(zstd=_unzstd, lz4=_unlz4)


def _unzstd(data: bytes, size: int) -> bytes:
    return _unpacked("zstd", require(ZSTD, "rosbag").ZstdDecompressor().decompress, data, size)


def _unlz4(data: bytes, size: int) -> bytes:
    return _unpacked("lz4", require("lz4.frame", "rosbag").LZ4FrameDecompressor().decompress, data, size)


def _unpacked(kind: str, decompress: Callable[..., Any], data: bytes, size: int) -> bytes:
    if size > _MOST:
        raise ValueError(f"chunk ({kind}): expected at most {_MOST} bytes unpacked, found {size}")
    found: bytes = decompress(data, max_length=size + 1)
    if len(found) != size:
        more = "more" if len(found) > size else len(found)
        raise ValueError(f"chunk ({kind}): expected {size} bytes unpacked, found {more}")
    return found
