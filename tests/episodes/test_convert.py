from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from roboalign_core.episodes import EpisodeStore, video
from roboalign_core.episodes.convert import VERB, ConvertConfig
from roboalign_core.episodes.readers import ActionColumn, ActionKind, ActionMeaning, choose_reader
from roboalign_core.episodes.readers.droid import deltas
from roboalign_core.episodes.video import VideoCodec
from roboalign_core.errors import RoboAlignError


def convert(src: Path, out: Path, **options: object) -> dict:
    return dict(VERB.run(ConvertConfig(src=str(src), out=str(out), **options)))


def write_bridge(folder: Path, name: str, frames: np.ndarray, actions: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    video.encode(folder / f"{name}.mp4", frames, 20, VideoCodec())
    np.savez(folder / f"{name}.npz", actions)


def write_droid(folder: Path, frames: np.ndarray, rows: np.ndarray, fps: float = 5, **changes: object) -> None:
    folder.mkdir(parents=True)
    for camera in ("0", "2"):
        video.encode(folder / f"{camera}.mp4", frames, fps, VideoCodec())
    content = {"texts": [" fold it "], "success": 1, "states": rows.tolist(), "video_length": len(rows), **changes}
    (folder / "annotation.json").write_text(json.dumps(content))


@pytest.fixture
def bridge(tmp_path, make_episode):
    folder = tmp_path / "bridge"
    for name in ("000000000", "000000001", "000000002"):
        episode = make_episode(int(name), length=10 + int(name))
        write_bridge(folder, name, episode.frames, np.ones((len(episode), 10), np.float32) * int(name))
    return folder


@pytest.fixture
def droid(tmp_path, make_episode):
    rng = np.random.default_rng(0)
    for name, fps in (("0", 5), ("1", 5), ("new_0", 4)):
        states = rng.uniform(-3.1, 3.1, (12, 7)).astype(np.float32)
        write_droid(tmp_path / "droid" / name, make_episode(1).frames, states, fps)
    return tmp_path / "droid"


def test_bridge_becomes_a_store(bridge, tmp_path):
    results = convert(bridge, tmp_path / "out")
    assert (results["episodes"], results["frames"], results["cameras"], results["skipped"]) == (3, 33, 1, 0)
    assert results["frame_psnr_db"] >= 38
    store = EpisodeStore.open(tmp_path / "out")
    store.verify(deep=True)
    assert store.spec.action_names[:3] == ("dx", "dy", "dz")
    assert store.spec.action_units[6] == "-1 open, 1 closed (absolute)"
    assert (store.spec.fps, store.spec.source) == (5.0, "bridge")
    for index, episode in enumerate(store):
        np.testing.assert_array_equal(episode.actions, np.full((10 + index, 10), index, np.float32))
    assert np.isnan(store.success).all()


def test_droid_becomes_a_store_for_each_camera_and_rate(droid, tmp_path):
    results = convert(droid, tmp_path / "out")
    assert (results["episodes"], results["cameras"]) == (6, 2)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"exterior_1-5fps", "exterior_1-4fps", "wrist-5fps", "wrist-4fps"}
    store = EpisodeStore.open(tmp_path / "out/wrist-5fps")
    assert store.instructions == ["fold it", "fold it"]
    assert store.success.tolist() == [1.0, 1.0]
    state = json.loads((droid / "0/annotation.json").read_text())["states"]
    np.testing.assert_array_equal(store[0].extras["observation.state"], np.array(state, np.float32))


@pytest.mark.parametrize(("states", "fits"), [(12, True), (11, True), (10, False), (13, False)])
def test_droid_leaves_out_one_frame_after_the_last_state_and_no_more(tmp_path, make_episode, states, fits):
    frames = make_episode(1, length=12).frames
    write_droid(tmp_path / "droid/0", frames, np.zeros((states, 7), np.float32))
    if not fits:
        with pytest.raises(RoboAlignError, match=f"expected {states} frames, .* found 12"):
            convert(tmp_path / "droid", tmp_path / "out")
        return
    convert(tmp_path / "droid", tmp_path / "out", lossless=True, camera="wrist")
    assert len(EpisodeStore.open(tmp_path / "out")[0]) == states


