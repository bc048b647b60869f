"""Replies that were had once are not asked for, or paid for, again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json, write_text

_REFUSED = "refused"


class ReplyCache:
    """A folder of replies, one file each, named by a hash of all that the reply depends on.

    Several processes may share a folder: files appear whole or not at all, and the same key means the same question.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> str | None:
        """The reply, or None.

        Raises:
            RoboAlignError: the file is damaged.
        """
        path = self._path(key)
        if not path.is_file():
            return None
        entry = read_json(path)
        if not isinstance(entry, dict) or not isinstance(entry.get("reply"), str):
            raise RoboAlignError(f"{path}: expected a reply of a judge, found something else; remove the file")
        return str(entry["reply"])

    def put(self, key: str, reply: str, facts: Mapping[str, Any]) -> None:
        """Keep a reply, with facts for people who look into the folder."""
        write_json(self._path(key), {"reply": reply, **facts})

    def reject(self, key: str, attempt: int, reply: str) -> Path:
        """Keep a reply that gives no scores, so that this attempt is not made again; says where."""
        return self._set_aside(f"{key}.{attempt}", reply)

    def refuse(self, key: str, answer: str) -> Path:
        """Keep what was answered to a question that is not taken, for people alone; says where."""
        return self._set_aside(f"{key}.{_REFUSED}", answer)

    def rejected(self) -> dict[str, tuple[int, Path]]:
        """By key: how many attempts gave no scores, and the newest such reply."""
        newest: dict[str, tuple[int, Path]] = {}
        for path in (self.folder / "rejected").glob("[!.]*.txt"):
            key, attempt = path.name.split(".")[:2]
            if attempt.isdecimal() and int(attempt) + 1 > newest.get(key, (0, path))[0]:
                newest[key] = int(attempt) + 1, path
        return newest

    def _set_aside(self, name: str, text: str) -> Path:
        """Named by its content, too: no other text takes its place."""
        kept = writable(text)
        path = self.folder / "rejected" / f"{name}.{hashlib.sha256(kept.encode()).hexdigest()[:12]}.txt"
        write_text(path, kept)
        return path

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def writable(text: str) -> str:
    """The text as UTF-8 can hold it: half of a surrogate pair, which JSON can say, becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def cache_key(**facts: Any) -> str:
    """SHA-256 of facts that JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
