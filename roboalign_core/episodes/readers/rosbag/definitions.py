"""Message types, as a recording defines them.

rosbags turns definitions into Python code and runs it. Recordings come from elsewhere, so nothing of a definition gets
that far but what is checked here: names of letters, digits and underscores, kinds of numbers, and lengths.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from roboalign_core.errors import RoboAlignError, require

_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_]*/(msg|action)/[A-Za-z][A-Za-z0-9_]*")
_BASES = frozenset({"bool", "byte", "char", "float32", "float64", "string"}) | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
# Types whose fields are read by name; a recording may not define them in another way.
_OURS = (
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage",
    "std_msgs/msg/Header",
    "builtin_interfaces/msg/Time",
)
_LONGEST_TEXT = 1 << 20
_LONGEST_ARRAY = 4096  # of a fixed length: rosbags may write lines of code for each element


def typestore(connection: Any) -> Any:
    """What decodes the messages of a connection: a ``rosbags`` type store.

    Recordings of ROS 2 Humble and before may hold no definitions; there the ones of Humble's own packages are used.

    Raises:
        RoboAlignError: the type is neither defined there nor known, or its definition is none.
    """
    kind, text, form = connection.msgtype, connection.msgdef.data, connection.msgdef.format.name
    if form == "NONE" or not text:
        if kind not in _humble().fielddefs:
            raise RoboAlignError(
                f"{kind:.100}: expected a definition in the recording, as types beside ROS' own need one, found none; "
                "record as MCAP (ros2 bag record -s mcap), or bring the recording there with ros2 bag convert"
            )
        return _humble()
    if form != "MSG" or len(text) > _LONGEST_TEXT:
        found = f"{form}, {len(text)} letters"
        raise RoboAlignError(f"{kind:.100}: expected a .msg of at most {_LONGEST_TEXT} letters, found {found}")
    typesys = require("rosbags.typesys", "rosbag")
    try:
        types = _needed(kind, typesys.get_types_from_msg(text, kind))
        store = typesys.get_typestore(typesys.Stores.EMPTY)
        store.register({name: ([], fields) for name, fields in types.items()})
        return store
    except RoboAlignError:
        raise
    except Exception as error:  # of the parser: what the text is decides
        raise RoboAlignError(f"{kind:.100}: expected the definition of a message, found: {error!s:.200}") from error


@cache
def _humble() -> Any:
    typesys = require("rosbags.typesys", "rosbag")
    return typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)


def _needed(kind: str, defined: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of ``kind`` and of all types in it; those that the recording leaves out are Humble's."""
    needed: dict[str, Any] = {}
    waiting = [kind]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        definition = defined.get(name) or _humble().fielddefs.get(name)
        if definition is None or not _TYPE.fullmatch(name):
            raise RoboAlignError(f"{kind:.100}: expected definitions of all types in it, found none of {name:.100}")
        if name in _OURS and definition[1] != _humble().fielddefs[name][1]:
            raise RoboAlignError(f"{name}: expected the fields that ROS gives it, found others")
        needed[name] = definition[1]
        for field_name, field in definition[1]:
            if not _FIELD.fullmatch(field_name) or not _is_plain(field):
                raise RoboAlignError(f"{name:.100}: expected fields of plain values, found {field_name:.100}")
            form, content = _element(field)
            if form.name == "NAME":
                waiting.append(content)
    return needed


def _element(field: Any) -> Any:
    """Of an array or sequence the kind of its elements, else the field's own: (form, content)."""
    return field[1][0] if field[0].name in ("ARRAY", "SEQUENCE") else field


def _is_plain(field: Any) -> bool:
    """Whether there is nothing in a field's kind but names that are known and lengths."""
    form, content = _element(field)
    if form.name == "BASE":
        name, longest = content  # bytes of a text, 0: any number
        if name not in _BASES or not isinstance(longest, int):
            return False
    elif form.name != "NAME":
        return False
    if field[0].name in ("ARRAY", "SEQUENCE"):
        length = field[1][1]
        return isinstance(length, int) and 0 <= length <= (_LONGEST_ARRAY if field[0].name == "ARRAY" else 1 << 32)
    return True
