"""The page over HTTP: routes, and what every request is checked for."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from roboalign_core.benchmark.review.session import RequestError, Session
from roboalign_core.errors import RoboAlignError, require

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from uvicorn import Server

LIMIT = 4096  # bytes of a request's body
PAGE = Path(__file__).resolve().parents[2] / "assets" / "review"
FILES = {
    "/": ("index.html", "text/html"),
    "/review.css": ("review.css", "text/css"),
    "/review.js": ("review.js", "text/javascript"),
}

# The page may load its own files and nothing else; it is never shown inside another page, and never kept.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src blob: data:; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_LOG = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server there."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def listen(host: str, port: int) -> socket.socket:
    """A socket that waits for connections.

    Args:
        host: name or address of this machine.
        port: 0 for any free one.

    Raises:
        RoboAlignError: it cannot be had.
    """
    if not 0 <= port <= 65535:  # the system would take the rest of a division
        raise RoboAlignError(f"port: expected 0 to 65535, found {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen()
        except BaseException:
            found.close()
            raise
    except (OSError, UnicodeError) as error:
        raise RoboAlignError(f"host={host} port={port}: expected an address to listen at, found: {error}") from error
    return found


def make_server(session: Session, host: str) -> Server:
    """The server; its ``run([socket])`` answers until interrupted."""
    uvicorn = require("uvicorn", "review")
    config = uvicorn.Config(
        make_app(session, host),
        lifespan="off",
        ws="none",
        http="h11",
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    server: Server = uvicorn.Server(config)
    return server


def make_app(session: Session, host: str) -> Starlette:
    """The application.

    Args:
        session: that answers.
        host: where it listens; requests that name another one are refused.
    """
    require("starlette", "review")
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Route

    def file(request: Request) -> Response:
        name, kind = FILES[request.url.path]
        return FileResponse(PAGE / name, media_type=kind)

    def overview(request: Request) -> Response:
        return JSONResponse(session.overview())

    def pair(request: Request) -> Response:
        return JSONResponse(session.pair(request.path_params["name"]))

    def video(request: Request) -> Response:
        return Response(session.video(request.path_params["name"]), media_type="video/mp4")

    def first_frame(request: Request) -> Response:
        return Response(session.first_frame(request.path_params["name"]), media_type="image/png")

    async def judgement(request: Request) -> Response:
        body = await _body(request.headers, request.stream())
        return JSONResponse(await run_in_threadpool(session.judge, request.path_params["name"], body))

    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        refused = refusal(request.headers, host)
        response = JSONResponse({"error": refused}, 421) if refused else await answer(request)
        response.headers.update(HEADERS)
        return response

    def problem(request: Request, error: Exception) -> Response:
        if isinstance(error, RequestError):
            return JSONResponse({"error": str(error)}, error.status)
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        _LOG.error("%s", error)  # names the video, so the page must not have it
        return JSONResponse({"error": "this video could not be read; the terminal says why"}, 500)

    routes = [
        *(Route(path, file) for path in FILES),
        Route("/api/review", overview),
        Route("/api/pairs/{name}", pair),
        Route("/api/pairs/{name}/video", video),
        Route("/api/pairs/{name}/first_frame", first_frame),
        Route("/api/pairs/{name}/judgement", judgement, methods=["POST"]),
    ]
    handlers: Mapping[Any, Any] = {HTTPException: problem, RoboAlignError: problem}
    return Starlette(routes=routes, middleware=[Middleware(BaseHTTPMiddleware, guard)], exception_handlers=handlers)


def refusal(headers: Mapping[str, str], host: str) -> str:
    """Why a request is not answered at all; empty where it is.

    A page from elsewhere that has its name resolve to this machine (DNS rebinding) names itself as host. The port is
    not compared: a tunnel has another one.
    """
    named = headers.get("host", "")
    if not _is_ours(_without_port(named), host):
        return f"host: expected this server's own address, found {named[:80]!r}"
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{named}":
        return f"origin: expected http://{named}, found {origin[:80]!r}"
    return ""


def _is_ours(named: str, host: str) -> bool:
    address = _address(named)
    if is_loopback(host):
        return named == "localhost" or (address is not None and address.is_loopback)
    return address is not None or named in ("localhost", host.lower(), socket.gethostname().lower())


def _without_port(named: str) -> str:
    """``[::1]:80`` is ``::1``, ``localhost:80`` is ``localhost``."""
    if named.startswith("["):
        return named[1:].split("]")[0]
    return named.rsplit(":", 1)[0].lower() if ":" in named else named.lower()


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


async def _body(headers: Mapping[str, str], chunks: AsyncIterator[bytes]) -> bytes:
    kind = headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":  # which a page from elsewhere cannot send without asking first
        raise RequestError(415, f"judgement: expected content of type application/json, found {kind[:80]!r}")
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) > LIMIT:
            raise RequestError(413, f"judgement: expected at most {LIMIT} bytes, found more")
    return body
