"""What the steps of an RLDS data set hold, from its ``features.json``, and its splits, from ``dataset_info.json``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roboalign_core.episodes.readers.base import UNDECLARED, ActionColumn, ActionKind, ActionMeaning
from roboalign_core.episodes.readers.documents import read_document, short
from roboalign_core.errors import RoboAlignError

FEATURES = "features.json"
SPLITS = "dataset_info.json"

_TRUSTED = "tensorflow_datasets."  # tfds imports the module of a class that features.json names
_FLOATS = ("float16", "float32", "float64")
_INSTRUCTIONS = ("language_instruction", "natural_language_instruction", "instruction")
_SPLIT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*")
_MOST_WIDTH = 16384
_MOST_DEPTH = 8
_MOST_EPISODES = 10**6  # of all splits, which are listed before one is read

Keys = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Where in a step things are, each place as the keys that lead to it.

    Attributes:
        cameras: (height, width, 3) uint8, by name.
        action: vectors of floats, which are joined in this order, with their widths.
        instruction: a text; None where there is none.
        extras: other vectors of floats, by the name of the extra, with their widths.
    """

    cameras: Mapping[str, Keys]
    action: Mapping[Keys, int]
    instruction: Keys | None
    extras: Mapping[str, tuple[Keys, int]]

    @property
    def meaning(self) -> ActionMeaning:
        """The columns of the actions; their units are in no file."""
        names = [
            (".".join(keys[1:]) or "action") + (f"_{place}" if width > 1 else "")
            for keys, width in self.action.items()
            for place in range(width)
        ]
        return ActionMeaning(tuple(ActionColumn(name, UNDECLARED, ActionKind.UNKNOWN) for name in names))


def read_layout(folder: Path) -> Layout:
    """Read ``features.json``.

    Raises:
        RoboAlignError: it is absent or damaged, names foreign classes, or has no steps, camera or action.
    """
    path = folder / FEATURES
    content = read_document(path)
    foreign = [name for name in _classes(content) if not str(name).startswith(_TRUSTED)]
    if foreign:
        raise RoboAlignError(f"{path}: expected classes of tensorflow_datasets alone, found {short(foreign[0])}")
    leaves = dict(_leaves(_steps(path, content)))
    images = [keys for keys, leaf in leaves.items() if keys[0] == "observation" and _is_image(leaf)]
    widths = {keys: width for keys, leaf in leaves.items() if (width := _width(leaf)) is not None}
    action = {keys: widths[keys] for keys in sorted(widths) if keys[0] == "action"}
    if not images or not action:
        raise RoboAlignError(
            f"{path}: expected images (H, W, 3) in observation and an action of floats, found "
            f"{short(', '.join('/'.join(keys) for keys in leaves) or 'none')}"
        )
    texts = [
        keys
        for name in _INSTRUCTIONS
        for keys in ((name,), ("observation", name))
        if "text" in leaves.get(keys, {}) or _tensor(leaves.get(keys, {})) == ("string", [])
    ]
    return Layout(
        cameras={".".join(keys[1:]): keys for keys in images},
        action=action,
        instruction=texts[0] if texts else None,
        extras={".".join(keys): (keys, width) for keys, width in widths.items() if _is_kept(keys)},
    )


def read_splits(folder: Path) -> dict[str, int]:
    """The splits in ``dataset_info.json`` with their numbers of episodes.

    Raises:
        RoboAlignError: it is absent or damaged, its files lie elsewhere, or there are too many episodes.
    """
    path = folder / SPLITS
    splits = read_document(path).get("splits")
    found: dict[str, int] = {}
    for split in splits if isinstance(splits, list) else []:
        name = split.get("name") if isinstance(split, dict) else None
        lengths = split.get("shardLengths", []) if isinstance(split, dict) else None
        if not isinstance(name, str) or not _SPLIT.fullmatch(name) or not isinstance(lengths, list) or name in found:
            raise RoboAlignError(f"{path}: splits: expected names and shardLengths, found {short(name)}")
        template = str(split.get("filepathTemplate", ""))
        if "/" in template or "\\" in template or ".." in template:
            raise RoboAlignError(f"{path}: split {name}: expected files in this folder, found {short(template)}")
        found[name] = sum(_whole(path, length) for length in lengths)
    if sum(found.values()) > _MOST_EPISODES:
        raise RoboAlignError(
            f"{path}: shardLengths: expected at most {_MOST_EPISODES} episodes in all, found {sum(found.values())}"
        )
    return found


def _whole(path: Path, value: Any) -> int:
    """JSON of protocol buffers writes 64-bit numbers as texts."""
    if not re.fullmatch(r"\d{1,12}", str(value)):
        raise RoboAlignError(f"{path}: shardLengths: expected counts, found {short(value)}")
    return int(value)


def _classes(node: Any) -> Iterator[Any]:
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if "pythonClassName" in node:
                yield node["pythonClassName"]
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _steps(path: Path, content: dict[str, Any]) -> Any:
    node: Any = content
    for key in ("featuresDict", "features", "steps", "sequence", "feature"):
        node = node.get(key) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise RoboAlignError(f"{path}: expected episodes with steps, found none")
    return node


def _leaves(node: Any, keys: Keys = ()) -> Iterator[tuple[Keys, dict[str, Any]]]:
    """The features of a step that are no dictionaries."""
    inside = node.get("featuresDict") if isinstance(node, dict) else None
    children = inside.get("features") if isinstance(inside, dict) else None
    if isinstance(children, dict) and len(keys) < _MOST_DEPTH:
        for key, child in sorted(children.items()):
            yield from _leaves(child, (*keys, key))
    elif isinstance(node, dict) and keys:
        yield keys, node


def _tensor(leaf: dict[str, Any], kind: str = "tensor") -> tuple[Any, list[int]]:
    """The dtype and the shape of a feature; -1 stands for a length that differs."""
    about = leaf.get(kind)
    about = about if isinstance(about, dict) else {}
    shape = about.get("shape")
    lengths = shape.get("dimensions", []) if isinstance(shape, dict) else None
    if not isinstance(lengths, list) or not all(re.fullmatch(r"-1|\d{1,9}", str(length)) for length in lengths):
        return None, []
    return about.get("dtype", "uint8"), [int(length) for length in lengths]


def _is_image(leaf: dict[str, Any]) -> bool:
    dtype, shape = _tensor(leaf, "image" if "image" in leaf else "tensor")
    return dtype == "uint8" and len(shape) == 3 and shape[2] == 3


def _width(leaf: dict[str, Any]) -> int | None:
    dtype, shape = _tensor(leaf)
    if dtype not in _FLOATS or len(shape) > 1:
        return None
    width = shape[0] if shape else 1
    return width if 0 < width <= _MOST_WIDTH else None


def _is_kept(keys: Keys) -> bool:
    """What was observed, and the reward; not how texts were embedded."""
    return keys == ("reward",) or (keys[0] == "observation" and "embedding" not in keys[-1])
