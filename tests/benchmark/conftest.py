"""A small benchmark, written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from roboalign_core.benchmark import Applied, Origin, Pair, Split
from roboalign_core.benchmark.benchmark import finish
from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec

MakePair = Callable[..., Pair]
Serve = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session")
def make_pair() -> MakePair:
    def make(number: int, **changes: object) -> Pair:
        settled = Pair(
            number=number,
            split=Split.TRAIN,
            instruction="push the cube",
            store="toy",
            episode=number,
            source="toy",
            parent=f"toy:{number}",
            origin=Origin.DEGRADED,
            degradations=(Applied("freeze", 0.5, 7),),
            scores=(2.0, 1.0, 1.0, 0.0, 1.0, 2.0),
            labeller="rule",
        )
        return replace(settled, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def folder(tmp_path: Path, make_pair: MakePair) -> Path:
    """Three pairs of noise."""
    rng = np.random.default_rng(0)
    episodes = [
        Episode(
            frames=rng.integers(256, size=(4, 16, 16, 3), dtype=np.uint8),
            actions=np.zeros((4, 2), np.float32),
            instruction="push the cube",
            success=True,
            fps=5.0,
            source="toy",
            camera="front",
        )
        for _ in range(3)
    ]
    root = tmp_path / "benchmark"
    EpisodeStore.create(root / "stores" / "toy", StoreSpec.like(episodes[0], lossless=True)).append(episodes)
    finish(root, [make_pair(0), make_pair(1), make_pair(2, split=Split.TEST)], {"seed": 3})
    return root


@pytest.fixture
def review_folder(tmp_path: Path, make_pair: MakePair) -> Path:
    """Four pairs to review, one second each, of a box that moves to the right; names in it must not reach the page."""
    root, source, store = tmp_path / "secret_folder", "secret_source", "secret_store"
    episodes, pairs = [], []
    for number, instruction in enumerate(["push the red cube left", "lift <b>the</b> cube & hold", "", "open it"]):
        frames = np.full((8, 48, 64, 3), 40 + 30 * number, np.uint8)
        for t in range(8):
            frames[t, 16:32, 4 + 5 * t : 20 + 5 * t] = (220, 60, 40)
        episodes.append(Episode(frames, np.zeros((8, 2), np.float32), instruction, True, 8.0, source, "secret_camera"))
        changes = {} if number % 2 else {"origin": Origin.RECORDED, "degradations": ()}
        names = {"source": source, "parent": f"secret_parent:{number}", "labeller": "oracle" if number else "rule"}
        pairs.append(make_pair(number, instruction=instruction, store=store, split=Split.TEST, **names, **changes))
    EpisodeStore.create(root / "stores" / store, StoreSpec.like(episodes[0], lossless=True)).append(episodes)
    finish(root, pairs, {})
    return root


@pytest.fixture
def serve_review() -> Serve:
    """A review's server in a thread of this process; gives its address."""
    uvicorn = pytest.importorskip("uvicorn", reason='uvicorn is not installed: pip install "roboalign[review]"')
    pytest.importorskip("starlette", reason='starlette is not installed: pip install "roboalign[review]"')
    from roboalign_core.benchmark import Benchmark
    from roboalign_core.benchmark.review.log import ReviewLog
    from roboalign_core.benchmark.review.queue import chosen
    from roboalign_core.benchmark.review.server import listen, make_server
    from roboalign_core.benchmark.review.session import Session

    assert uvicorn

    @contextmanager
    def serve(folder: Path, rater: str = "anna", port: int = 0) -> Iterator[str]:
        benchmark = Benchmark.open(folder)
        log = ReviewLog.open(benchmark, rater)
        server = make_server(Session(benchmark, log, chosen(benchmark), rater, 0), "127.0.0.1")
        with listen("127.0.0.1", port) as listening:
            thread = Thread(target=server.run, args=([listening],))
            thread.start()
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
            finally:
                server.should_exit = True
                thread.join()
                log.close()

    return serve
