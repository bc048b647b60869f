"""A small benchmark, written by hand; and a robot that pushes a block, drawn by hand."""

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
from roboalign_core.benchmark.degradations import DEGRADATIONS
from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec
from roboalign_core.episodes.boxes import BOXES, boxes_of

MakePair = Callable[..., Pair]
Serve = Callable[..., AbstractContextManager[str]]
MakeEpisode = Callable[..., Episode]
RED, YELLOW, BLUE, GREEN = (200, 40, 30), (240, 210, 20), (30, 60, 210), (40, 160, 60)


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


def _push(seed: int = 0, length: int = 24, size: int = 64, **changes: object) -> Episode:
    """A yellow tip comes from the side, pushes a red block across a table, and goes back; all else is at rest."""
    rng = np.random.default_rng(seed)
    unit = size / 64
    y, x = (np.mgrid[:size, :size] + 0.5) / unit
    right = 1 if seed % 2 else -1  # where the block goes
    centre, row, start = rng.uniform(29, 35), rng.uniform(24, 42), rng.uniform(24, 28)
    meets, leaves = int(0.35 * length), int(0.75 * length)
    times = np.arange(length)
    tip = np.interp(times, [0, meets, leaves, length - 1], [-start, -8, 6, -6]) * right + centre
    block = centre + right * np.clip(tip * right + 8 - centre * right, 0, None)
    block = np.maximum.accumulate(block * right) * right
    frames, boxes = [], []
    for t in times:
        image = np.stack([110 + 0.5 * x, 115 + 0.4 * y, 120 + 0 * x], -1)
        masks = {
            "tip": ((x - tip[t]) ** 2 + (y - row) ** 2 < 9) | ((abs(x - tip[t]) < 1) & (abs(y - row + 5) < 5)),
            "block": (abs(x - block[t]) < 5) & (abs(y - row) < 5),
            "rest": (abs(x - 8) < 4) & (abs(y - 9) < 4),
            "zone": (x - 50) ** 2 + (y - 54) ** 2 < 30,
        }
        for name, colour in (("zone", GREEN), ("rest", BLUE), ("block", RED), ("tip", YELLOW)):
            image[masks[name]] = colour
        image[masks["block"] & ~masks["tip"] & (y > row + 3)] = np.array(RED) * 0.7
        masks["block"] &= ~masks["tip"]
        frames.append(image + rng.normal(0, 1.5, image.shape))
        boxes.append(boxes_of(list(masks.values())))
    fields = {
        "frames": np.stack(frames).clip(0, 255).astype(np.uint8),
        "actions": np.append(np.diff(tip), 0).astype(np.float32)[:, None],
        "instruction": "push the red block",
        "success": True,
        "fps": 10.0,
        "source": "push",
        "camera": "front",
        "extras": {
            BOXES: np.stack(boxes),
            "observation.state": np.stack([times, block], 1).astype(np.float32),
            "progress": np.linspace(0, 1, length, dtype=np.float32)[:, None],
        },
    }
    return Episode(**{**fields, **changes})  # type: ignore[arg-type]


class ToyPool:
    """Other pushes, and other words."""

    words = ("push the blue block", "lift the red block", "open a drawer", "wipe", "push the red cup", "close it")

    def donor(self, episode: Episode, rng: np.random.Generator) -> Episode:
        return _push(seed=100 + int(rng.integers(50)), length=24, size=episode.frames.shape[1])

    def instruction(self, episode: Episode, rng: np.random.Generator) -> str:
        return self.words[int(rng.integers(len(self.words)))]


@pytest.fixture(scope="session")
def push() -> MakeEpisode:
    return _push


@pytest.fixture(scope="session")
def pool() -> ToyPool:
    return ToyPool()


@pytest.fixture(scope="session")
def curve(push: MakeEpisode, pool: ToyPool) -> Callable[..., np.ndarray]:
    """(5,) the mean of a figure over episodes and seeds, at strengths 0, 0.25, 0.5, 0.75 and 1."""
    episodes = [push(seed) for seed in range(4)]

    def measured(name: str, figure: Callable[[Episode, Episode], float]) -> np.ndarray:
        """``figure`` gets the degraded and the recorded episode."""
        return np.array(
            [
                np.mean(
                    [
                        figure(DEGRADATIONS[name].apply(episode, strength, np.random.default_rng(seed), pool), episode)
                        for episode in episodes
                        for seed in range(2)
                    ]
                )
                for strength in (0.0, 0.25, 0.5, 0.75, 1.0)
            ]
        )

    return measured
