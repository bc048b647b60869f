"""Files that are either whole or absent."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from roboalign_core.errors import RoboAlignError


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is synced and renamed onto ``path``, on failure removed.

    The temporary name keeps the suffix of ``path``, because writers choose their format by it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.stem}.", suffix=f".tmp{target.suffix}", dir=target.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: str | os.PathLike[str], below: bool = True) -> None:
    """Remove what was being written in ``folder`` when its process was killed: files and folders ``.NAME.tmp…``.

    Only where no other process writes. ``below``: in its folders, too.
    """
    pattern = ".*.tmp*"
    for path in list(Path(folder).rglob(pattern) if below else Path(folder).glob(pattern)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write strict JSON (no NaN) atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON.

    Raises:
        RoboAlignError: the file is absent, not UTF-8, or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RoboAlignError(f"{path}: expected a JSON file, found nothing there") from error
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise RoboAlignError(f"{path}: expected valid UTF-8 JSON, found: {error}") from error


class _YamlLoader(yaml.SafeLoader):
    """Plain values only, and no key twice: YAML keeps the last of them and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the safe loader does, after a look at the keys."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice!r} stands here twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read YAML of plain values: numbers, texts, lists, mappings.

    Raises:
        RoboAlignError: the file is absent, not UTF-8, not YAML, has a key twice, or asks for anything but plain values.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), _YamlLoader)
    except FileNotFoundError as error:
        raise RoboAlignError(f"{path}: expected a YAML file, found nothing there") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise RoboAlignError(f"{path}: expected valid UTF-8 YAML of plain values, found: {error}") from error


def _sync(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())
