from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roboalign_core.episodes import EpisodeStore, StoreSpec
from roboalign_core.episodes.layout import INFO_PATH
from roboalign_core.errors import RoboAlignError


def test_round_trip_keeps_numbers_exactly_and_frames_above_38_db(store, make_episode, psnr):
    store = EpisodeStore.open(store.path)
    assert len(store) == 5
    assert store.frames == 80
    for seed, episode in enumerate(store):
        source = make_episode(seed, length=8 + 4 * seed)
        np.testing.assert_array_equal(episode.actions, source.actions)
        assert episode.actions.dtype == np.float32
        assert set(episode.extras) == set(source.extras)
        for name in source.extras:
            np.testing.assert_array_equal(episode.extras[name], source.extras[name])
        assert (episode.instruction, episode.success, episode.fps) == (source.instruction, source.success, source.fps)
        assert (episode.source, episode.camera) == (source.source, source.camera)
        assert psnr(episode.frames, source.frames) >= 38


@pytest.mark.parametrize("size", [(64, 64), (33, 47)])
def test_lossless_frames_are_identical(tmp_path, make_episode, size):
    source = make_episode(3, length=9, size=size)
    store = EpisodeStore.create(tmp_path / "s", StoreSpec.like(source, lossless=True))
    store.append([source, source])
    np.testing.assert_array_equal(EpisodeStore.open(store.path)[1].frames, source.frames)


def test_odd_sizes_and_fractional_rates_work_in_the_lossy_kind(tmp_path, make_episode, psnr):
    episodes = [make_episode(seed, length=7, size=(45, 61), fps=7.5) for seed in range(5)]
    store = EpisodeStore.create(tmp_path / "s", StoreSpec.like(episodes[0]))
    store.append(episodes)
    for found, source in zip(EpisodeStore.open(store.path), episodes, strict=True):
        assert psnr(found.frames, source.frames) >= 38


def test_summaries_need_no_files_but_the_metadata(store):
    shutil.rmtree(store.path / "videos")
    shutil.rmtree(store.path / "data")
    store = EpisodeStore.open(store.path)
    assert store.instructions == ["push block 0", "push block 1", "push block 2", "push block 0", "push block 1"]
    assert store.lengths.tolist() == [8, 12, 16, 20, 24]
    np.testing.assert_array_equal(store.success, np.array([1, 0, np.nan, 1, 0], np.float32))
    assert dataclasses.astuple(store.summary(-1)) == (24, "push block 1", False)
    with pytest.raises(IndexError):
        store[5]


def test_any_order_of_reading_gives_the_right_episode(store):
    in_order = [episode.frames for episode in store]
    for index in (4, 0, 2, 1, 3, -1):
        np.testing.assert_array_equal(store[index].frames, in_order[index])


def test_two_writers_take_turns(store, make_episode):
    other = EpisodeStore.open(store.path)
    store.append([make_episode(5)])
    other.append([make_episode(6)])
    assert len(other) == 7
    assert EpisodeStore.open(store.path).instructions[-2:] == ["push block 2", "push block 0"]
    EpisodeStore.open(store.path).verify(deep=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": (32, 64)}, r"frames \(H, W\): the store expects \(64, 64\), found \(32, 64\)"),
        ({"actions": np.zeros((12, 2), np.float32)}, r"actions \(columns\): the store expects 3, found 2"),
        ({"fps": 5.0}, "fps: the store expects 10.0, found 5.0"),
        ({"camera": "wrist"}, "camera: the store expects front, found wrist"),
        ({"extras": {}}, "extras"),
    ],
)
def test_an_episode_that_does_not_fit_is_refused_and_nothing_is_written(store, make_episode, changes, message):
    before = (store.path / INFO_PATH).read_bytes()
    with pytest.raises(RoboAlignError, match=message) as error:
        store.append([make_episode(1), make_episode(2, **changes)])
    assert "episode 1 of the append" in str(error.value)
    assert (store.path / INFO_PATH).read_bytes() == before
    assert len(list((store.path / "data").rglob("*.parquet"))) == 2


def test_create_refuses_a_folder_in_use(store, spec):
    with pytest.raises(RoboAlignError, match="expected a new or empty folder"):
        EpisodeStore.create(store.path, spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": "../front"}, "camera"),
        ({"camera": "a/b"}, "camera"),
        ({"extras": {"a/b": ("x",)}}, "extras"),
        ({"extras": {"timestamp": ("x",)}}, "that the layout leaves free"),
        ({"action_names": ()}, "action_names"),
        ({"action_units": ("m",)}, "action_units"),
        ({"crf": 60}, "crf"),
        ({"fps": -1}, "fps"),
        ({"height": 64.0}, "height"),
    ],
)
def test_a_spec_that_cannot_be_stored_is_refused(spec, changes, message):
    with pytest.raises(RoboAlignError, match=message):
        dataclasses.replace(spec, **changes)


# The layout: what LeRobot's own reader expects (LeRobotDataset v3.0).


