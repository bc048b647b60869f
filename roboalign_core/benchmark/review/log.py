"""The judgements of one rater: a file that only grows, a line a judgement, on disk before the rater sees the next."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from typing import Any

from roboalign_core.benchmark.benchmark import PAIRS, Benchmark
from roboalign_core.benchmark.review.judgement import Judgement, Opinion
from roboalign_core.errors import RoboAlignError

REVIEWS = "reviews"
FORMAT = 1
_RATER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")


def fingerprint(benchmark: Benchmark) -> str:
    """SHA-256 of all that raters see: instructions and videos. Labels may change without making reviews void."""
    stores = {name: digest for name, digest in benchmark.info["sha256"].items() if name != PAIRS}
    seen = [[pair.instruction, pair.store, pair.episode] for pair in benchmark.pairs]
    return hashlib.sha256(json.dumps([stores, seen], sort_keys=True).encode()).hexdigest()


def check_rater(rater: str) -> str:
    """A name that may become a file's.

    Raises:
        RoboAlignError: it is anything but 1 to 32 letters, digits, ``-`` and ``_``.
    """
    if not _RATER.fullmatch(rater):
        raise RoboAlignError(
            f"rater: expected a plain name of 1 to 32 letters, digits, - and _ that starts with a letter or digit, "
            f"found {rater!r}"
        )
    return rater


@dataclass(frozen=True, slots=True)
class Contents:
    """What a rater's file says.

    Attributes:
        judgements: in the order in which they were given; of several for one pair the last one counts.
        size: bytes up to the end of the last whole line; 0 where not even the first is whole.
        complete: whether the last of these lines has its end of line.
        dropped: bytes after them, of a line that was not finished.
    """

    judgements: list[Judgement]
    size: int
    complete: bool
    dropped: int

    @property
    def latest(self) -> dict[int, Opinion]:
        """What counts, by the number of the pair."""
        return {judgement.pair: judgement.scores for judgement in self.judgements}


class ReviewLog:
    """The file of one rater, open for one process alone.

    Attributes:
        path: ``PATH/reviews/<rater>.jsonl``. Its first line names the rater and the benchmark.
        judgements: all of them, oldest first.
        notice: what had to be mended when it was opened; empty where nothing had.
    """

    def __init__(self, path: Path, handle: int, contents: Contents) -> None:
        """Use `open`."""
        self.path, self._handle, self._lock = path, handle, Lock()
        self.judgements = contents.judgements
        self.notice = ""
        if contents.dropped:
            self.notice = f"{path}: a half-written last line ({contents.dropped} bytes) was dropped"

    @classmethod
    def open(cls, benchmark: Benchmark, rater: str) -> ReviewLog:
        """Begin a rater's file, or go on with it.

        Raises:
            RoboAlignError: a bad name, a file of another benchmark, a damaged line, or another process has it open.
        """
        path = benchmark.path / REVIEWS / f"{check_rater(rater)}.jsonl"
        path.parent.mkdir(exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            _lock(handle, path)
            header = _header(benchmark, rater)
            contents = _parse(path, path.read_bytes(), header)
            if contents.dropped:
                os.ftruncate(handle, contents.size)
            if not contents.size:
                _append(handle, path, json.dumps(header))
            elif not contents.complete:
                _append(handle, path, "")
            _sync_folder(path.parent)
            _sync_folder(benchmark.path)
            return cls(path, handle, contents)
        except BaseException:
            os.close(handle)
            raise

    def append(self, pair: int, scores: Opinion) -> Judgement:
        """Keep a judgement; it is on disk when this returns.

        Raises:
            RoboAlignError: it could not be written; then the file is as it was before.
        """
        judgement = Judgement(pair, scores, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        with self._lock:
            _append(self._handle, self.path, judgement.line())
            self.judgements.append(judgement)
        return judgement

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._handle)


def read_reviews(benchmark: Benchmark) -> dict[str, Contents]:
    """What all raters said, by name. Files are not changed, and may be in use; an unfinished last line is left out.

    Raises:
        RoboAlignError: a damaged file, or one of another benchmark.
    """
    paths = sorted((benchmark.path / REVIEWS).glob("*.jsonl"))
    return {path.stem: _parse(path, path.read_bytes(), _header(benchmark, check_rater(path.stem))) for path in paths}


def _header(benchmark: Benchmark, rater: str) -> dict[str, Any]:
    return {"format": FORMAT, "rater": rater, "benchmark": fingerprint(benchmark), "pairs": len(benchmark.pairs)}


def _parse(path: Path, data: bytes, header: dict[str, Any]) -> Contents:
    *lines, last = data.split(b"\n")
    complete = True
    if last and _is_json(last):  # whole, its end of line lost or never typed
        lines, last, complete = [*lines, last], b"", False
    for number, line in enumerate(lines, 1):
        if not _is_json(line):
            raise RoboAlignError(f"{path}: line {number}: expected JSON, found {line[:60]!r}")
    values = [json.loads(line) for line in lines]
    if values and values[0] != header:
        raise RoboAlignError(
            f"{path}: line 1: expected reviews of this benchmark, {header}, found {values[0]}; "
            "move the file away to begin anew"
        )
    judgements = [_judgement(path, number, value, header["pairs"]) for number, value in enumerate(values[1:], 2)]
    return Contents(judgements, len(data) - len(last), complete, len(last))


def _judgement(path: Path, number: int, value: Any, pairs: int) -> Judgement:
    try:
        judgement = Judgement.of(value)
        if not 0 <= judgement.pair < pairs:
            raise RoboAlignError(f"judgement: pair: expected 0 to {pairs - 1}, found {judgement.pair}")
    except RoboAlignError as error:
        raise RoboAlignError(f"{path}: line {number}: {error}") from error
    return judgement


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):  # also bytes that are not UTF-8
        return False
    return True


def _append(handle: int, path: Path, line: str) -> None:
    size = os.fstat(handle).st_size
    data = f"{line}\n".encode()
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    except OSError as error:
        os.ftruncate(handle, size)  # half a line would spoil the next one
        raise RoboAlignError(f"{path}: could not be written: {error.strerror}") from error


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RoboAlignError(
            f"{path}: expected to be the only one, found another review of this rater running"
        ) from error


def _sync_folder(path: Path) -> None:
    """A new file is there after a power cut only when its folder is written, too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
