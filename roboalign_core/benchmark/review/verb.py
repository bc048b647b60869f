"""``roboalign benchmark review``: a local page on which a person scores the pairs of a benchmark."""

from __future__ import annotations

import os
import webbrowser
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from roboalign_core.benchmark.benchmark import Benchmark
from roboalign_core.benchmark.review.log import ReviewLog
from roboalign_core.benchmark.review.queue import ALL, chosen
from roboalign_core.benchmark.review.server import is_loopback, listen, make_server
from roboalign_core.benchmark.review.session import Session
from roboalign_core.errors import require
from roboalign_core.verb import Verb


@dataclass
class ReviewConfig:
    """Settings; ``configs/benchmark_review.yaml`` explains each."""

    path: str = MISSING
    rater: str = MISSING
    split: str = ALL
    limit: int = 0
    seed: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    open_browser: bool = True


def run(config: ReviewConfig) -> Mapping[str, Any]:
    """Serve the page until interrupted; returns how far the rater has come."""
    require("starlette", "review")
    require("uvicorn", "review")
    benchmark = Benchmark.open(config.path)
    numbers = chosen(benchmark, config.split, config.limit, config.seed)
    log = ReviewLog.open(benchmark, config.rater)
    try:
        session = Session(benchmark, log, numbers, config.rater, config.seed)
        _serve(session, log, config)
    finally:
        log.close()
    left = len(session) - session.judged
    return {"judged": session.judged, "cannot_judge": session.skipped, "left": left, "reviews": str(log.path)}


def _serve(session: Session, log: ReviewLog, config: ReviewConfig) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, markup=False, highlight=False)
    server = make_server(session, config.host)
    with listen(config.host, config.port) as listening:
        with suppress(KeyboardInterrupt):  # the way in which a review ends; the server may swallow it
            if log.notice:
                console.print(log.notice)
            if not is_loopback(config.host):
                console.print(f"Whoever reaches {config.host} over the network can judge as {config.rater}.")
            url = _url(config.host, listening.getsockname()[1])
            console.print(f"{session.judged} of {len(session)} judged by {config.rater}. Open {url} (Ctrl-C ends)")
            if config.open_browser and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
                webbrowser.open(url)
            server.run([listening])
        console.print("Ended; the same command goes on where it stopped.")


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


VERB = Verb("benchmark review", "a page on which a person scores the pairs, blind", ReviewConfig, run, "path")
