"""LeRobot's own reader on our stores, and our reader on what LeRobot writes; see docs/data.md for what it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec
from roboalign_core.episodes.convert import VERB, ConvertConfig
from roboalign_core.episodes.readers import choose_reader
from roboalign_core.torchvision_ops import declare_missing_ops


@pytest.fixture(scope="module")
def dataset_class() -> Any:
    pytest.importorskip("lerobot", reason="needs lerobot, which wants other packages than we pin")
    declare_missing_ops()
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset


@pytest.fixture(params=["pyav", "torchcodec"])
def backend(request: pytest.FixtureRequest) -> str:
    """A decoder that LeRobot can use here."""
    if request.param == "pyav":
        io = pytest.importorskip("torchvision.io")
        if not hasattr(io, "VideoReader"):
            pytest.skip("LeRobot's pyav backend needs torchvision below 0.26")
    else:
        pytest.importorskip(
            "torchcodec.decoders", reason="needs torchcodec and FFmpeg", exc_type=(ImportError, RuntimeError)
        )
    return str(request.param)


def check(root: Path, dataset_class: Any, backend: str) -> int:
    """Compare all of a store; returns the number of frames."""
    store, key = EpisodeStore.open(root), EpisodeStore.open(root).spec.video_key
    theirs = dataset_class("local/store", root=root, video_backend=backend)
    assert (theirs.num_episodes, len(theirs), theirs.fps) == (len(store), store.frames, store.spec.fps)
    row = 0
    for index, episode in enumerate(store):
        for t in range(len(episode)):
            item = theirs[row]
            assert (item["episode_index"], item["frame_index"], item["task"]) == (index, t, episode.instruction)
            np.testing.assert_array_equal((item[key].permute(1, 2, 0) * 255).round().numpy(), episode.frames[t])
            for column in store.spec.columns:
                ours = episode.actions if column == "action" else episode.extras[column]
                np.testing.assert_array_equal(item[column].reshape(-1).numpy(), ours[t])
            row += 1
    return row


@pytest.mark.parametrize("lossless", [False, True])
def test_lerobot_reads_our_stores(
    dataset_class: Any, backend: str, make_episode: Callable[..., Episode], tmp_path: Path, lossless: bool
) -> None:
    """Several groups, a rate that is no whole number, columns of width 1."""
    made = [make_episode(seed, length=5 + seed, size=(48, 64), fps=7.5) for seed in range(4)]
    store = EpisodeStore.create(tmp_path / "store", StoreSpec.like(made[0], lossless=lossless))
    store.append(made[:3])
    store.append(made[3:])
    assert check(store.path, dataset_class, backend) == sum(map(len, made))


def test_lerobot_reads_converted_recordings(
    dataset_class: Any, backend: str, sample_data: Path, tmp_path: Path
) -> None:
    results = VERB.run(ConvertConfig(src=str(sample_data / "bridge"), out=str(tmp_path / "store")))
    assert check(tmp_path / "store", dataset_class, backend) == results["frames"] > 100


def test_we_read_what_lerobot_writes(dataset_class: Any, backend: str, tmp_path: Path) -> None:
    """Videos of its own kind, images in the table, both orders of axes."""
    cameras = {
        "top": ("video", (48, 64, 3), ["height", "width", "channels"]),
        "wrist": ("video", (3, 32, 40), ["channels", "height", "width"]),
        "low": ("image", (24, 32, 3), ["height", "width", "channels"]),
    }
    keys = {name: f"observation.images.{name}" for name in cameras}
    features: dict[str, Any] = {
        keys[name]: {"dtype": kind, "shape": shape, "names": names} for name, (kind, shape, names) in cameras.items()
    }
    features["action"] = {"dtype": "float32", "shape": (3,), "names": {"motors": ["x", "y", "grip"]}}
    features["next.success"] = {"dtype": "bool", "shape": (1,), "names": None}
    writer = dataset_class.create("local/written", fps=15, features=features, root=tmp_path / "written")
    has_task = "task" in inspect.signature(writer.add_frame).parameters  # of version 0.3

    def add(frame: dict[str, Any], task: str) -> None:
        writer.add_frame(frame, task) if has_task else writer.add_frame({**frame, "task": task})

    rng = np.random.default_rng(0)
    for length in (6, 9):
        for t in range(length):
            images = {keys[n]: np.full(sorted(s, reverse=True), 20 * t, np.uint8) for n, (_, s, _) in cameras.items()}
            images = {key: image.transpose(1, 0, 2) for key, image in images.items()}
            action = rng.normal(size=3).astype(np.float32)
            success = np.array([length == 9 and t == 8])
            add({**images, "action": action, "next.success": success}, f"task {length}")
        writer.save_episode()
    if hasattr(writer, "finalize"):
        writer.finalize()
    theirs = dataset_class("local/written", root=tmp_path / "written", video_backend=backend)
    reader = choose_reader(tmp_path / "written")
    for recording in reader.recordings(tmp_path / "written"):
        episode = recording.load()
        first = 0 if len(episode) == 6 else 6
        assert (recording.action.names, episode.fps) == (("x", "y", "grip"), 15)
        assert (episode.instruction, episode.success) == (f"task {len(episode)}", len(episode) == 9)
        for t in range(len(episode)):
            item = theirs[first + t]
            np.testing.assert_array_equal(item["action"].numpy(), episode.actions[t])
            pixels = (item[keys[recording.camera]].permute(1, 2, 0) * 255).round().numpy()
            np.testing.assert_array_equal(pixels, episode.frames[t])
