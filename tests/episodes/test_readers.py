"""Readers of archives, HDF5 files and annotations; BridgeData and DROID are in test_convert.py."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roboalign_core.episodes import EpisodeStore, video
from roboalign_core.episodes.convert import VERB, ConvertConfig
from roboalign_core.episodes.readers import choose_reader
from roboalign_core.episodes.readers.archives import ArrayForm, array_names, read_arrays
from roboalign_core.episodes.video import VideoCodec
from roboalign_core.errors import MissingExtraError, RoboAlignError

h5py = pytest.importorskip("h5py", reason="needs the extra hdf5")

T = 8


def store_of(src: Path, out: Path, **options: object) -> EpisodeStore:
    VERB.run(ConvertConfig(src=str(src), out=str(out), lossless=True, **options))
    return EpisodeStore.open(out)


@pytest.fixture
def frames(make_episode) -> np.ndarray:
    return make_episode(length=T, size=(64, 64)).frames


@pytest.fixture
def bair(tmp_path: Path, frames: np.ndarray) -> Path:
    (tmp_path / "bair").mkdir()
    actions = np.arange(4.0 * T).reshape(T, 4)
    np.savez(
        tmp_path / "bair/0.npz", image=frames.astype(np.int64), aux1_image=255 - frames.astype(np.int64), action=actions
    )
    return tmp_path / "bair"


@pytest.fixture
def metaworld(tmp_path: Path, frames: np.ndarray) -> Path:
    folder = tmp_path / "metaworld/door-lock"
    folder.mkdir(parents=True)
    planes = frames.transpose(0, 3, 1, 2)
    stacked = np.concatenate([np.zeros_like(planes), np.zeros_like(planes), planes], axis=1)
    actions = np.linspace(-3, 3, 4 * T, dtype=np.float32).reshape(T, 4)
    rewards = np.arange(T, dtype=np.float32)[:, None]
    np.savez(folder / "x_0_7.npz", observation=stacked, action=actions, reward=rewards, discount=np.ones_like(rewards))
    return tmp_path / "metaworld"


@pytest.fixture
def language_table(tmp_path: Path, frames: np.ndarray) -> Path:
    root = tmp_path / "language_table"
    for part in ("annotation", "videos"):
        (root / part / "test").mkdir(parents=True)
    video.encode(root / "videos/test/27.mp4", frames, 4, VideoCodec(lossless=True))
    content = {"actions": [[0.01 * t, -0.02] for t in range(T - 1)], "video_path": "videos/test/27.mp4"}
    (root / "annotation/test/27.json").write_text(json.dumps(content))
    return root


def test_bair_is_two_cameras_of_the_same_actions(bair: Path, frames: np.ndarray, tmp_path: Path) -> None:
    for camera, expected in (("main", frames), ("aux1", 255 - frames)):
        store = store_of(bair, tmp_path / camera, camera=camera)
        np.testing.assert_array_equal(store[0].frames, expected)
        np.testing.assert_array_equal(store[0].actions, np.arange(4.0 * T).reshape(T, 4))
        assert store.spec.action_names == ("dx", "dy", "lift", "close")


def test_metaworld_actions_lead_to_the_next_frame(metaworld: Path, frames: np.ndarray, tmp_path: Path) -> None:
    store = store_of(metaworld, tmp_path / "out")
    [episode] = store
    np.testing.assert_array_equal(episode.frames, frames)
    told = np.linspace(-3, 3, 4 * T, dtype=np.float32).reshape(T, 4)
    np.testing.assert_array_equal(episode.actions[:-1], told[1:].clip(-1, 1))
    assert not episode.actions[-1].any()
    np.testing.assert_array_equal(episode.extras["reward"][:, 0], np.arange(T))
    assert (episode.instruction, episode.fps, store.spec.camera) == ("door lock", 40.0, "corner")


def test_language_table_finds_its_video_by_the_annotation(
    language_table: Path, frames: np.ndarray, tmp_path: Path
) -> None:
    [episode] = store_of(language_table, tmp_path / "out")
    np.testing.assert_array_equal(episode.frames, frames)
    np.testing.assert_allclose(episode.actions[:, 0], [*(0.01 * t for t in range(T - 1)), 0], rtol=1e-6)
    assert episode.fps == 4.0


def test_language_table_is_found_through_a_link(language_table: Path, frames: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links/set").symlink_to(language_table)
    [episode] = store_of(tmp_path / "links", tmp_path / "out")
    np.testing.assert_array_equal(episode.frames, frames)


def test_rt1_has_no_actions(tmp_path: Path, frames: np.ndarray) -> None:
    (tmp_path / "rt1").mkdir()
    np.savez(tmp_path / "rt1/0.npz", image=frames)
    store = store_of(tmp_path / "rt1", tmp_path / "out")
    np.testing.assert_array_equal(store[0].frames, frames)
    assert not store[0].actions.any()
    assert store.spec.action_units == ("not recorded (unused)",)


def test_each_format_is_told_from_the_others(bair: Path, metaworld: Path, language_table: Path, tmp_path: Path) -> None:
    for folder in (bair, metaworld, language_table):
        assert choose_reader(folder).name == folder.name
    with pytest.raises(RoboAlignError, match="found bair, language_table, metaworld"):
        choose_reader(tmp_path)


@pytest.fixture
def demos(tmp_path: Path, frames: np.ndarray) -> Path:
    """As robomimic (0, 2 and 10) and LIBERO (upside down) write them."""
    (tmp_path / "hdf5").mkdir()
    with h5py.File(tmp_path / "hdf5/lift.hdf5", "w") as content:
        content.create_group("data").attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 10}})
        for number in (10, 2, 0):
            demo = content.create_group(f"data/demo_{number}")
            demo["actions"] = np.full((T, 7), number / 10)
            demo["rewards"] = (np.arange(T) == (T - 1 if number else T)).astype(float)
            for camera in ("agentview", "robot0_eye_in_hand"):
                demo[f"obs/{camera}_image"] = frames
            demo["obs/object"] = np.zeros((T, 10))
    with h5py.File(tmp_path / "hdf5/libero.hdf5", "w") as content:
        content["data/demo_0/actions"] = np.zeros((T, 7))
        content["data/demo_0/rewards"] = np.linspace(0, 1, T)
        content["data/demo_0/obs/agentview_rgb"] = frames[:, ::-1]
        content["data"].attrs["problem_info"] = json.dumps({"language_instruction": '"open the drawer"'})
    return tmp_path / "hdf5"


def test_demonstrations_come_in_the_order_of_their_numbers(demos: Path, frames: np.ndarray, tmp_path: Path) -> None:
    VERB.run(ConvertConfig(src=str(demos / "lift.hdf5"), out=str(tmp_path / "out"), lossless=True))
    for camera in ("agentview", "robot0_eye_in_hand"):
        store = EpisodeStore.open(tmp_path / "out" / camera)
        assert [float(episode.actions[0, 0]) for episode in store] == pytest.approx([0, 0.2, 1])
        assert store.success.tolist() == [0, 1, 1]
        np.testing.assert_array_equal(store[2].frames, frames)
        assert store.spec.fps == 10


def test_libero_is_turned_upright(demos: Path, frames: np.ndarray, tmp_path: Path) -> None:
    [episode] = store_of(demos / "libero.hdf5", tmp_path / "out")
    np.testing.assert_array_equal(episode.frames, frames)
    assert (episode.instruction, episode.success, episode.fps) == ("open the drawer", None, 20)


# -- bad input ------------------------------------------------------------------------------------------------------


TOO_LONG = "v" * 300 + ".mp4"  # for a file system


@pytest.mark.parametrize("target", ["../outside.mp4", "/etc/passwd", "videos/test/28.mp4", TOO_LONG, "a\0b.mp4", 5])
def test_a_video_outside_the_source_is_not_read(
    language_table: Path, frames: np.ndarray, tmp_path: Path, target: object
) -> None:
    video.encode(tmp_path / "outside.mp4", frames, 4, VideoCodec())
    path = language_table / "annotation/test/27.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "video_path": target}))
    with pytest.raises(RoboAlignError, match=r"27\.(json: video_path: expected a video below|mp4: expected a video)"):
        store_of(language_table, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([[0.0] * 3] * (T - 1), r"expected shape \(T, 2\), found \(7, 3\)"),
        ([["a", "b"]] * (T - 1), r"expected \(T, 2\) numbers"),
        ([[0.0, 0.0]] * T, f"expected {T + 1} frames, one more than actions in 27.json, found {T}"),
        (None, r"expected \(T, 2\) numbers|expected shape"),
    ],
)
def test_annotations_that_make_no_sense_are_refused(
    language_table: Path, tmp_path: Path, actions: object, message: str
) -> None:
    path = language_table / "annotation/test/27.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "actions": actions}))
    with pytest.raises(RoboAlignError, match=message):
        store_of(language_table, tmp_path / "out")


FORMS = {"a": ArrayForm(("T", 3), "float32"), "b": ArrayForm(("T",), "int64")}
GOOD = {"a": np.zeros((4, 3), np.float32), "b": np.zeros(4, np.int64)}


def test_arrays_of_one_length(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", **GOOD, c=np.zeros(2))
    assert array_names(tmp_path / "x.npz") == {"a", "b", "c"}
    found = read_arrays(tmp_path / "x.npz", FORMS)
    assert found.keys() == FORMS.keys()
    np.testing.assert_array_equal(found["a"], GOOD["a"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b": np.zeros(5, np.int64)}, r"x.npz: b: expected \(4\) int64, found \(5,\) int64"),
        ({"a": np.zeros((4, 2), np.float32)}, r"x.npz: a: expected \(T, 3\) float32, found \(4, 2\) float32"),
        ({"a": np.zeros((4, 3))}, r"x.npz: a: expected \(T, 3\) float32, found \(4, 3\) float64"),
        ({"a": np.array([{}])}, r"x.npz: expected an archive with a .*, found: a holds Python objects"),
        ({"b": None}, r"x.npz: expected an archive with a .*, found: .*b.npy"),
    ],
    ids=["length", "width", "numbers", "pickle", "missing"],
)
def test_arrays_of_another_form_are_refused(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    arrays = {name: array for name, array in {**GOOD, **changes}.items() if array is not None}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(RoboAlignError, match=message):
        read_arrays(tmp_path / "x.npz", FORMS)


def test_a_header_that_promises_terabytes_is_refused_unread(tmp_path: Path) -> None:
    header = b"\x93NUMPY\x01\x00"
    text = str({"descr": "<f4", "fortran_order": False, "shape": (10**12, 3)}).ljust(117).encode() + b"\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", header + len(text).to_bytes(2, "little") + text)
    with pytest.raises(RoboAlignError, match=r"x\.npz: a: expected at most"):
        read_arrays(tmp_path / "x.npz", {"a": FORMS["a"]})


@pytest.mark.parametrize("cut", [0, 10, 300, -30])
def test_cut_archives_are_refused(tmp_path: Path, cut: int) -> None:
    np.savez(tmp_path / "x.npz", **GOOD)
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:cut])
    with pytest.raises(RoboAlignError, match=r"x\.npz: expected an archive with a"):
        read_arrays(tmp_path / "x.npz", FORMS)
    assert array_names(tmp_path / "x.npz") == frozenset()


@settings(max_examples=200, deadline=None)
@given(start=st.integers(0, 900), junk=st.binary(min_size=1, max_size=40), compressed=st.booleans())
def test_damaged_archives_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, start: int, junk: bytes, compressed: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    (np.savez_compressed if compressed else np.savez)(path, **GOOD)
    content = bytearray(path.read_bytes())
    content[start : start + len(junk)] = junk
    path.write_bytes(content)
    try:
        found = read_arrays(path, FORMS)
    except RoboAlignError:
        pass
    else:
        assert {name: (array.dtype, array.ndim) for name, array in found.items()} == {
            name: (array.dtype, array.ndim) for name, array in GOOD.items()
        }


def test_images_that_are_no_bytes_are_refused(bair: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(bair / "0.npz"))
    np.savez(bair / "0.npz", **{**arrays, "image": arrays["image"] + 256})
    with pytest.raises(RoboAlignError, match=r"0\.npz: image: expected 0 to 255, found"):
        store_of(bair, tmp_path / "out", camera="main")


def no_actions(content: Any) -> str:
    del content["data/demo_0/actions"]
    return "lift.hdf5: data/demo_0/actions: expected an array, found nothing"


def two_arms(content: Any) -> str:
    del content["data/demo_0/actions"]
    content["data/demo_0/actions"] = np.zeros((T, 14))
    return r"data/demo_0/actions: expected \(8, 7\) f4 or f8, .* found \(8, 14\) f8"


def link_outside(content: Any) -> str:
    del content["data/demo_0/actions"]
    content["data/demo_0/actions"] = h5py.ExternalLink("/etc/other.hdf5", "data")
    return "data/demo_0/actions: expected an array, found ExternalLink"


def external_bytes(content: Any) -> str:
    del content["data/demo_0/actions"]
    content["data/demo_0"].create_dataset("actions", (T, 7), "f8", external="/etc/passwd")
    return "data/demo_0/actions: expected an array in the file itself"


def no_data(content: Any) -> str:
    content.move("data", "other")
    return "lift.hdf5: data: expected a group, found nothing"


def bad_attribute(content: Any) -> str:
    content["data"].attrs["env_args"] = "{"
    return "lift.hdf5: data, attribute env_args: expected JSON"


def bad_rate(content: Any) -> str:
    content["data"].attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": "fast"}})
    return "fps: expected a positive number, found 'fast'"


@pytest.mark.parametrize(
    "damage", [no_actions, two_arms, link_outside, external_bytes, no_data, bad_attribute, bad_rate]
)
def test_demonstrations_that_make_no_sense_are_refused(
    demos: Path, tmp_path: Path, damage: Callable[[Any], str]
) -> None:
    with h5py.File(demos / "lift.hdf5", "a") as content:
        message = damage(content)
    with pytest.raises(RoboAlignError, match=message):
        store_of(demos / "lift.hdf5", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cut_file_of_demonstrations_is_refused(demos: Path, tmp_path: Path) -> None:
    file = demos / "lift.hdf5"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(RoboAlignError, match=r"lift\.hdf5: expected a whole HDF5 file"):
        store_of(file, tmp_path / "out")


@pytest.mark.parametrize("camera", [None, "agentview"])
def test_a_cut_file_of_demonstrations_does_not_stop_the_others(
    demos: Path, frames: np.ndarray, tmp_path: Path, camera: str | None
) -> None:
    file = demos / "lift.hdf5"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(RoboAlignError, match=r"lift\.hdf5: expected a whole HDF5 file"):
        store_of(demos, tmp_path / "out", camera=camera)
    results = dict(
        VERB.run(ConvertConfig(str(demos), str(tmp_path / "out"), lossless=True, camera=camera, skip_bad=True))
    )
    assert (results["episodes"], list(results["detail"]["skipped"])) == (1, [str(file)])
    assert "expected a whole HDF5 file" in results["detail"]["skipped"][str(file)]
    [episode] = EpisodeStore.open(tmp_path / "out")
    np.testing.assert_array_equal(episode.frames, frames)


def test_without_h5py_no_file_of_demonstrations_counts_as_damaged(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r'pip install "roboalign\[hdf5\]"'):
        store_of(demos, tmp_path / "out", skip_bad=True)


# -- real data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "episodes", "frames", "size"),
    [
        ("bair", 2, 60, (64, 64)),
        ("language_table", 1, 18, (360, 640)),
        ("metaworld", 18, 18 * 101, (64, 64)),
        ("rt1", 1, 22, (256, 320)),
    ],
)
def test_real_episodes(
    sample_data: Path, tmp_path: Path, name: str, episodes: int, frames: int, size: tuple[int, int]
) -> None:
    results = dict(VERB.run(ConvertConfig(src=str(sample_data / name), out=str(tmp_path / "out"))))
    assert (results["episodes"], results["frames"], results["skipped"]) == (episodes, frames, 0)
    assert results["frame_psnr_db"] >= 38
    for path in results["detail"]["stores"]:
        store = EpisodeStore.open(path)
        store.verify(deep=True)
        assert (store.spec.height, store.spec.width, store.spec.source) == (*size, name)


def test_real_metaworld_actions_lead_to_the_next_frame(sample_data: Path, tmp_path: Path) -> None:
    """Frames and actions are the source's bit for bit, the actions one row up."""
    files = sorted((sample_data / "metaworld").rglob("*.npz"))
    store = store_of(sample_data / "metaworld", tmp_path / "out")
    assert len(store) == len(files)
    for episode, file in zip(store, files, strict=True):
        archive = np.load(file)
        np.testing.assert_array_equal(episode.frames, archive["observation"][:, 6:].transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(episode.actions[:-1], archive["action"][1:].clip(-1, 1))
