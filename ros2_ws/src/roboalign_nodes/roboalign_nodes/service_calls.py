"""Calling a service from a thread that is not the executor's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.client import Client

from roboalign_core.errors import RoboAlignError

_SLICE = 0.1  # seconds between two looks at whether the wait has become pointless


def call(client: Client, request: Any, timeout: float, give_up: Callable[[], str | None] = lambda: None) -> Any:
    """Send a request and wait for the response, while another thread spins.

    Args:
        client: its node must be spinning in another thread, or in another callback group of a multi-threaded executor.
        request: the service's request.
        timeout: seconds.
        give_up: asked while waiting; a text that it returns ends the wait with that error.

    Raises:
        RoboAlignError: the service is not there, does not answer in time, or ``give_up`` has a reason.
    """
    deadline = time.monotonic() + timeout

    def check(what: str) -> None:
        reason = give_up()
        if reason:
            raise RoboAlignError(f"service {client.srv_name}: {reason}")
        if time.monotonic() >= deadline:
            raise RoboAlignError(f"service {client.srv_name}: expected {what} within {timeout:g} s, found none")

    while not client.wait_for_service(timeout_sec=_SLICE):
        check("a server")
    future = client.call_async(request)
    arrived = threading.Event()
    future.add_done_callback(lambda _: arrived.set())
    try:
        while not arrived.wait(_SLICE):
            check("an answer")
    finally:
        if not arrived.is_set():
            client.remove_pending_request(future)
    return future.result()
