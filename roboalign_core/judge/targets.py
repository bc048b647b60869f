"""What a perfect judge would have replied, composed from known scores."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from roboalign_core.judge.parser import parse_reply
from roboalign_core.rubric import DIMENSIONS


def target_reply(scores: Sequence[float], thought_is_open: bool) -> str:
    """A short reasoning, what each score's step means, and the JSON object.

    Args:
        scores: six, in the order of ``DIMENSIONS``; between two steps, the nearer one is put into words.
        thought_is_open: the prompt ends with ``<think>``, as those of thinking models do; the reasoning is then the
            thought.

    Returns:
        Text that :func:`roboalign_core.judge.parser.parse_reply` reads the scores from, to two decimals.
    """
    steps = [math.floor(score + 0.5) for score in scores]
    thought = "\n".join(
        f"{dimension.title}: {dimension.steps[step]} ({step} of {dimension.highest})."
        for dimension, step in zip(DIMENSIONS, steps, strict=True)
    )
    answer: dict[str, str | float] = {"reasoning": _summary(steps)}
    answer |= {dimension.key: _number(score) for dimension, score in zip(DIMENSIONS, scores, strict=True)}
    text = thought + ("\n</think>\n\n" if thought_is_open else "\n\n") + json.dumps(answer)
    parse_reply(text)  # out of range: said here, not by a model that learned it
    return text


def _summary(steps: Sequence[int]) -> str:
    short = [
        f"{dimension.title.lower()}: {dimension.steps[step]}"
        for dimension, step in zip(DIMENSIONS, steps, strict=True)
        if step < dimension.highest
    ]
    return "; ".join(short) if short else "everything is as it should be"


def _number(score: float) -> float:
    return int(score) if float(score).is_integer() else round(float(score), 2)
