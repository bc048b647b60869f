"""Requests that end in time, whatever the server does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any


class Line:
    """One thread's way to a server: a connection at a time, which is cut where a request takes too long.

    The HTTP library's own time-outs are of one read or write: a server that sends a byte now and then is never late.

    Args:
        client: of ``httpx2``, nobody else's.

    Attributes:
        late: whether the newest request was cut.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._request = 0  # which one may be cut
        self.late = False

    @contextmanager
    def post(self, url: str, body: Mapping[str, Any], seconds: float) -> Iterator[Any]:
        """The response, while it may still be read.

        Args:
            url: where to.
            body: JSON can hold it.
            seconds: after which the connection is cut, be it in the middle of head or body; what is under way then
                fails with an error of the library, or ends too early. Looking up the server's name is not cut.
        """
        with self._lock:
            self._request, self.late = self._request + 1, False
        timer = threading.Timer(seconds, self._cut, (self._request,))
        timer.daemon = True
        timer.start()
        try:
            with self._client.stream("POST", url, json=dict(body), extensions={"trace": self._trace}) as response:
                yield response
        finally:
            timer.cancel()
            with self._lock:
                self._request += 1  # a timer that is late itself cuts nothing

    def close(self) -> None:
        """End the request under way, and close the connection."""
        with self._lock:
            self._hang_up()
        self._client.close()

    def _cut(self, request: int) -> None:
        with self._lock:
            if request == self._request:
                self.late = True
                self._hang_up()

    def _trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Notes the socket that was opened, or wrapped in TLS."""
        stream: Any = info.get("return_value")
        if hasattr(stream, "get_extra_info"):
            with self._lock:
                self._socket = stream.get_extra_info("socket")
                if self.late:
                    self._hang_up()

    def _hang_up(self) -> None:
        """Whoever waits for the socket is told that nothing more comes."""
        if self._socket is not None:
            with suppress(OSError):  # closed already
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TLS has one that drops its own state
