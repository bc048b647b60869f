"""Recordings of ``ros2 bag record``: which files belong to one, what topics it has, its messages.

Files are opened one by one. rosbags can open the folder as well, but leaves messages out without a word where the
quality of service in ``metadata.yaml`` reads other than in the files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from roboalign_core.episodes.readers.base import MOST_BYTES
from roboalign_core.episodes.readers.folders import files_below
from roboalign_core.episodes.readers.rosbag.chunks import ZSTD, limit_chunks
from roboalign_core.episodes.readers.rosbag.definitions import typestore
from roboalign_core.errors import RoboAlignError, require
from roboalign_core.files import read_yaml

METADATA = "metadata.yaml"
SUFFIXES = (".mcap", ".db3")
_PACKED = ".zstd"
_DENSEST, _LEAST_ALLOWED = 200, 1 << 30  # times that a packed file may grow, bytes that it may have in any case
_PATTERNS = tuple(f"*{suffix}{packed}" for suffix in SUFFIXES for packed in ("", _PACKED))
_MARK = "rosbag2_bagfile_information"
_MEND = "a recording that was cut off may be mended with `ros2 bag reindex` (db3) or `mcap recover`"


def find_bags(path: Path) -> Iterator[Path]:
    """Folders with ``metadata.yaml``, and files that lie in a folder without, in a fixed order."""
    if path.is_file() and path.suffix in SUFFIXES:
        yield path
    by_folder: dict[Path, list[Path]] = {}
    for file in files_below(path, METADATA, *_PATTERNS):
        by_folder.setdefault(file.parent, []).append(file)
    for folder in sorted(by_folder):
        files = [file for file in by_folder[folder] if file.name != METADATA]
        metadata = folder / METADATA
        if metadata not in by_folder[folder]:
            yield from sorted(files)
        elif files or _MARK in metadata.read_text(encoding="utf-8", errors="replace"):
            yield folder


def holds_bags(path: Path) -> bool:
    """Whether there is a file of a recording; looks at names only."""
    return path.suffix in SUFFIXES if path.is_file() else any(True for _ in files_below(path, *_PATTERNS))


@dataclass(frozen=True)
class Message:
    """One message, not decoded.

    Attributes:
        topic: its topic.
        received: when the recorder got it, nanoseconds.
        data: its bytes.
    """

    topic: str
    received: int
    data: bytes


class Bag:
    """An open recording; see :func:`opened`. Its errors name the topic, not the recording."""

    def __init__(self, readers: list[Any], unpack: Callable[[bytes], bytes]) -> None:
        self._readers, self._unpack = readers, unpack
        self._connections: dict[str, list[Any]] = {}
        for connection in (connection for reader in readers for connection in reader.connections):
            self._connections.setdefault(connection.topic, []).append(connection)
        self._stores: dict[str, Any] = {}

    @property
    def topics(self) -> Mapping[str, str]:
        """The type of each topic; of several, the first."""
        return {topic: connections[0].msgtype for topic, connections in sorted(self._connections.items())}

    def require(self, topics: Collection[str]) -> None:
        """Refuse a recording without one of the topics, without messages of it, or with messages of several types."""
        for topic in topics:
            connections = self._connections.get(topic, [])
            if not connections:
                there = ", ".join(f"{name} ({kind})" for name, kind in self.topics.items()) or "none"
                raise RoboAlignError(f"expected topic {topic}, found {there}")
            kinds = {connection.msgtype for connection in connections}
            formats = {connection.ext.serialization_format for connection in connections}
            if len(kinds) > 1 or formats != {"cdr"}:
                found = ", ".join(sorted(kinds | formats - {"cdr"}))
                raise RoboAlignError(f"{topic}: expected messages of one type in CDR, found {found}")
            if not self.says(topic):
                raise RoboAlignError(f"{topic}: expected messages, found none")

    def count(self, topic: str) -> int:
        """How many messages the recording says it has."""
        return sum(connection.msgcount for connection in self._connections.get(topic, []))

    def says(self, topic: str) -> bool:
        """Whether there is a message."""
        return self.count(topic) > 0

    def has_header(self, topic: str) -> bool:
        """Whether the messages have a ``header`` with a stamp."""
        fields = dict(self._store(topic).fielddefs[self.topics[topic]][1])
        return "header" in fields and fields["header"][1] == "std_msgs/msg/Header"

    def messages(self, topics: Collection[str], start: int | None = None, stop: int | None = None) -> Iterator[Message]:
        """Messages as they were received, file after file.

        Args:
            topics: of these only.
            start: received at this time (ns) or later.
            stop: received before.
        """
        for reader in self._readers:
            wanted = [connection for connection in reader.connections if connection.topic in topics]
            if not wanted:  # rosbags would take an empty list for all
                continue
            with _refusing(reader.path, _MEND):
                for connection, received, data in reader.messages(wanted, start, stop):
                    yield Message(connection.topic, received, self._unpack(data))

    def decode(self, message: Message) -> Any:
        """The message, with its fields as attributes."""
        with _refusing(message.topic):
            return self._store(message.topic).deserialize_cdr(message.data, self.topics[message.topic])

    def _store(self, topic: str) -> Any:
        if topic not in self._stores:
            with _refusing(f"{topic}"):
                self._stores[topic] = typestore(self._connections[topic][0])
        return self._stores[topic]


@contextmanager
def opened(path: Path) -> Iterator[Bag]:
    """Open a recording: a folder with ``metadata.yaml``, or one file.

    Raises:
        RoboAlignError: files are missing, damaged, or lie elsewhere than in the folder.
    """
    files, mode = _listed(path) if path.is_dir() else ([path], "file" if path.suffix == _PACKED else "")
    with ExitStack() as stack:
        if mode == "file":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="roboalign-rosbag-")))
            files = [_unpacked(file, folder) for file in files]
        readers = [stack.enter_context(_reader(file)) for file in files]
        yield Bag(readers, _unpacked_message if mode == "message" else lambda data: data)


def _listed(folder: Path) -> tuple[list[Path], str]:
    """The files that ``metadata.yaml`` lists, and how they are packed: not, each file, or each message."""
    path = folder / METADATA
    content = read_yaml(path)
    about = content.get(_MARK) if isinstance(content, dict) else None
    about = about if isinstance(about, dict) else {}
    names = about.get("relative_file_paths")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise RoboAlignError(f"{path}: expected {_MARK} with relative_file_paths, found none")
    files = []
    for name in names:
        parts = PurePosixPath(name).parts  # before ROS 2 Foxy, the folder's name came first
        if len(parts) not in (1, 2) or parts[0] == "/" or ".." in parts or "\0" in name:
            raise RoboAlignError(f"{path}: relative_file_paths: expected files of this folder, found {name!r:.200}")
        files.append(folder / parts[-1])
    mode, packing = str(about.get("compression_mode") or "").lower(), about.get("compression_format")
    if mode not in ("", "none", "file", "message") or (mode in ("file", "message") and packing != "zstd"):
        raise RoboAlignError(f"{path}: expected no compression or zstd of files or messages, found {packing} {mode}")
    return files, mode


@contextmanager
def _reader(file: Path) -> Iterator[Any]:
    rosbag2 = require("rosbags.rosbag2", "rosbag")
    limit_chunks()
    _check_file(file)
    with _refusing(f"{file}", _MEND):
        reader = rosbag2.Reader(file)
        reader.open()
    try:
        yield reader
    finally:
        reader.close()


def _check_file(file: Path) -> None:
    if not file.is_file():
        raise RoboAlignError(f"{file}: expected a file of a recording, found nothing there")
    if file.suffix == ".db3":
        _check_size(file)
        log = file.with_name(file.name + "-wal")
        if log.is_file() and log.stat().st_size:
            raise RoboAlignError(f"{file}: expected a finished recording, found one with a write-ahead log; {_MEND}")
        if set("?#%") & set(str(file)):
            raise RoboAlignError(f"{file}: expected a path without ?, # and %, which SQLite reads as an address")


def _check_size(file: Path) -> None:
    """SQLite would say nothing as long as the pages that are cut off are not read."""
    with file.open("rb") as content:
        head = content.read(100)
    size, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    expected, found = max((65536 if size == 1 else size) * pages, 100), file.stat().st_size
    if found < expected:
        raise RoboAlignError(f"{file}: expected a whole recording of {expected} bytes, found {found}; {_MEND}")


def _unpacked(file: Path, folder: Path) -> Path:
    """A packed file, unpacked into a folder; one that grows beyond what recordings do is refused."""
    if not file.is_file():
        raise RoboAlignError(f"{file}: expected a file of a recording, found nothing there")
    target = folder / file.name.removesuffix(_PACKED)
    zstd = require(ZSTD, "rosbag")
    with _refusing(f"{file}"), zstd.open(file, "rb") as packed, target.open("wb") as out:
        most = _LEAST_ALLOWED + _DENSEST * file.stat().st_size
        for block in iter(partial(packed.read, 1 << 20), b""):
            if out.tell() + len(block) > most:
                raise RoboAlignError(f"{file}: expected at most {most} bytes unpacked, found more")
            out.write(block)
    return target


def _unpacked_message(data: bytes) -> bytes:
    unpacker = require(ZSTD, "rosbag").ZstdDecompressor()
    unpacked: bytes = unpacker.decompress(data, MOST_BYTES)
    if not unpacker.eof:
        raise RoboAlignError(f"expected a whole packed message of at most {MOST_BYTES} bytes, found more or less")
    return unpacked


@contextmanager
def _refusing(where: Path | str, hint: str = "") -> Iterator[None]:
    """What rosbags and the libraries below it raise depends on which byte is wrong; here it becomes one error."""
    try:
        yield
    except RoboAlignError:
        raise
    except Exception as error:
        found = f"{str(error) or type(error).__name__:.300}{hint and '; '}{hint}"
        raise RoboAlignError(f"{where}: expected a whole recording, found: {found}") from error
