"""Values inside ROS messages, by path: ``twist.linear.x``, ``position[0]``, ``position[joint_1]``."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from roboalign_core.errors import RoboAlignError

_PART = r"[A-Za-z]\w*(?:\[[^\[\]]+\])*"
_PATH = re.compile(rf"{_PART}(?:\.{_PART})*", re.ASCII)
_STEP = re.compile(r"([A-Za-z]\w*)|\[([^\[\]]+)\]", re.ASCII)
_NAMES = ("name", "names", "joint_names")  # lists that say what the elements of the lists beside them are
_LARGEST = float(np.finfo(np.float32).max)


class ValueKind(Enum):
    """What a field must hold."""

    NUMBER = "a finite number"
    TEXT = "a text"
    FLAG = "true or false"
    LABEL = "a whole number, or true or false"


@dataclass(frozen=True)
class Field:
    """A path into a message.

    A number in brackets is a place in a list. Any other text there is a name: of the element whose name stands at the
    same place of the message's ``name``, ``names`` or ``joint_names``, as in JointState and JointTrajectory. The order
    of joints may differ from message to message.

    Raises:
        RoboAlignError: the text is no path.
    """

    path: str

    def __post_init__(self) -> None:
        if not _PATH.fullmatch(self.path):
            raise RoboAlignError(f"field: expected a path like twist.linear.x or position[0], found {self.path!r}")

    def value(self, message: Any, kind: ValueKind, where: str) -> float | str | bool | int:
        """What lies there.

        Raises:
            RoboAlignError: the message has no such field, or the value is of another kind; begins with ``where``.
        """
        owners, value = [], message
        for name, place in _STEP.findall(self.path):
            if name:
                owners.append(value)
                value = self._attribute(value, name, where)
            else:
                value = self._element(value, place, owners, where)
        return self._checked(value, kind, where)

    def _attribute(self, owner: Any, name: str, where: str) -> Any:
        names = [field.name for field in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        python_name = name if name in names else f"{name}_"  # as rosbags calls fields named like keywords
        if python_name not in names:
            found = f"one of {', '.join(names)}" if names else f"none, for this is {_described(owner)}"
            raise RoboAlignError(f"{where}: field {self.path}: expected {found}, found {name}")
        return getattr(owner, python_name)

    def _element(self, values: Any, place: str, owners: list[Any], where: str) -> Any:
        if not isinstance(values, (list, np.ndarray)):
            raise RoboAlignError(f"{where}: field {self.path}: expected a list before [{place}], found {values!r:.80}")
        if place.isdecimal():
            index = int(place)
        else:
            lists = (getattr(owner, name, None) for owner in reversed(owners) for name in _NAMES)
            names = next((found for found in lists if isinstance(found, list) and found), [])
            if place not in names:
                raise RoboAlignError(
                    f"{where}: field {self.path}: expected {place} among the names, found {names!s:.200}"
                )
            index = names.index(place)
        if index >= len(values):
            raise RoboAlignError(f"{where}: field {self.path}: expected an element {place}, found {len(values)} in all")
        return values[index]

    def _checked(self, value: Any, kind: ValueKind, where: str) -> float | str | bool | int:
        flag, whole = isinstance(value, (bool, np.bool_)), isinstance(value, (int, np.integer))
        if kind is ValueKind.TEXT and isinstance(value, str):
            return value
        if kind is ValueKind.FLAG and flag:
            return bool(value)
        if kind is ValueKind.LABEL and (flag or whole):
            return int(value)
        number = flag or whole or isinstance(value, (float, np.floating))
        if kind is ValueKind.NUMBER and number and abs(value) <= _LARGEST:
            return float(value)
        raise RoboAlignError(f"{where}: field {self.path}: expected {kind.value}, found {_described(value)}")


def _described(value: Any) -> str:
    if isinstance(value, (list, np.ndarray)):
        return f"{len(value)} values: say which, as in [0]"
    return type(value).__name__ if dataclasses.is_dataclass(value) else f"{value!r:.80}"
