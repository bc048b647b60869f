"""From what a model replies to six scores, or one clear error."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import DIMENSIONS, KEYS, Dimension

LOOKED_AT = 20_000  # characters at the end of a reply, thoughts not counted: looking for objects is quadratic at worst
_FLAT = re.compile(r"\{[^{}]*\}")
_BRACE = re.compile(r"[{}]")
_NUMBER = re.compile(r"\s*([+-]?\d{1,9}(?:\.\d{0,18})?)\s*(?:(?:/|out of)\s*(\d{1,9}(?:\.0*)?))?\s*", re.IGNORECASE)
_THOUGHT = re.compile(
    r"(?P<end></(?:seed:)?(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷)"
    r"|(?P<begin><(?:seed:)?(?:think|thinking|thought|reasoning)>|\[THINK\]|◁think▷"
    r"|<\|channel\|>(?:analysis|commentary)(?:(?!<\|message)[^{}]){0,80}<\|message\|>)"
    r"|(?P<aside><\|end\|>)"  # ends whatever was said in one channel
    r"|(?P<aloud><\|channel\|>final(?:(?!<\|message)[^{}]){0,80}<\|message\|>)",
    re.IGNORECASE,
)


class ReplyError(RoboAlignError):
    """A reply that gives no scores."""


class _Object(dict[str, Any]):
    """A JSON object, keys in small letters.

    Attributes:
        unclear: keys that have several values.
    """

    def __init__(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        super().__init__()
        self.unclear: set[str] = set()
        for key, value in pairs:
            if not isinstance(key, str):
                continue
            name = _plain(key)
            if name in self and repr(self[name]) != repr(value):
                self.unclear.add(name)
            self[name] = value


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_Object)  # not strict: models put line breaks into strings


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

    What counts is the last JSON object that has all six keys; prose, code fences and thoughts (``<think>`` and others')
    around it do not matter, nor do objects before it, further keys, keys written as titles ("Contact Realism"), an
    object around it, Python's quotes or a comma too many. A score may be a number, or text like ``"2"``, ``"2/3"`` or
    ``"2 out of 3"``. Scores within a thought do not count: they are drafts. A thought that was never closed is one,
    too, unless the reply ends with the object. Only the last ``LOOKED_AT`` characters are looked at. What prose says of
    an object is not understood: one that is quoted and then taken back counts.

    Raises:
        ReplyError: there is no such object, one of its scores is not a number in the range of its scale, it has two
            values for one score, or another object of scores follows that is cut off or lacks some.
    """
    said, open_thought = _without_thoughts(text)
    aloud, thought = said.rstrip()[-LOOKED_AT:], open_thought.rstrip()[-LOOKED_AT:]
    objects, after = list(_objects(aloud)), aloud + thought
    if not objects:
        objects, after = _at_the_end(thought), thought
    scored = [(complete, end) for value, _, end in objects if (complete := _complete(value))]
    if not scored:
        found = [entry for value, _, _ in objects for entry in _nested(value)]
        what = _what(found, text, open_thought)
        raise ReplyError(f"reply: expected a JSON object with {', '.join(KEYS)}, found {what}")
    complete, end = scored[-1]
    if _begins_scores(after[end:]):
        raise ReplyError(f"reply: expected nothing after the scores, found others that are not whole: {_short(text)!r}")
    last = _the_one(complete)
    scores = {dimension.key: _score(dimension, last[dimension.key]) for dimension in DIMENSIONS}
    reasoning = last.get("reasoning")
    return Reply(scores, reasoning.strip() if isinstance(reasoning, str) else "")


def _without_thoughts(text: str) -> tuple[str, str]:
    """What is said aloud, and the text of a thought that was never closed.

    Where the prompt opened the thought already, a reply has only its end: what stands before is thought.
    """
    aloud: list[str] = []
    since, thought = 0, ""  # where the passage begins, and what opened it, if it is a thought
    for mark in _marks(text):
        if mark.lastgroup == "begin":
            if not thought:
                aloud.append(text[since : mark.start()])
                since, thought = mark.end(), mark[0]
        elif mark.lastgroup != "aside" or thought.startswith("<|"):
            if mark.lastgroup == "aloud" or not thought:
                aloud.clear()
            since, thought = mark.end(), ""
    return ("".join(aloud), text[since:]) if thought else ("".join([*aloud, text[since:]]), "")


