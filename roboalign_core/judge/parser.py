"""From what a model replies to six scores, or one clear error."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import DIMENSIONS, KEYS, Dimension

LOOKED_AT = 20_000  # characters at the end of a reply, thoughts not counted: looking for objects is quadratic at worst
_FLAT = re.compile(r"\{[^{}]*\}")
_NUMBER = re.compile(r"\s*([+-]?\d{1,9}(?:\.\d{1,18})?)\s*(?:(?:/|out of)\s*(\d{1,9}(?:\.0*)?))?\s*", re.IGNORECASE)
_DECODER = json.JSONDecoder(strict=False)  # models put line breaks into strings


class ReplyError(RoboAlignError):
    """A reply that gives no scores."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a reply says.

    Attributes:
        scores: the six, by key, in the order of ``DIMENSIONS``.
        reasoning: the text under that key; empty where there is none.
    """

    scores: Mapping[str, float]
    reasoning: str


def parse_reply(text: str) -> Reply:
    """Read a reply as models send them.

    What counts is the last JSON object that has all six keys; prose, code fences and thoughts (``<think>``) around it
    do not matter, nor do objects before it, further keys, keys written as titles ("Contact Realism"), an object around
    it, Python's quotes or a comma too many. A score may be a number, or text like ``"2"``, ``"2/3"`` or ``"2 out of
    3"``. Scores within a thought do not count: they are drafts. A thought that was never closed is one, too, unless the
    reply ends with the object. Only the last ``LOOKED_AT`` characters are looked at.

    Raises:
        ReplyError: there is no such object, or one of its scores is not a number in the range of its scale.
    """
    said, open_thought = _without_thoughts(text)
    found = [entry for entry, _ in _objects(said.rstrip()[-LOOKED_AT:])] or _at_the_end(
        open_thought.rstrip()[-LOOKED_AT:]
    )
    complete = [entry for entry in found if set(KEYS) <= entry.keys()]
    if not complete:
        what = _what(found, text, open_thought)
        raise ReplyError(f"reply: expected a JSON object with {', '.join(KEYS)}, found {what}")
    last = complete[-1]
    scores = {dimension.key: _score(dimension, last[dimension.key]) for dimension in DIMENSIONS}
    reasoning = last.get("reasoning")
    return Reply(scores, reasoning.strip() if isinstance(reasoning, str) else "")


def _without_thoughts(text: str) -> tuple[str, str]:
    """What is said aloud, and the text of a thought that was never closed.

    Where the prompt opened the thought already, a reply has only its end.
    """
    aloud, thought = [], ""
    for passage in text.split("</think>"):
        before, _, thought = passage.partition("<think>")
        aloud.append(before)
    if len(aloud) > 1 and "<think>" not in text[: len(aloud[0]) + len("<think>")]:
        aloud = aloud[1:]
    return "".join(aloud), thought


def _at_the_end(text: str) -> list[dict[str, Any]]:
    """The object that a text ends with, where it does."""
    told = text.rstrip().removesuffix("```").rstrip()
    return [entry for entry, end in _objects(told) if end == len(told)]


def _objects(text: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Every JSON object of a text in order, keys in small letters, and where it ends; inner ones come before outer."""
    position = 0
    while (start := text.find("{", position)) >= 0:
        value, position = _read(text, start)
        if isinstance(value, dict):
            yield from ((entry, position) for entry in _nested(value))


def _read(text: str, start: int) -> tuple[Any, int]:
    """The object that begins at ``start``, or None, and where to look on."""
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    flat = _FLAT.match(text, start)
    if flat is None:
        return None, start + 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return ast.literal_eval(flat.group()), flat.end()
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None, start + 1


def _nested(outer: dict[str, Any]) -> list[dict[str, Any]]:
    """An object and all within it, inner ones first."""
    found, waiting = [], [outer]
    while waiting:
        value = waiting.pop()
        found.append({_plain(key): inner for key, inner in value.items() if isinstance(key, str)})
        waiting += [inner for inner in value.values() if isinstance(inner, dict)]
    return found[::-1]


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_")


def _score(dimension: Dimension, value: Any) -> float:
    if isinstance(value, dict) and len(scores := [value[key] for key in ("score", "value") if key in value]) == 1:
        value = scores[0]  # {"score": 2, "reason": "..."}
    number = _number(dimension, value)
    if not 0 <= number <= dimension.highest:  # also where it is NaN
        raise ReplyError(f"reply: {dimension.key}: expected 0 to {dimension.highest}, found {number}")
    return number


def _number(dimension: Dimension, value: Any) -> float:
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if match and (match[2] is None or float(match[2]) == dimension.highest):
            return float(match[1])
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e9 else math.nan
    raise ReplyError(
        f"reply: {dimension.key}: expected a number from 0 to {dimension.highest}, found {_short(repr(value))}"
    )


def _what(found: list[dict[str, Any]], text: str, open_thought: str) -> str:
    """Why there are no scores, for people."""
    if found:
        closest = max(found, key=lambda entry: len(entry.keys() & set(KEYS)))
        return f"none with {', '.join(key for key in KEYS if key not in closest)}"
    if open_thought:
        return f"a thought without an end (is there room for the whole reply?): {_short(text)!r}"
    return f"none in {_short(text)!r}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:40]} ... {text[-40:]}"
