"""One rater at work: what the page asks for and may see. Nothing in here names where a video comes from."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from threading import Lock
from typing import Any

from PIL import Image

from roboalign_core.benchmark.benchmark import Benchmark
from roboalign_core.benchmark.pairs import Pair
from roboalign_core.benchmark.review.judgement import opinion, said
from roboalign_core.benchmark.review.log import ReviewLog, fingerprint
from roboalign_core.benchmark.review.queue import queue
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.video import mp4_bytes
from roboalign_core.rubric import DIMENSIONS

_PIXELS = 384  # smaller frames are enlarged to about this height
_KEPT = 6  # encoded videos: the one before, this one, the next, and a few
_LOG = logging.getLogger(__name__)


class RequestError(RoboAlignError):
    """A request that is not carried out.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Session:
    """What the page of one rater may ask.

    Pairs go by names that are hashes, so that neither their numbers nor their order tell anything, and a page that is
    left over from another rater or benchmark names none.
    """

    def __init__(self, benchmark: Benchmark, log: ReviewLog, numbers: Sequence[int], rater: str, seed: int) -> None:
        """Begin, or go on.

        Args:
            benchmark: with the videos.
            log: of the rater.
            numbers: of the pairs to review.
            rater: the name.
            seed: of the order.
        """
        self._benchmark, self._log, self._rater = benchmark, log, rater
        self._decoding = Lock()
        self._encoded = lru_cache(maxsize=_KEPT)(self._encode)
        judged = [judgement.pair for judgement in log.judgements]
        self._opinions = {judgement.pair: judgement.scores for judgement in log.judgements}
        salt = f"{fingerprint(benchmark)} {rater} {seed}"
        self._pairs: dict[str, Pair] = {}
        for number in queue(numbers, judged, rater, seed):
            name = hashlib.sha256(f"{salt} {number}".encode()).hexdigest()[:16]
            self._pairs[name] = benchmark.pairs[number]

    @property
    def judged(self) -> int:
        """How many of the pairs have a judgement."""
        return sum(pair.number in self._opinions for pair in self._pairs.values())

    @property
    def skipped(self) -> int:
        """How many of the pairs could not be judged."""
        return sum(self._opinions.get(pair.number, ()) is None for pair in self._pairs.values())

    def __len__(self) -> int:
        """How many pairs there are to judge."""
        return len(self._pairs)

    def overview(self) -> dict[str, Any]:
        """What a page needs to begin: the scales and the queue, judged pairs first."""
        scales = [
            {"key": one.key, "title": one.title, "question": one.question, "steps": list(one.steps)}
            for one in DIMENSIONS
        ]
        notice = "The last judgement had not been saved whole and was dropped." if self._log.notice else ""
        return {
            "rater": self._rater,
            "scales": scales,
            "queue": list(self._pairs),
            "judged": self.judged,
            "notice": notice,
        }

    def pair(self, name: str) -> dict[str, Any]:
        """The instruction of a pair, and what this rater said about it, if anything."""
        pair = self._find(name)
        judged = pair.number in self._opinions
        return {"instruction": pair.instruction, "judgement": said(self._opinions[pair.number]) if judged else None}

    def video(self, name: str) -> bytes:
        """The video of a pair, MP4."""
        return self._media(name)[0]

    def first_frame(self, name: str) -> bytes:
        """The first frame of a pair, PNG."""
        return self._media(name)[1]

    def judge(self, name: str, body: bytes) -> dict[str, Any]:
        """Keep a judgement.

        Args:
            name: of the pair.
            body: UTF-8 JSON: ``{"scores": {...}}`` or ``{"cannot_judge": true}``.

        Returns:
            How many pairs have a judgement now.

        Raises:
            RequestError: no such pair, another body, or it could not be written.
        """
        pair = self._find(name)
        try:
            scores = opinion(_parsed(body))
        except RoboAlignError as error:
            raise RequestError(400, str(error)) from error
        try:
            self._log.append(pair.number, scores)
        except RoboAlignError as error:
            _LOG.error("%s", error)
            raise RequestError(507, "judgement: could not be saved; the terminal says why") from error
        self._opinions[pair.number] = scores
        return {"judged": self.judged}

    def _find(self, name: str) -> Pair:
        if name not in self._pairs:
            raise RequestError(404, "pair: expected one of this review, found another name; reload the page")
        return self._pairs[name]

    def _media(self, name: str) -> tuple[bytes, bytes]:
        pair = self._find(name)
        with self._decoding:  # a store is read by one thread at a time, and nothing is encoded twice
            return self._encoded(pair.number)

    def _encode(self, number: int) -> tuple[bytes, bytes]:
        episode = self._benchmark.episode(self._benchmark.pairs[number])
        upscale = max(1, round(_PIXELS / episode.frames.shape[1]))
        picture = io.BytesIO()
        Image.fromarray(episode.frames[0].repeat(upscale, axis=0).repeat(upscale, axis=1)).save(picture, "png")
        return mp4_bytes(episode.frames, episode.fps, upscale), picture.getvalue()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RoboAlignError(f"judgement: expected UTF-8, found byte {body[error.start]:#04x}") from error
    except (ValueError, RecursionError) as error:
        raise RoboAlignError(f"judgement: expected JSON, found: {error}") from error
