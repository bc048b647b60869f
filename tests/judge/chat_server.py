"""A small OpenAI-compatible server for tests, which misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What is sent back.

    Attributes:
        body: bytes, or something that becomes JSON.
        promised: value of Content-Length; more than the body has, where the connection breaks off.
        pause, trickle: seconds before the head, and before every byte of the body.
        slow_head: seconds before each of 100 further headers.
    """

    body: Any
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    promised: int | None = None
    pause: float = 0.0
    trickle: float = 0.0
    slow_head: float = 0.0


def completion(text: str | None, finish: str = "stop", tokens: int = 10, **message: Any) -> Answer:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    return Answer({"object": "chat.completion", "choices": [choice], "usage": {"total_tokens": tokens}})


class ChatServer:
    """Attributes:
    url: of the API.
    requests: path, headers and decoded body of each, and when it came.
    answers: sent one after the other, then ``answer`` for ever.
    answer: from the decoded body of a request.
    most_at_once: requests that were under way together.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Answer]) -> None:
        self.answer, self.answers, self.requests = answer, list[Answer](), list[dict[str, Any]]()
        self.lock, self.now, self.most_at_once = threading.Lock(), 0, 0
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    entry = {"path": self.path, "headers": dict(self.headers), "body": body, "time": time.monotonic()}
                    server.requests.append(entry)
                    scripted = server.answers.pop(0) if server.answers else None
                    server.now += 1
                    server.most_at_once = max(server.most_at_once, server.now)
                try:
                    self._send(scripted or server.answer(body))
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True  # the client gave up
                finally:
                    with server.lock:
                        server.now -= 1

            def _send(self, answer: Answer) -> None:
                content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                time.sleep(answer.pause)
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.kind)
                self.send_header("Content-Length", str(answer.promised or len(content)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                for number in range(100 if answer.slow_head else 0):
                    self.send_header(f"X-{number}", "wait")
                    self.flush_headers()
                    time.sleep(answer.slow_head)
                self.end_headers()
                for byte in content if answer.trickle else []:
                    time.sleep(answer.trickle)
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                if not answer.trickle:
                    self.wfile.write(content)
                if answer.promised:
                    self.close_connection = True

            def log_message(self, *arguments: Any) -> None:
                pass

        return Handler


@contextmanager
def serve(answer: Callable[[dict[str, Any]], Answer]) -> Iterator[ChatServer]:
    server = ChatServer(answer)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