def test_info_is_that_of_lerobot_v3(store):
    info = json.loads((store.path / INFO_PATH).read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (5, 80, 3)
    assert info["splits"] == {"train": "0:5"}
    assert info["fps"] == 10
    assert info["data_path"] == "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    assert info["video_path"] == "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    features = info["features"]
    assert features["action"] == {"dtype": "float32", "shape": [3], "names": ["x", "y", "grip"]}
    assert features["observation.images.front"]["dtype"] == "video"
    assert features["observation.images.front"]["shape"] == [64, 64, 3]
    assert features["timestamp"] == {"dtype": "float32", "shape": [1], "names": None}
    video = info["video_path"].format(video_key="observation.images.front", chunk_index=0, file_index=1)
    assert (store.path / video).is_file()
    assert (store.path / info["data_path"].format(chunk_index=0, file_index=1)).is_file()


def test_data_columns_have_lerobots_types(store):
    table = pq.read_table(store.path / "data/chunk-000/file-001.parquet")
    assert table.schema.field("action").type == pa.list_(pa.float32(), 3)
    assert table.schema.field("observation.state").type == pa.list_(pa.float32(), 2)
    assert table.schema.field("progress").type == pa.float32()  # a feature of shape (1,) is a scalar there
    assert table.schema.field("timestamp").type == pa.float32()
    assert table.schema.field("next.done").type == pa.bool_()
    for key in ("frame_index", "episode_index", "index", "task_index"):
        assert table.schema.field(key).type == pa.int64()
    info = json.loads((store.path / INFO_PATH).read_text())
    assert set(table.column_names) == set(info["features"]) - {"observation.images.front"}
    rows = table.to_pydict()
    assert rows["index"] == list(range(36, 80))
    assert rows["episode_index"] == [3] * 20 + [4] * 24
    assert rows["frame_index"] == [*range(20), *range(24)]
    assert rows["task_index"] == [0] * 20 + [1] * 24
    assert [step for step, done in enumerate(rows["next.done"]) if done] == [19, 43]
    np.testing.assert_allclose(rows["timestamp"][:3], [0.0, 0.1, 0.2], atol=1e-6)


def test_episode_rows_point_to_data_and_video(store):
    rows = pq.read_table(store.path / "meta/episodes/chunk-000/file-001.parquet").to_pylist()
    last = rows[-1]
    assert last["episode_index"] == 4
    assert last["tasks"] == ["push block 1"]
    assert (last["length"], last["dataset_from_index"], last["dataset_to_index"]) == (24, 56, 80)
    assert (last["data/chunk_index"], last["data/file_index"]) == (0, 1)
    key = "videos/observation.images.front"
    assert (last[f"{key}/chunk_index"], last[f"{key}/file_index"]) == (0, 1)
    assert last[f"{key}/from_timestamp"] == pytest.approx(2.0)
    assert last[f"{key}/to_timestamp"] == pytest.approx(4.4)
    assert (last["meta/episodes/chunk_index"], last["meta/episodes/file_index"]) == (0, 1)
    assert last["success"] is False
    assert last["stats/action/count"] == [24]
    assert np.shape(last["stats/observation.images.front/mean"]) == (3, 1, 1)


def test_tasks_are_written_as_pandas_writes_an_index(store):
    table = pq.read_table(store.path / "meta/tasks.parquet")
    assert table.to_pydict() == {"task_index": [0, 1, 2], "task": ["push block 0", "push block 1", "push block 2"]}
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]


def test_statistics_are_those_of_all_frames(store, make_episode):
    stats = json.loads((store.path / "meta/stats.json").read_text())
    actions = np.concatenate([make_episode(seed, length=8 + 4 * seed).actions for seed in range(5)]).astype(np.float64)
    assert stats["action"]["count"] == [80]
    np.testing.assert_allclose(stats["action"]["mean"], actions.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(stats["action"]["std"], actions.std(axis=0), rtol=1e-9)
    np.testing.assert_allclose(stats["action"]["max"], actions.max(axis=0))
    assert np.shape(stats["observation.images.front"]["std"]) == (3, 1, 1)


def test_statistics_go_on_where_an_earlier_process_stopped(store, make_episode):
    EpisodeStore.open(store.path).append([make_episode(9)])
    stats = json.loads((store.path / "meta/stats.json").read_text())
    assert stats["index"] == {
        "min": [0.0],
        "max": [91.0],
        "mean": [pytest.approx(45.5)],
        "std": [pytest.approx(np.arange(92).std())],
        "count": [92],
    }


def test_a_clip_is_part_of_its_episode(store):
    whole = store[3].frames
    for first, length in ((0, 1), (5, 7), (19, 1), (0, 20)):
        np.testing.assert_array_equal(store.clip(3, first, length), whole[first : first + length])


@pytest.mark.parametrize(("first", "length"), [(-1, 2), (19, 2), (0, 0), (0, 21)])
def test_frames_that_an_episode_lacks_are_refused(store, first, length):
    with pytest.raises(RoboAlignError, match="episode 3: expected frames 0 to 19, found"):
        store.clip(3, first, length)
