"""One question to an OpenAI-compatible server, asked again where that may help."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from roboalign_core.errors import RoboAlignError, require
from roboalign_core.judge.budget import Budget
from roboalign_core.judge.line import Line
from roboalign_core.judge.parser import ReplyError
from roboalign_core.judge.retry import RetryConfig, retry_after, worth_retrying

LARGEST = 16 << 20  # bytes of a reply
_JSON = "application/json"
_REFUSALS = (400, 413, 422)  # of this question, others may be taken: too long, or against the rules of the house


class StoppedError(RoboAlignError):
    """Not asked, or not again, because another request failed for good."""


class NoReplyError(ReplyError):
    """The server answered, and that answer holds no reply.

    Attributes:
        answer: its body.
        tokens: that it took; None: the question itself is not taken, so that asking it again is no use.
    """

    def __init__(self, what: str, answer: bytes, tokens: int | None) -> None:
        super().__init__(what)
        self.answer, self.tokens = answer.decode("utf-8", "replace"), tokens


class _TroubleError(Exception):
    """A request failed in a way that another one may not; ``wait`` is what the server asked for, in seconds."""

    def __init__(self, what: str, wait: float | None = None) -> None:
        super().__init__(what)
        self.wait = wait


class ChatClient:
    """Posts to ``<url>/chat/completions``. Any number of threads may use it."""

    def __init__(
        self,
        url: str,
        key: str,
        timeout_s: float,
        retry: RetryConfig,
        budget: Budget,
        stop: threading.Event,
    ) -> None:
        """Opens nothing yet.

        Args:
            url: up to and with ``/v1``.
            key: sent as bearer token; empty: none is sent.
            timeout_s: for one whole request once there is a connection, the last byte of the reply included; and for
                connecting, to each address of the server's name.
            retry: how often, and after what wait.
            budget: is asked before every request.
            stop: once it is set, no further request is sent, and waits end.
        """
        self._httpx = require("httpx2", "judge")
        self.url = f"{url.rstrip('/')}/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._trusted = self._httpx.create_ssl_context()
        self.timeout_s, self.retry, self.budget, self._stop = timeout_s, retry, budget, stop
        self._jitter = random.Random()
        self._lock = threading.Lock()
        self._own, self._lines = threading.local(), list[Line]()
        self._closed = False
        self._not_before = -math.inf  # when the server wants to be asked again, by any thread

    def close(self) -> None:
        """Close all connections; requests under way end in an error."""
        with self._lock:
            self._closed, lines = True, list(self._lines)
        for line in lines:
            line.close()

    def ask(self, body: Mapping[str, Any]) -> tuple[str, int]:
        """The text of the reply, a thought that came apart from it in front as ``<think>``, and its tokens.

        Tokens are those of the prompt and the reply; 0: the server does not say. They are to be counted after the reply
        was kept.

        Raises:
            NoReplyError: the server refuses this question, or its completion is empty.
            RoboAlignError: the server refuses us, does not answer with a chat completion after all retries, or asks for
                a longer wait than allowed.
            BudgetError: no more requests may be sent.
            StoppedError: so is ``stop``.
        """
        for failures in range(1, self.retry.attempts + 1):
            self._wait(0.0)
            self.budget.request(self._wait)
            try:
                return self._once(body)
            except _TroubleError as trouble:
                if failures == self.retry.attempts:
                    raise RoboAlignError(
                        f"{self.url}: expected a reply, found after {failures} tries: {trouble}"
                    ) from None
                if trouble.wait is not None and trouble.wait > self.retry.longest_s:
                    raise RoboAlignError(
                        f"{self.url}: {trouble}: the server asks to wait for {trouble.wait:.0f} s, expected at most "
                        f"judge.retry.longest_s = {self.retry.longest_s:.0f} s"
                    ) from None
                if trouble.wait:
                    self._hold(trouble.wait)
                self._wait(self.retry.wait(failures, trouble.wait, self._jitter))
        raise AssertionError("unreachable")

    def _hold(self, seconds: float) -> None:
        """Nobody asks before so many seconds are over."""
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _wait(self, seconds: float) -> None:
        """So long at least, and until the server wants to be asked.

        Raises:
            StoppedError: no use in waiting.
        """
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := max(until, self._not_before) - time.monotonic()) > 0:
            self._stop.wait(left)
        if self._stop.is_set():
            raise StoppedError

    @property
    def _line(self) -> Line:
        """This thread's."""
        line: Line | None = getattr(self._own, "line", None)
        if line is None:
            client = self._httpx.Client(timeout=self.timeout_s, headers=self._headers, verify=self._trusted)
            line = self._own.line = Line(client)
            with self._lock:
                if self._closed:
                    raise StoppedError
                self._lines.append(line)
        return line

    def _once(self, body: Mapping[str, Any]) -> tuple[str, int]:
        line = self._line
        try:
            with line.post(self.url, body, self.timeout_s) as response:
                content = self._read(response)
        except (self._httpx.TransportError, self._httpx.DecodingError) as error:
            if line.late or isinstance(error, self._httpx.TimeoutException):
                raise _TroubleError(f"no whole answer within {self.timeout_s:g} s") from error
            raise _TroubleError(f"{type(error).__name__}: {error}") from error
        except self._httpx.InvalidURL as error:
            raise RoboAlignError(f"{self.url}: {type(error).__name__}: {error}") from error
        status = response.status_code
        if worth_retrying(status):
            raise _TroubleError(f"HTTP {status}: {_excerpt(content)}", retry_after(response.headers.get("Retry-After")))
        if status in _REFUSALS:
            raise self._no_reply(f"HTTP {status}", content, None)
        if status != 200:
            raise RoboAlignError(f"{self.url}: expected HTTP 200, found {status}: {_excerpt(content)}")
        kind = response.headers.get("Content-Type", "nothing").split(";")[0].strip().lower()
        if kind != _JSON:
            raise _TroubleError(f"no {_JSON} but {kind}: {_excerpt(content)}")
        return self._text(content)

    def _no_reply(self, what: str, content: bytes, tokens: int | None) -> NoReplyError:
        return NoReplyError(f"{self.url}: expected a reply, found {what}: {_excerpt(content)}", content, tokens)

    def _read(self, response: Any) -> bytes:
        content = b""
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > LARGEST:
                raise RoboAlignError(f"{self.url}: expected a reply of at most {LARGEST} bytes, found more")
        return content

    def _text(self, content: bytes) -> tuple[str, int]:
        try:
            reply = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _TroubleError(f"broken JSON: {_excerpt(content)}") from error
        if isinstance(reply, dict) and reply.get("error"):
            raise self._error_inside(reply["error"], content)
        choice, tokens = _first_choice(reply), _tokens(reply)
        if choice is None:
            raise _TroubleError(f"no chat completion: {_excerpt(content)}")
        text = _message(choice)
        if not text.strip():
            raise self._no_reply("a completion without a text", content, tokens)
        return text, tokens

    def _error_inside(self, problem: Any, content: bytes) -> Exception:
        """Some gateways report an error of the server behind them with status 200."""
        code = problem.get("code") if isinstance(problem, dict) else None
        if isinstance(code, int) and worth_retrying(code):
            return _TroubleError(f"error {code}: {_excerpt(content)}")
        if code in _REFUSALS:
            return self._no_reply(f"error {code}", content, None)
        return RoboAlignError(f"{self.url}: expected a chat completion, found an error: {_excerpt(content)}")


def _tokens(reply: Any) -> int:
    """In all, prompt included; 0 where the server does not say."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and total > 0 else 0


def _first_choice(reply: Any) -> Mapping[str, Any] | None:
    """Of a chat completion."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) and isinstance(choice.get("message"), dict) else None


def _message(choice: Mapping[str, Any]) -> str:
    """The text; empty where there is none."""
    message = choice["message"]
    content = message.get("content")
    if isinstance(content, list):  # the same text in parts
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    thought = next((message[key] for key in ("reasoning_content", "reasoning") if message.get(key)), None)
    if isinstance(thought, str):  # servers that look for its end in vain take the whole reply for a thought
        closed = isinstance(content, str) and content.strip()
        return f"<think>{thought}</think>\n{content}" if closed else f"<think>{thought}"
    if not isinstance(content, str) or not content.strip():
        return ""
    if choice.get("finish_reason") == "length" and "</think>" not in content:
        return f"<think>{content}"  # cut off: what was said so far may all be thought
    return content


def _excerpt(content: bytes) -> str:
    text = " ".join(content.decode("utf-8", "replace").split())
    return repr(text if len(text) <= 300 else text[:300] + " ...")
