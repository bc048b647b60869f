"""Plain data from pickled arrays of foreign files, which are never unpickled.

A pickle is a program for a small stack machine that may call any function by its name. Here its instructions are
carried out on plain data alone: dictionaries, lists, tuples, texts, bytes and numbers. No name is looked up and nothing
is called; the three calls of which NumPy's own pickles consist are noted as `Call`, any other name is refused.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from roboalign_core.errors import RoboAlignError

MOST_PICKLE_BYTES = 256 << 20
MOST_STEPS = 5_000_000

_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_ARRAY = tuple(f"{module}._reconstruct" for module in _MODULES)
_SCALAR = tuple(f"{module}.scalar" for module in _MODULES)
_DTYPE = "numpy.dtype"
_NAMES = (*_ARRAY, *_SCALAR, _DTYPE, "numpy.ndarray")
_NUMBERS = re.compile(r"[iu][1248]|f[248]")
_SKIPPED = ("PROTO", "FRAME")
_VALUES = (
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_FIXED: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class _Name:
    """A function that a pickle names."""

    text: str


@dataclass
class Call:
    """What a pickle would have called, with the state that it would have set."""

    name: str
    args: tuple[Any, ...]
    state: Any = None


def read_object(path: Path) -> Any:
    """The one object of an ``.npy`` file that NumPy wrote with pickling, as plain data and `Call`.

    Raises:
        RoboAlignError: the file is absent, too large, damaged, or holds more than plain data.
    """
    try:
        with path.open("rb") as handle:
            content = handle.read(MOST_PICKLE_BYTES + 1)
        if len(content) > MOST_PICKLE_BYTES:
            raise ValueError(f"more than {MOST_PICKLE_BYTES} bytes")
        stream = BytesIO(content)
        version = npy.read_magic(stream)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(stream)
        if dtype != np.dtype(object) or shape != ():
            raise ValueError(f"{shape} {dtype}")
        [value] = contents(_expect(_run(stream), Call))
    except FileNotFoundError as error:
        raise RoboAlignError(f"{path}: expected pickled annotations, found nothing there") from error
    except Exception as error:  # of struct, tokenize, pickletools, …: what was damaged decides
        raise RoboAlignError(f"{path}: expected one pickled object of plain data, found: {error!s:.200}") from error
    return value


def contents(value: Any) -> list[Any]:
    """What a list, a tuple or an array holds, row by row; arrays of numbers become Python's.

    Raises:
        ValueError: it is something else, or contradicts itself.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, Call) or value.name not in _ARRAY:
        raise ValueError(f"a {type(value).__name__} in place of a list")
    _, shape, dtype, is_fortran, data = value.state
    if isinstance(data, list):  # of objects
        return data
    array = np.frombuffer(data, _dtype(dtype)).reshape(shape, order="F" if is_fortran else "C")
    return list(array.tolist())


def whole_number(value: Any) -> int:
    """A Python or NumPy integer.

    Raises:
        ValueError: it is something else.
    """
    if isinstance(value, Call) and value.name in _SCALAR:
        dtype, data = value.args
        [value] = np.frombuffer(data, _dtype(dtype)).tolist()
    if type(value) is not int:
        raise ValueError(f"a {type(value).__name__} in place of a whole number")
    return value


def _dtype(call: Any) -> np.dtype[Any]:
    if not isinstance(call, Call) or call.name != _DTYPE or not _NUMBERS.fullmatch(call.args[0]):
        raise ValueError("an array of other things than numbers")
    return np.dtype(call.args[0]).newbyteorder(">" if call.state and call.state[1] == ">" else "<")


def _run(stream: BytesIO) -> Any:
    """Carry out a pickle's instructions; returns what it leaves."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for step, (code, arg, _) in enumerate(pickletools.genops(stream)):
        name = code.name
        if step >= MOST_STEPS:
            raise ValueError(f"more than {MOST_STEPS} instructions")
        if name == "STOP":
            [value] = stack
            return value
        if name == "MARK":
            marks.append(len(stack))
        elif name in _VALUES:
            stack.append(arg)
        elif name in _FIXED:
            stack.append(_FIXED[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else arg] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[arg])
        elif name not in _SKIPPED:
            start = marks.pop() if name in ("TUPLE", "APPENDS", "SETITEMS") else len(stack) - _taken(name)
            if start < 0 or (marks and start < marks[-1]):
                raise ValueError(f"the instruction {name} without its values")
            taken = stack[start:]
            del stack[start:]
            _apply(name, arg, taken, stack)
    raise ValueError("a pickle without an end")


def _taken(name: str) -> int:
    return _TUPLES.get(name, {"APPEND": 1, "GLOBAL": 0}.get(name, 2))


def _apply(name: str, arg: Any, taken: list[Any], stack: list[Any]) -> None:
    if name == "TUPLE" or name in _TUPLES:
        stack.append(tuple(taken))
    elif name in ("APPEND", "APPENDS"):
        _expect(stack[-1], list).extend(taken)
    elif name in ("SETITEM", "SETITEMS"):
        keys, values = taken[::2], taken[1::2]
        _expect(stack[-1], dict).update({_expect(key, str): value for key, value in zip(keys, values, strict=True)})
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        text = arg.replace(" ", ".") if name == "GLOBAL" else ".".join(_expect(part, str) for part in taken)
        if text not in _NAMES:
            raise ValueError(f"the name {text}")
        stack.append(_Name(text))
    elif name == "REDUCE":
        stack.append(Call(_expect(taken[0], _Name).text, _expect(taken[1], tuple)))
    elif name == "BUILD":
        stack.append(_expect(taken[0], Call))
        taken[0].state = _expect(taken[1], tuple)
    else:
        raise ValueError(f"the instruction {name}")


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"a {type(value).__name__} in place of a {kind.__name__.strip('_').lower()}")
    return value
