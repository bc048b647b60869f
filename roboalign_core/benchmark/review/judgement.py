"""What one person says about one pair."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import DIMENSIONS, KEYS

Opinion = tuple[int, ...] | None
_SHOWN = 60  # characters of what was found


@dataclass(frozen=True, slots=True)
class Judgement:
    """One line of a rater's file.

    Attributes:
        pair: the number of the pair.
        scores: the six, in the order of ``DIMENSIONS``; None where the rater could not judge the video.
        time: when, ISO 8601 in UTC.
    """

    pair: int
    scores: Opinion
    time: str

    def line(self) -> str:
        """One line of JSON, without its end."""
        return json.dumps({"pair": self.pair, **said(self.scores), "time": self.time})

    @classmethod
    def of(cls, value: Any) -> Judgement:
        """From one line of JSON, parsed.

        Raises:
            RoboAlignError: a key is missing, unknown, or makes no sense.
        """
        if not isinstance(value, dict):
            raise RoboAlignError(f"judgement: expected an object, found {_found(value)}")
        rest = {key: entry for key, entry in value.items() if key not in ("pair", "time")}
        pair, time = value.get("pair"), value.get("time")
        if not _whole(pair):
            raise RoboAlignError(f"judgement: pair: expected a whole number, found {_found(pair)}")
        if not isinstance(time, str):
            raise RoboAlignError(f"judgement: time: expected text, found {_found(time)}")
        return cls(pair, opinion(rest), time)


def said(scores: Opinion) -> dict[str, Any]:
    """An opinion as it stands in files and requests; `opinion` reads it."""
    return {"cannot_judge": True} if scores is None else {"scores": dict(zip(KEYS, scores, strict=True))}


def opinion(value: Any) -> Opinion:
    """Six whole scores out of ``{"scores": {...}}``, or None out of ``{"cannot_judge": true}``.

    Raises:
        RoboAlignError: anything else, naming what is missing, unknown, of a wrong type or out of range.
    """
    if not isinstance(value, dict) or set(value) not in ({"scores"}, {"cannot_judge"}):
        raise RoboAlignError(f"judgement: expected an object with scores or cannot_judge, found {_found(value)}")
    if "cannot_judge" in value:
        if value["cannot_judge"] is not True:
            raise RoboAlignError(f"judgement: cannot_judge: expected true, found {_found(value['cannot_judge'])}")
        return None
    scores = value["scores"]
    if not isinstance(scores, dict):
        raise RoboAlignError(f"judgement: scores: expected an object, found {_found(scores)}")
    unknown = sorted(set(scores) - set(KEYS))
    if unknown:
        raise RoboAlignError(f"judgement: scores: expected {', '.join(KEYS)}, found {_found(unknown[0])}, too")
    return tuple(_score(scores, key, dimension.highest) for key, dimension in zip(KEYS, DIMENSIONS, strict=True))


def _score(scores: Mapping[str, Any], key: str, highest: int) -> int:
    if key not in scores:
        raise RoboAlignError(f"judgement: {key}: expected a score, found none")
    if not _whole(scores[key]) or not 0 <= scores[key] <= highest:
        raise RoboAlignError(
            f"judgement: {key}: expected a whole number from 0 to {highest}, found {_found(scores[key])}"
        )
    return int(scores[key])


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _found(value: Any) -> str:
    """A value in a message, short whatever it is."""
    text = reprlib.repr(value)  # which keeps deep nesting from being spelled out, but may still be long
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
