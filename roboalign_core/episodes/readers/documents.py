"""JSON from foreign folders, which may be damaged or hostile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from roboalign_core.errors import RoboAlignError

MOST_JSON_BYTES = 16 << 20
"""Of one document, and of one line of a file of lines: what is larger is refused unread."""


def read_document(path: Path) -> dict[str, Any]:
    """The object of a JSON file: strict JSON, no NaN or Infinity.

    Raises:
        RoboAlignError: the file is absent, too large, not JSON, or holds something else than an object.
    """
    try:
        with path.open("rb") as handle:
            return _object(str(path), handle.read(MOST_JSON_BYTES + 1))
    except FileNotFoundError as error:
        raise RoboAlignError(f"{path}: expected a JSON file, found nothing there") from error
    except (OSError, ValueError) as error:
        raise RoboAlignError(f"{path}: expected a readable file, found: {error}") from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one JSON object a line; empty lines are left out.

    Raises:
        RoboAlignError: as in `read_document`, for the file or for one of its lines.
    """
    try:
        with path.open("rb") as handle:
            number = 0
            while line := handle.readline(MOST_JSON_BYTES + 1):
                number += 1
                if line.strip():
                    yield _object(f"{path}: line {number}", line)
    except FileNotFoundError as error:
        raise RoboAlignError(f"{path}: expected a file of JSON lines, found nothing there") from error
    except OSError as error:
        raise RoboAlignError(f"{path}: expected a readable file, found: {error}") from error


def short(value: object) -> str:
    """A foreign value as it appears in a message."""
    text = repr(value) if isinstance(value, (str, int, float, bool, type(None))) else f"a {type(value).__name__}"
    return text if len(text) <= 120 else text[:117] + "..."


def _object(where: str, content: bytes) -> dict[str, Any]:
    if len(content) > MOST_JSON_BYTES:
        raise RoboAlignError(f"{where}: expected at most {MOST_JSON_BYTES} bytes of JSON, found more")
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise RoboAlignError(f"{where}: expected valid UTF-8 JSON, found: {error}") from error
    if not isinstance(value, dict):
        raise RoboAlignError(f"{where}: expected an object, found {short(value)}")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is no JSON")
