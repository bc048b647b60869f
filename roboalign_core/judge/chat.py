"""What all judges share that reply in words: samples, the cache, asking again, mean and deviation."""

from __future__ import annotations

import math
import tempfile
import threading
from abc import abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.cache import ReplyCache, cache_key
from roboalign_core.judge.parser import ReplyError, parse_reply
from roboalign_core.judge.prompt import VERSION, Prompt, PromptConfig, build_prompt
from roboalign_core.judge.protocol import Judge, Judgement, Video
from roboalign_core.rubric import KEYS, Scores


@dataclass
class SamplingConfig:
    """How often and how freely a judge speaks.

    Attributes:
        samples: replies for each video; the scores are their mean (the paper: 5).
        temperature: of the replies (the paper: 0.6); 0 takes the likeliest words.
        max_tokens: length of a reply at most, thoughts included.
        again: how often a sample whose reply gives no scores is drawn again before that is an error; with a cache, in
            all runs together.
        seed: of the draws, where the judge's engine takes one.
    """

    samples: int = 5
    temperature: float = 0.6
    max_tokens: int = 4096
    again: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("samples", 1), ("max_tokens", 1), ("again", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise RoboAlignError(f"judge sampling: {name}: expected at least {least}, found {getattr(self, name)}")
        if not 0 <= self.temperature < math.inf:
            raise RoboAlignError(f"judge sampling: temperature: expected 0 or more, found {self.temperature}")
        if self.temperature == 0 and (self.samples > 1 or self.again):
            raise RoboAlignError(
                "judge sampling: temperature: expected above 0, because the likeliest words are always the same; "
                f"found 0 with samples={self.samples}, again={self.again} (expected 1 and 0)"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One sample of one video.

    Attributes:
        video, shown: what is asked about, and how it is shown.
        place, sample: number of the video, and of its sample.
        attempt: how often this sample was drawn before.
        seed: of this draw.
        key: of the reply in the cache.
    """

    video: Video
    shown: PromptConfig
    place: int
    sample: int
    attempt: int
    seed: int
    key: str

    def prompt(self) -> Prompt:
        """Text and images; built anew, because those of many videos do not fit into memory."""
        return build_prompt(self.video, self.shown)


Answers = Generator[tuple[Question, str, ReplyError | None], None, None]


class ChatJudge(Judge):
    """A judge that is asked in words and images. What differs is how a question is sent: :meth:`_ask`.

    Attributes:
        counts: since this judge was made: replies that were asked for, were found in the cache, gave no scores.
    """

    def __init__(
        self,
        name: str,
        identity: Mapping[str, Any],
        sampling: SamplingConfig,
        shown: PromptConfig,
        cache: str,
        progress: bool,
    ) -> None:
        """Settings that all of these judges have.

        Args:
            name: which judge this is.
            identity: everything of this judge that its replies depend on, beside the settings below; JSON can hold it.
            sampling: how often and how freely it speaks.
            shown: what of a video is shown.
            cache: folder of replies; empty: every reply is asked for, and those that give no scores are kept in a
                temporary folder.
            progress: show a progress bar.
        """
        self._name, self.identity = name, dict(identity)
        self.sampling, self.shown, self.progress = sampling, shown, progress
        self._cache = ReplyCache(cache) if cache else None
        self._rejected: ReplyCache | None = None
        self._why: dict[str, str] = {}  # by key of the question: what is wrong with its newest reply
        self._refused: set[str] = set()  # keys of questions that this process does not ask again
        self._lock = threading.Lock()
        self.counts = {"asked": 0, "cached": 0, "rejected": 0}

    @property
    def name(self) -> str:
        """Which judge this is."""
        return self._name

    @abstractmethod
    def _ask(self, questions: Sequence[Question]) -> Answers:
        """Replies to all questions, in any order, each with what :meth:`_keep` says of it.

        A reply is kept as soon as it is there, before anything else is asked, so that a process that is killed loses
        none that it had.
        """

    def judge(self, videos: Sequence[Video]) -> Judgement:
        """Mean and deviation of the samples of each video.

        Raises:
            ReplyError: a sample gave no scores, however often it was drawn, or is not answered; the other videos'
                replies are in the cache, and no more is asked about this one.
            RoboAlignError: no reply could be had.
        """
        questions = [list(self._questions(place, video)) for place, video in enumerate(videos)]
        replies = self._replies([question for each in questions for question in each])
        texts = tuple(tuple(replies[question.key] for question in each) for each in questions)
        raw = np.zeros((len(videos), self.sampling.samples, len(KEYS)))
        for place, sample in np.ndindex(raw.shape[:2]):
            scores = parse_reply(texts[place][sample]).scores
            raw[place, sample] = [scores[key] for key in KEYS]
        several = self.sampling.samples > 1
        std = raw.std(axis=1, ddof=1) if several else np.zeros((len(videos), len(KEYS)))
        return Judgement(Scores(raw.mean(axis=1).astype(np.float32)), std.astype(np.float32), texts)

    def describe(self) -> Mapping[str, Any]:
        """Weights or server, wording, what is shown, and how replies are drawn."""
        return {**self._depends(), "shown": asdict(self.shown), "samples": self.sampling.samples}

    def _depends(self) -> dict[str, Any]:
        """What one reply depends on, beside the video."""
        names = ("temperature", "max_tokens", "seed")
        return {**self.identity, "version": VERSION, **{name: getattr(self.sampling, name) for name in names}}

    def _questions(self, place: int, video: Video) -> Iterator[Question]:
        depends = {**self._depends(), "prompt": build_prompt(video, self.shown).digest()}
        for sample in range(self.sampling.samples):
            key = cache_key(**depends, sample=sample)
            yield Question(video, self.shown, place, sample, 0, _seed(key, 0), key)

    def _replies(self, questions: Sequence[Question]) -> dict[str, str]:
        """A reply with scores to every question, by key; the same question about two videos is asked once.

        Raises:
            ReplyError: a question has none, and may not be asked again. All other videos' have theirs by then.
        """
        distinct: dict[str, Question] = {}
        for question in questions:
            distinct.setdefault(question.key, question)
        found = self._known(distinct.values())
        failed: dict[int, ReplyError] = {}
        missing = [question for key, question in distinct.items() if key not in found]
        open_ones = self._still_asked(self._resumed(missing), failed)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, disable=not self.progress or not open_ones) as progress:
            task = progress.add_task(self.name, total=len(distinct), completed=len(found))
            while open_ones:
                rejected = []
                with closing(self._ask(open_ones)) as answers:
                    for question, reply, error in answers:
                        if error:
                            rejected.append(redrawn(question))
                        else:
                            found[question.key] = reply
                            progress.advance(task)
                open_ones = self._still_asked(rejected, failed)
        if failed:
            raise failed[min(failed)]
        return found

    def _known(self, questions: Iterable[Question]) -> dict[str, str]:
        """What the cache has; what an earlier parser took for scores, and this one does not, is set aside."""
        found = {}
        for question in questions:
            reply = self._cache.get(question.key) if self._cache else None
            if reply is None:
                continue
            try:
                parse_reply(reply)
            except ReplyError as error:
                self._reject(question, reply, str(error))
            else:
                found[question.key] = reply
        self.counts["cached"] += len(found)
        return found

    def _resumed(self, questions: Sequence[Question]) -> list[Question]:
        """The questions, each at the attempt that the replies on disk leave to it."""
        rejected = self._cache.rejected() if self._cache else {}
        resumed = []
        for question in questions:
            attempts, path = rejected.get(question.key, (0, None))
            if path:
                self._why.setdefault(question.key, f"no scores in a run before; the reply is kept in {path}")
            resumed.append(redrawn(question, attempts))
        return resumed

    def _still_asked(self, questions: Sequence[Question], failed: dict[int, ReplyError]) -> list[Question]:
        """Those of videos of which no sample is given up; why one is, goes to ``failed``, by place of the video."""
        for question in questions:
            if self._given_up(question):
                failed.setdefault(question.place, self._failure(question))
        return [question for question in questions if question.place not in failed]

    def _given_up(self, question: Question) -> bool:
        """Whether this is not to be asked: one attempt too many, or refused before."""
        return question.attempt > self.sampling.again or question.key in self._refused

    def _failure(self, question: Question) -> ReplyError:
        """Of a question that is given up."""
        where = f"judge {self.name}: video {question.place}, sample {question.sample}"
        if question.key not in self._refused:
            most = question.attempt - 1
            where += f", drawn {question.attempt} times (judge.sampling.again above {most} draws it again)"
        return ReplyError(f"{where}: {self._why[question.key]}")

    @property
    def _rejects(self) -> ReplyCache:
        """Where replies without scores go."""
        with self._lock:
            self._rejected = self._rejected or self._cache or ReplyCache(tempfile.mkdtemp(prefix="roboalign-judge-"))
            return self._rejected

    def _keep(self, question: Question, reply: str) -> ReplyError | None:
        """Keep a reply; where it gives no scores, say what is wrong with it, and where it is. Threads may call it."""
        self._count("asked")
        try:
            scores = parse_reply(reply).scores
        except ReplyError as error:
            return self._reject(question, reply, str(error))
        if self._cache:
            facts = {"judge": self.name, "instruction": question.video.instruction, "scores": dict(scores)}
            self._cache.put(question.key, reply, facts)
        return None

    def _reject(self, question: Question, reply: str, what: str) -> ReplyError:
        """Keep what gives no scores; ``what`` says why."""
        self._count("rejected")
        path = self._rejects.reject(question.key, question.attempt, reply)
        self._why[question.key] = f"{what}; the reply is kept in {path}"
        return ReplyError(self._why[question.key])

    def _refuse(self, question: Question, answer: str, what: str) -> ReplyError:
        """Keep what was answered instead of a reply to a question that is not to be asked again by this process."""
        self._count("rejected")
        path = self._rejects.refuse(question.key, answer)
        self._why[question.key] = f"{what}; the answer is kept in {path}"
        self._refused.add(question.key)
        return ReplyError(self._why[question.key])

    def _count(self, name: str) -> None:
        with self._lock:
            self.counts[name] += 1


def redrawn(question: Question, times: int = 1) -> Question:
    """The question so many attempts later."""
    attempt = question.attempt + times
    return replace(question, attempt=attempt, seed=_seed(question.key, attempt))


def _seed(key: str, attempt: int) -> int:
    """31 bits, another draw for every question and attempt."""
    return int(cache_key(key=key, attempt=attempt)[:8], 16) >> 1
