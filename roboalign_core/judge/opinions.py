"""What a judge says about many videos, where it may have nothing readable to say about some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from roboalign_core.judge.parser import ReplyError
from roboalign_core.judge.protocol import Judge, Judgement, Video


def opinions(judge: Judge, videos: Sequence[Video]) -> Iterator[tuple[Sequence[int], Judgement | ReplyError]]:
    """Judge all at once; where a video gets no scores, one by one.

    With a cache, this asks nothing twice: the others' replies are there, and so are those that gave no scores.

    Yields:
        Places of videos, and the judgement of these, or why there is none.

    Raises:
        RoboAlignError: no reply could be had.
    """
    together: Judgement | None
    try:
        together = judge.judge(videos)
    except ReplyError:
        together = None
    if together is not None:
        yield range(len(videos)), together
        return
    for place, video in enumerate(videos):
        found: Judgement | ReplyError
        try:
            found = judge.judge([video])
        except ReplyError as error:
            found = error
        yield [place], found
