from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec

MakeEpisode = Callable[..., Episode]


def _scene(rng: np.random.Generator, length: int, height: int, width: int) -> np.ndarray:
    """A lit table with two blocks; one moves. Sharp edges and a little sensor noise, as in camera images."""
    y, x = np.mgrid[:height, :width]
    table = np.stack([90 + 80 * y / height, 110 + 40 * x / width, np.full((height, width), 120.0)], axis=-1)
    frames = np.repeat(table[None], length, axis=0)
    start, step = rng.integers(0, width // 2), rng.uniform(0.3, 1.0)
    frames[:, height // 2 : height // 2 + 6, 4:12] = rng.integers(0, 255, 3)
    colour = rng.integers(0, 255, 3)
    for t in range(length):
        left = int(start + step * t) % (width - 8)
        frames[t, height // 4 : height // 4 + 8, left : left + 8] = colour
    return (frames + rng.normal(0, 1.5, frames.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_episode() -> MakeEpisode:
    def make(seed: int = 0, length: int = 12, size: tuple[int, int] = (64, 64), **changes: object) -> Episode:
        rng = np.random.default_rng(seed)
        fields = {
            "frames": _scene(rng, length, *size),
            "actions": rng.normal(size=(length, 3)).astype(np.float32),
            "instruction": f"push block {seed % 3}",
            "success": (True, False, None)[seed % 3],
            "fps": 10.0,
            "source": "test",
            "camera": "front",
            "extras": {
                "observation.state": rng.normal(size=(length, 2)).astype(np.float32),
                "progress": np.linspace(0, 1, length, dtype=np.float32)[:, None],
            },
        }
        return Episode(**{**fields, **changes})

    return make


@pytest.fixture
def spec(make_episode: MakeEpisode) -> StoreSpec:
    return StoreSpec.like(make_episode(), action_names=("x", "y", "grip"))


@pytest.fixture
def store(tmp_path: Path, spec: StoreSpec, make_episode: MakeEpisode) -> EpisodeStore:
    """Five episodes of 8, 12, 16, 20 and 24 frames in two groups."""
    store = EpisodeStore.create(tmp_path / "store", spec)
    episodes = [make_episode(seed, length=8 + 4 * seed) for seed in range(5)]
    store.append(episodes[:3])
    store.append(episodes[3:])
    return store


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """Real episodes of public data sets; see ROBOALIGN_SAMPLE_DATA."""
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(os.environ.get("ROBOALIGN_SAMPLE_DATA", default))
    if not (path / "bridge").is_dir() or not (path / "droid").is_dir():
        pytest.skip(f"real sample episodes: expected bridge and droid below {path} (set ROBOALIGN_SAMPLE_DATA)")
    return path


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """The worst frame's PSNR in dB."""
    errors = ((found.astype(np.float64) - expected) ** 2).mean(axis=(1, 2, 3))
    return float(10 * np.log10(255.0**2 / max(errors.max(), 1e-9)))


@pytest.fixture(scope="session", name="psnr")
def psnr_fixture() -> Callable[[np.ndarray, np.ndarray], float]:
    return psnr
