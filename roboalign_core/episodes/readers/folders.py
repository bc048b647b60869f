"""Files in folders, found through links as well: data sets are often linked together from several disks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path


def files_below(folder: Path, *patterns: str) -> Iterator[Path]:
    """Files in ``folder`` and below it whose name fits one of the patterns; nothing where it is no folder.

    Links are followed; one that leads nowhere counts as a file, so that it is missed and not overlooked. A folder that
    can be reached by several ways is visited once: links may form loops, and nothing is found twice.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [folder] if folder.is_dir() else []
    while waiting:
        here = waiting.pop()
        status = here.stat()
        if (status.st_dev, status.st_ino) in visited:
            continue
        visited.add((status.st_dev, status.st_ino))
        paths = [here / name for name in sorted(os.listdir(here))]
        folders = [path for path in paths if path.is_dir()]
        waiting += reversed(folders)
        for path in paths:
            if any(fnmatchcase(path.name, pattern) for pattern in patterns) and path not in folders:
                yield path
