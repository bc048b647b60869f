"""A judge behind any OpenAI-compatible server: vLLM, ``transformers serve``, llama.cpp, or a hosted one."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.budget import Budget, BudgetConfig
from roboalign_core.judge.chat import Answers, ChatJudge, Question, SamplingConfig, redrawn
from roboalign_core.judge.frames import FORMATS, data_url
from roboalign_core.judge.http import ChatClient, NoReplyError, StoppedError
from roboalign_core.judge.parser import ReplyError
from roboalign_core.judge.prompt import Prompt, PromptConfig
from roboalign_core.judge.retry import RetryConfig


@dataclass
class ServerConfig:
    """Which server, and how it is asked.

    Attributes:
        model: the model's name there.
        url: of the server's API, up to and with ``/v1``.
        key_variable: environment variable that holds the API key; where it is not set, no key is sent.
        images: ``png``, or ``jpeg`` for smaller requests.
        concurrency: requests under way at once.
        timeout_s: for one whole request.
        extra: further fields of the request, e.g. ``top_p``; null leaves one of ours out.
        cache: folder of replies; empty: none.
        progress: show a progress bar.
        sampling, shown, retry, budget: see their classes.
    """

    model: str = ""
    url: str = "http://localhost:8000/v1"
    key_variable: str = "ROBOALIGN_JUDGE_KEY"
    images: str = "png"
    concurrency: int = 4
    timeout_s: float = 300.0
    extra: dict[str, Any] = field(default_factory=dict)
    cache: str = ""
    progress: bool = True
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    shown: PromptConfig = field(default_factory=PromptConfig)
    retry: RetryConfig = field(default_factory=RetryConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise RoboAlignError("judge.url: expected http(s)://HOST[:PORT]/v1 without a password, found another form")
        if self.images not in FORMATS:
            raise RoboAlignError(f"judge.images: expected one of {', '.join(FORMATS)}, found {self.images!r}")
        if self.concurrency < 1:
            raise RoboAlignError(f"judge.concurrency: expected at least 1, found {self.concurrency}")
        if not 0 < self.timeout_s < math.inf:
            raise RoboAlignError(f"judge.timeout_s: expected more than 0 seconds, found {self.timeout_s}")
        clash = {"model", "messages", "stream", "n"} & self.extra.keys()
        if clash:
            raise RoboAlignError(f"judge.extra: expected none of what the judge itself says, found {sorted(clash)}")


class ServerJudge(ChatJudge):
    """Asks a server, one request for each sample, several at a time.

    Frames travel as images in the request (``data:`` URLs), so that the server needs no access to files.

    Attributes:
        budget: requests and tokens spent by this judge.
    """

    def __init__(self, config: ServerConfig) -> None:
        """Sends nothing yet.

        Raises:
            RoboAlignError: the configuration names no model, or the HTTP library is not installed.
        """
        if not config.model:
            raise RoboAlignError("judge: model: expected the model's name on the server, found nothing")
        identity = {"model": config.model, "images": config.images, "extra": config.extra}
        super().__init__(config.model, identity, config.sampling, config.shown, config.cache, config.progress)
        self.config, self.budget = config, Budget(config.budget, config.cache)

    def _ask(self, questions: Sequence[Question]) -> Answers:
        """Where a request fails for good, those under way are still waited for: they are paid for.

        Where a sample is given up, those of the same video that are not under way are not asked for.
        """
        stop = threading.Event()
        client = self._client(stop)
        pool = ThreadPoolExecutor(self.config.concurrency, thread_name_prefix="judge")
        failure: RoboAlignError | None = None
        given_up: set[int] = set()  # places of videos

        def answer(question: Question) -> tuple[str, ReplyError | None]:
            if question.place in given_up:
                raise StoppedError
            reply, error = self._answer(client, stop, question)
            if error and self._given_up(redrawn(question)):
                given_up.add(question.place)
            return reply, error

        try:
            under_way = {pool.submit(answer, question): question for question in questions}
            for future in as_completed(under_way):
                try:
                    reply, error = future.result()
                except StoppedError:
                    continue
                except RoboAlignError as fault:
                    failure = failure or fault
                    continue
                yield under_way[future], reply, error
        finally:
            stop.set()
            client.close()
            pool.shutdown(wait=True, cancel_futures=True)
        if failure:
            raise failure

    def _client(self, stop: threading.Event) -> ChatClient:
        config = self.config
        key = os.environ.get(config.key_variable, "").strip() if config.key_variable else ""
        if not (key.isascii() and key.isprintable()):
            raise RoboAlignError(f"{config.key_variable}: expected an API key in one line of ASCII, found another text")
        return ChatClient(config.url, key, config.timeout_s, config.retry, self.budget, stop)

    def _answer(self, client: ChatClient, stop: threading.Event, question: Question) -> tuple[str, ReplyError | None]:
        if stop.is_set():
            raise StoppedError
        try:
            return self._paid(client, question)
        except BaseException:  # a reply that cannot be kept, too
            stop.set()  # here, before this thread takes the next question
            raise

    def _paid(self, client: ChatClient, question: Question) -> tuple[str, ReplyError | None]:
        """What is answered, which is kept before it is counted."""
        tokens: int | None
        error: ReplyError | None
        try:
            reply, tokens = client.ask(self._body(question))
            error = self._keep(question, reply)
        except NoReplyError as nothing:
            reply, tokens = nothing.answer, nothing.tokens
            self._count("asked")
            keep = self._refuse if tokens is None else self._reject
            error = keep(question, reply, str(nothing))
        if tokens is not None:  # a refusal is not paid for
            self.budget.used(tokens)
        return reply, error

    def _body(self, question: Question) -> dict[str, Any]:
        sampling = self.config.sampling
        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": self._content(question.prompt())}],
            "temperature": sampling.temperature,
            "max_tokens": sampling.max_tokens,
            "seed": question.seed,
            **self.config.extra,
        }
        return {name: value for name, value in body.items() if value is not None}

    def _content(self, prompt: Prompt) -> list[Mapping[str, Any]]:
        return [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image_url", "image_url": {"url": data_url(part, self.config.images)}}
            for part in prompt.parts
        ]