def test_droid_actions_turn_one_state_into_the_next_the_short_way_round():
    states = np.zeros((3, 7), np.float32)
    states[:, 0] = 0.1, 0.2, 0.4
    states[:, 3] = 3.1, -3.1, 3.1  # across pi
    states[:, 6] = 0.0, 0.5, 1.0
    actions = deltas(states)
    np.testing.assert_allclose(actions[:2, 0], [0.1, 0.2], atol=1e-6)
    np.testing.assert_allclose(actions[:2, 3], [2 * np.pi - 6.2, 6.2 - 2 * np.pi], atol=1e-6)
    np.testing.assert_array_equal(actions[:, 6], [0.5, 1.0, 1.0])
    np.testing.assert_array_equal(actions[2, :6], 0)


def test_one_camera_at_one_rate_is_one_store_and_frames_are_resized_on_request(droid, tmp_path):
    (droid / "new_0/annotation.json").unlink()
    results = convert(droid, tmp_path / "out", camera="wrist", size=[32, 48], lossless=True)
    store = EpisodeStore.open(tmp_path / "out")
    assert (store.spec.camera, store.spec.height, store.spec.width, len(store)) == ("wrist", 32, 48, 2)
    assert results["frame_psnr_db"] == 100.0


def bad_rows(folder: Path) -> str:
    np.savez(folder / "000000001.npz", np.zeros((9, 10), np.float32))
    return "000000001.mp4: expected 9 frames, one per row of 000000001.npz, found 11"


def bad_nan(folder: Path) -> str:
    np.savez(folder / "000000001.npz", np.full((11, 10), np.nan, np.float32))
    return "actions: expected finite numbers, found nan"


def bad_dtype(folder: Path) -> str:
    np.savez(folder / "000000001.npz", np.zeros((11, 10)))
    return "expected .T, 10. float32, found .11, 10. float64"


def bad_pickle(folder: Path) -> str:
    np.savez(folder / "000000001.npz", np.array([{"a": 1}], dtype=object))
    return "000000001.npz: expected an archive"


def bad_key(folder: Path) -> str:
    np.savez(folder / "000000001.npz", other=np.zeros((11, 10), np.float32))
    return "000000001.npz: expected an archive"


def bad_archive(folder: Path) -> str:
    path = folder / "000000001.npz"
    path.write_bytes(path.read_bytes()[:100])
    return "000000001.npz: expected an archive"


def bad_video(folder: Path) -> str:
    path = folder / "000000001.mp4"
    path.write_bytes(path.read_bytes()[:-500])
    return "000000001.mp4: expected a readable video"


def bad_frames(folder: Path) -> str:
    path = folder / "000000001.mp4"
    content = bytearray(path.read_bytes())
    content[5000:5300] = bytes(300)
    path.write_bytes(content)
    return "000000001.mp4: expected a readable video, found damage at frame"


def no_video(folder: Path) -> str:
    (folder / "000000001.mp4").unlink()
    return "000000001.mp4: expected a video, found nothing there"


def no_actions(folder: Path) -> str:
    (folder / "000000001.npz").unlink()
    return "000000001.npz: expected an archive of arrays, found nothing there"


BRIDGE_DAMAGE = [
    bad_rows, bad_nan, bad_dtype, bad_pickle, bad_key, bad_archive, bad_video, bad_frames, no_video, no_actions,
]  # fmt: skip


@pytest.mark.parametrize("damage", BRIDGE_DAMAGE)
def test_a_bad_episode_stops_the_conversion_and_leaves_nothing(bridge, tmp_path, damage):
    message = damage(bridge)
    with pytest.raises(RoboAlignError, match=message) as error:
        convert(bridge, tmp_path / "out")
    assert "000000001" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["bridge"]


