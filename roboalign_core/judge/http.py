"""One question to an OpenAI-compatible server, asked again where that may help."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from typing import Any

from roboalign_core.errors import RoboAlignError, require
from roboalign_core.judge.budget import Budget
from roboalign_core.judge.retry import RetryConfig, retry_after, worth_retrying

LARGEST = 16 << 20  # bytes of a reply
_JSON = "application/json"


class StoppedError(RoboAlignError):
    """Not asked, or not again, because another request failed for good."""


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
            timeout_s: for one whole request, connecting and the last byte of the reply included.
            retry: how often, and after what wait.
            budget: is asked before every request.
            stop: once it is set, no further request is sent, and waits end.
        """
        self._httpx = require("httpx2", "judge")
        self.url = f"{url.rstrip('/')}/chat/completions"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = self._httpx.Limits(max_connections=None)
        self._client = self._httpx.Client(timeout=timeout_s, headers=headers, limits=limits)
        self.timeout_s, self.retry, self.budget, self._stop = timeout_s, retry, budget, stop
        self._jitter = random.Random()

    def close(self) -> None:
        """Close all connections; requests under way end in an error."""
        self._client.close()

    def ask(self, body: Mapping[str, Any]) -> str:
        """The text of the reply, a thought that came apart from it in front as ``<think>``.

        Raises:
            RoboAlignError: the server refuses, does not answer after all retries, answers with something else than a
                chat completion, or asks for a longer wait than allowed.
            BudgetError: no more requests may be sent.
        """
        for failures in range(1, self.retry.attempts + 1):
            self.budget.request(self._stop.wait)
            if self._stop.is_set():
                raise StoppedError
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
                self._stop.wait(self.retry.wait(failures, trouble.wait, self._jitter))
        raise AssertionError("unreachable")

    def _once(self, body: Mapping[str, Any]) -> str:
        until = time.monotonic() + self.timeout_s
        try:
            with self._client.stream("POST", self.url, json=dict(body)) as response:
                content = self._read(response, until)
        except self._httpx.TimeoutException as error:
            raise _TroubleError(f"no answer within {self.timeout_s:g} s ({type(error).__name__})") from error
        except self._httpx.TransportError as error:
            raise _TroubleError(f"{type(error).__name__}: {error}") from error
        except (self._httpx.DecodingError, self._httpx.InvalidURL) as error:
            raise RoboAlignError(f"{self.url}: {type(error).__name__}: {error}") from error
        status = response.status_code
        if worth_retrying(status):
            raise _TroubleError(f"HTTP {status}: {_excerpt(content)}", retry_after(response.headers.get("Retry-After")))
        if status != 200:
            raise RoboAlignError(f"{self.url}: expected HTTP 200, found {status}: {_excerpt(content)}")
        kind = response.headers.get("Content-Type", "nothing").split(";")[0].strip().lower()
        if kind != _JSON:
            raise RoboAlignError(f"{self.url}: expected a reply of type {_JSON}, found {kind}: {_excerpt(content)}")
        return self._text(content)

    def _read(self, response: Any, until: float) -> bytes:
        """The whole body, in time: a server that sends a byte now and then does not hold us."""
        content = b""
        for chunk in response.iter_bytes():
            content += chunk
            if time.monotonic() > until:
                raise _TroubleError(f"no whole answer within {self.timeout_s:g} s")
            if len(content) > LARGEST:
                raise RoboAlignError(f"{self.url}: expected a reply of at most {LARGEST} bytes, found more")
        return content

    def _text(self, content: bytes) -> str:
        try:
            reply = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _TroubleError(f"broken JSON: {_excerpt(content)}") from error
        if not isinstance(reply, dict):
            raise RoboAlignError(f"{self.url}: expected a chat completion, found: {_excerpt(content)}")
        self._count(reply.get("usage"))
        problem = reply.get("error")
        if problem:  # some gateways report an error of the server behind them like this
            code = problem.get("code") if isinstance(problem, dict) else None
            if isinstance(code, int) and worth_retrying(code):
                raise _TroubleError(f"error {code}: {_excerpt(content)}")
            raise RoboAlignError(f"{self.url}: expected a chat completion, found an error: {_excerpt(content)}")
        text = _message(reply)
        if text is None:
            raise RoboAlignError(f"{self.url}: expected a chat completion with a text, found: {_excerpt(content)}")
        return text

    def _count(self, usage: Any) -> None:
        total = usage.get("total_tokens") if isinstance(usage, dict) else None
        if isinstance(total, int) and total > 0:
            self.budget.used(total)


def _message(reply: Mapping[str, Any]) -> str | None:
    """The text of the first choice, or None."""
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return None
    message = choices[0].get("message")
    if not isinstance(message, dict):
        return None
    content = message.get("content")
    if isinstance(content, list):  # the same text in parts
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    thought = next((message[key] for key in ("reasoning_content", "reasoning") if message.get(key)), None)
    if isinstance(thought, str):  # servers that look for its end in vain take the whole reply for a thought
        closed = isinstance(content, str) and content.strip()
        return f"<think>{thought}</think>\n{content}" if closed else f"<think>{thought}"
    if not isinstance(content, str):
        return None
    if choices[0].get("finish_reason") == "length" and "</think>" not in content:
        return f"<think>{content}"  # cut off: what was said so far may all be thought
    return content


def _excerpt(content: bytes) -> str:
    text = " ".join(content.decode("utf-8", "replace").split())
    return repr(text if len(text) <= 300 else text[:300] + " ...")
