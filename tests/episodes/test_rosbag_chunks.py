"""Chunks of MCAP files that unpack to more than they say."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from roboalign_core.episodes.readers.rosbag import bags, chunks
from roboalign_core.errors import RoboAlignError

from .bags import MCAP, convert, record, write

_CHUNK = 6  # opcode of the record
_HEAD = 9  # bytes of opcode and length before a record's content


def first_chunk(content: bytes) -> int:
    """Where the first chunk's content begins."""
    place = 8  # after the magic bytes
    while content[place] != _CHUNK:
        place += _HEAD + struct.unpack_from("<Q", content, place + 1)[0]
    return place + _HEAD


@pytest.mark.parametrize(("change", "said"), [(-1, "found more"), (1, "found [0-9]+"), (1 << 40, "expected at most")])
def test_a_chunk_of_another_size_than_it_says_is_refused(tmp_path: Path, change: int, said: str) -> None:
    bag = write(tmp_path / "bag", record(), MCAP, "storage")
    [file] = bag.glob("*.mcap")
    content = file.read_bytes()
    declared = content[first_chunk(content) + 16 :][:8]
    size = struct.unpack("<Q", declared)[0]
    file.write_bytes(content.replace(declared, struct.pack("<Q", size + change)))  # the index repeats it
    with pytest.raises(
        RoboAlignError, match=rf"bag\.mcap: expected a whole recording, found: chunk \(zstd\): .*{said}"
    ):
        convert(bag)


def test_a_packed_file_that_grows_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write(tmp_path / "bag", record(), MCAP, "file")
    [file] = bag.glob("*.zstd")
    file.write_bytes(pytest.importorskip(chunks.ZSTD).compress(bytes(1 << 26)))
    monkeypatch.setattr(bags, "_LEAST_ALLOWED", 1 << 20)
    with pytest.raises(RoboAlignError, match=r"bag\.mcap\.zstd: expected at most [0-9]+ bytes unpacked, found more"):
        convert(bag)


@pytest.mark.parametrize("kind", ["zstd", "lz4"])
def test_a_bomb_is_not_unpacked(kind: str) -> None:
    zeros = bytes(1 << 26)
    if kind == "zstd":
        packed, unpack = pytest.importorskip(chunks.ZSTD).compress(zeros), chunks._unzstd
    else:
        packed, unpack = pytest.importorskip("lz4.frame").compress(zeros), chunks._unlz4
    assert len(packed) < len(zeros) / 100
    with pytest.raises(ValueError, match="expected 100 bytes unpacked, found more"):
        unpack(packed, 100)
    assert unpack(packed, len(zeros)) == zeros