@pytest.mark.parametrize("damage", [bad_rows, bad_nan])
def test_bad_episodes_are_left_out_and_listed_on_request(bridge, tmp_path, damage):
    message = damage(bridge)
    results = convert(bridge, tmp_path / "out", skip_bad=True)
    assert (results["episodes"], results["skipped"]) == (2, 1)
    [(name, why)] = results["detail"]["skipped"].items()
    assert name.endswith("bridge/000000001")
    assert message.split(":")[-1].split(",")[0].strip() in why
    assert EpisodeStore.open(tmp_path / "out").lengths.tolist() == [10, 12]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"video_length": 13}, r"annotation.json: states: expected 13 rows \(video_length\), found 12"),
        ({"states": [[0.0] * 7] * 10, "video_length": 10}, r"0.mp4: expected 10 frames, .*, found 12"),
        ({"states": [[0.0] * 6] * 12}, r"annotation.json: states: expected shape \(T, 7\), found \(12, 6\)"),
        ({"states": [["a"] * 7] * 12}, r"annotation.json: states: expected \(T, 7\) numbers"),
        ({"states": [[float("nan")] * 7] * 12}, "expected finite numbers"),
        ({"texts": "fold"}, "annotation.json: texts: expected a list of texts"),
        ({"success": 7}, "annotation.json: success: expected 0 or 1, found 7"),
    ],
)
def test_annotations_that_contradict_the_video_are_refused(tmp_path, make_episode, changes, message):
    write_droid(tmp_path / "droid/0", make_episode().frames, np.zeros((12, 7), np.float32), **changes)
    with pytest.raises(RoboAlignError, match=message):
        convert(tmp_path / "droid", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[" * 100_000, b'{"video_length": ' + b"1" * 5000 + b"}"])
def test_an_annotation_that_is_no_json_is_refused_or_left_out(droid, tmp_path, content):
    (droid / "1/annotation.json").write_bytes(content)
    with pytest.raises(RoboAlignError, match=r"1/annotation.json: expected valid UTF-8 JSON"):
        convert(droid, tmp_path / "out")
    results = convert(droid, tmp_path / "out", skip_bad=True)
    assert (results["episodes"], results["skipped"]) == (4, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["droid", "out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "rlds9"}, "format: expected auto or one of bair, bridge, calvin"),
        ({"format": "droid"}, "found none of them"),
        ({"size": [64]}, r"size: expected native or \[height, width\]"),
        ({"size": "big"}, "size: expected native"),
        ({"camera": "left"}, "expected recordings of left, found none"),
        ({"crf": 99}, "crf: expected"),
    ],
)
def test_options_that_make_no_sense_are_refused(bridge, tmp_path, options, message):
    with pytest.raises(RoboAlignError, match=message):
        convert(bridge, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_output_in_use_is_left_alone(bridge, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("keep")
    with pytest.raises(RoboAlignError, match="expected a new or empty folder"):
        convert(bridge, tmp_path / "out")
    assert (tmp_path / "out/mine.txt").read_text() == "keep"


def test_sources_that_do_not_exist_or_are_not_understood_are_refused(tmp_path):
    with pytest.raises(RoboAlignError, match="expected data to read, found nothing there"):
        choose_reader(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RoboAlignError, match="expected the files of one of: bair, bridge, calvin"):
        choose_reader(tmp_path / "empty")


def test_a_meaning_names_each_of_its_columns_once():
    column = ActionColumn("x", "m", ActionKind.DELTA)
    with pytest.raises(RoboAlignError, match="expected each name once, found x, x"):
        ActionMeaning((column, column))


# Real data.


def test_real_bridge_episodes(sample_data, tmp_path):
    results = convert(sample_data / "bridge", tmp_path / "out", size=[64, 64])
    pairs = sorted((sample_data / "bridge").glob("*.npz"))
    assert results["episodes"] == len(pairs)
    assert results["frame_psnr_db"] >= 38
    store = EpisodeStore.open(tmp_path / "out")
    store.verify(deep=True)
    for episode, path in zip(store, pairs, strict=True):
        np.testing.assert_array_equal(episode.actions, np.load(path)["arr_0"])


def test_real_droid_episodes(sample_data, tmp_path):
    results = convert(sample_data / "droid", tmp_path / "out", size=[48, 80], camera="wrist")
    annotations = [json.loads(p.read_text()) for p in (sample_data / "droid").rglob("annotation.json")]
    assert results["episodes"] == len(annotations) > 0
    assert results["skipped"] == 0
    assert results["frame_psnr_db"] >= 38
    stores = [EpisodeStore.open(path) for path in results["detail"]["stores"]]
    known = {text.strip() for annotation in annotations for text in annotation["texts"]}
    for store in stores:
        store.verify()
        assert set(store.instructions) <= known
        motion = np.concatenate([episode.actions[:, :6] for episode in store])
        assert np.abs(motion[:, :3]).max() < 0.2  # metres between two frames
        assert np.abs(motion[:, 3:]).max() < 1.0  # radians; a wrap would show as 6.28