def _marks(text: str) -> Iterator[re.Match[str]]:
    """Where thoughts begin and end; what looks like it in a string of an object does not count."""
    marks = list(_THOUGHT.finditer(text))
    first = max(0, len(text.rstrip()) - LOOKED_AT)
    spans = [(first + start, first + end) for _, start, end in _objects(text[first:])] if marks else []
    starts = [start for start, _ in spans]
    for mark in marks:
        place = bisect(starts, mark.start()) - 1
        if place < 0 or mark.start() >= spans[place][1]:
            yield mark


def _at_the_end(text: str) -> list[tuple[_Object, int, int]]:
    """The object that a text ends with, where it does."""
    told = text.rstrip().removesuffix("```").rstrip()
    return [(value, start, end) for value, start, end in _objects(told) if end == len(told)]


def _objects(text: str) -> Iterator[tuple[_Object, int, int]]:
    """Every outermost JSON object of a text in order, where it begins, and where it ends."""
    position = 0
    while (start := text.find("{", position)) >= 0:
        value, position = _read(text, start)
        if value is not None:
            yield value, start, position


def _read(text: str, start: int) -> tuple[_Object | None, int]:
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
            return _python(flat.group()), flat.end()
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None, start + 1


def _python(text: str) -> _Object:
    """A dictionary as Python writes it.

    Raises:
        ValueError, SyntaxError, TypeError, MemoryError, RecursionError: it is none.
    """
    tree = ast.parse(text, mode="eval").body
    if not isinstance(tree, ast.Dict):
        raise TypeError
    keys = [None if key is None else ast.literal_eval(key) for key in tree.keys]  # None: of **
    return _Object(zip(keys, map(ast.literal_eval, tree.values), strict=True))


def _begins_scores(text: str) -> bool:
    """Whether a text has an object that names a score, or one that is cut off."""
    depth = start = 0
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            start = start if depth else brace.start()
            depth += 1
        elif depth:
            depth -= 1
            inside = "" if depth else _plain(text[start : brace.end()])
            if any(key in inside for key in KEYS):
                return True
    return depth > 0


def _nested(outer: _Object) -> list[_Object]:
    """An object and all within it, inner ones first."""
    found, waiting = [], [outer]
    while waiting:
        value = waiting.pop()
        found.append(value)
        waiting += [inner for inner in value.values() if isinstance(inner, _Object)]
    return found[::-1]


def _complete(outer: _Object) -> list[_Object]:
    """Those with all six keys: an object itself, or else all within it."""
    complete = [entry for entry in _nested(outer) if set(KEYS) <= entry.keys()]
    return complete[-1:] if complete and complete[-1] is outer else complete


def _the_one(complete: Sequence[_Object]) -> _Object:
    """That says what the others say, and everything once.

    Raises:
        ReplyError: there are several scores for one dimension.
    """
    last = complete[-1]
    for key in KEYS:
        if any(key in entry.unclear or repr(entry[key]) != repr(last[key]) for entry in complete):
            raise ReplyError(f"reply: {key}: expected one score, found several")
    return last


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_")


def _score(dimension: Dimension, value: Any) -> float:
    if isinstance(value, _Object) and len(keys := {"score", "value"} & value.keys()) == 1 and not keys & value.unclear:
        value = value[keys.pop()]  # {"score": 2, "reason": "..."}
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


def _what(found: Sequence[_Object], text: str, open_thought: str) -> str:
    """Why there are no scores, for people."""
    if found:
        closest = max(found, key=lambda entry: len(entry.keys() & set(KEYS)))
        return f"none with {', '.join(key for key in KEYS if key not in closest)}"
    if open_thought:
        return f"a thought without an end (is there room for the whole reply?): {_short(text)!r}"
    return f"none in {_short(text)!r}"


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:40]} ... {text[-40:]}"
