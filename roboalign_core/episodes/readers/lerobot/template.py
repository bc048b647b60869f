"""The path templates of ``info.json``, which may come from anywhere and must lead nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import Formatter

from roboalign_core.episodes.readers.documents import short
from roboalign_core.errors import RoboAlignError

_NUMBER_FORMAT = re.compile(r"(0?[1-9])?d?")
_TEXT_FIELD = "video_key"


@dataclass(frozen=True)
class PathTemplate:
    """A path below the data set's folder with named gaps.

    Attributes:
        where: the file and key that it comes from, for messages.
        text: such as ``"data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"``.
        fields: the gaps that it may have; `video_key` takes a name, all others take numbers.

    Raises:
        RoboAlignError: it is no text, has other gaps or formats, or leads out of the folder.
    """

    where: str
    text: str
    fields: tuple[str, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not _is_plain(self.text, self.fields):
            allowed = ", ".join(f"{{{field}}}" for field in self.fields)
            raise RoboAlignError(f"{self.where}: expected a path with no more than {allowed}, found {short(self.text)}")
        _below(self.where, self.text)

    def path(self, root: Path, **values: int | str) -> Path:
        """The path with its gaps filled, always below ``root``.

        Raises:
            RoboAlignError: a value makes it lead out of the folder.
        """
        return root / _below(self.where, self.text.format(**values))


def _is_plain(text: str, fields: tuple[str, ...]) -> bool:
    try:
        parts = list(Formatter().parse(text))
    except ValueError:
        return False
    for _, field, form, conversion in parts:
        if field is None:
            continue
        fits = form == "" if field == _TEXT_FIELD else _NUMBER_FORMAT.fullmatch(form or "") is not None
        if field not in fields or conversion is not None or not fits:
            return False
    return True


def _below(where: str, text: str) -> PurePosixPath:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or not text.isprintable() or not path.parts:
        raise RoboAlignError(f"{where}: expected a path below the data set's folder, found {short(text)}")
    return path
