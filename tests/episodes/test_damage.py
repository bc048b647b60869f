"""What a crash or a damaged file does to a store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from roboalign_core import files
from roboalign_core.episodes import EpisodeStore, FrameCache
from roboalign_core.episodes.layout import INFO_PATH, KINDS
from roboalign_core.errors import RoboAlignError


class CrashError(Exception):
    pass


@pytest.mark.parametrize("survived", range(6))
def test_a_crash_between_any_two_files_leaves_the_store_as_it_was(store, make_episode, monkeypatch, survived):
    replace, calls = os.replace, []

    def crash(source, target):
        if len(calls) == survived:
            raise CrashError
        calls.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", crash)
        with pytest.raises(CrashError):
            store.append([make_episode(7, instruction="a new task"), make_episode(8)])
    after = EpisodeStore.open(store.path)
    assert len(after) == 5
    after.verify(deep=True)
    after.append([make_episode(8)])
    again = EpisodeStore.open(store.path)
    again.verify(deep=True)
    assert len(again) == 6
    assert again.instructions[-1] == "push block 2"
    np.testing.assert_array_equal(again[5].actions, make_episode(8).actions)
    assert json.loads((store.path / "meta/stats.json").read_text())["action"]["count"] == [92]


APPEND_FOREVER = """
import sys
import numpy as np
from roboalign_core.episodes import Episode, EpisodeStore
store = EpisodeStore.open(sys.argv[1])
while True:
    n = len(store)
    frames = np.full((12, 64, 64, 3), n % 250, np.uint8)
    actions = np.full((12, 3), n, np.float32)
    extras = {"observation.state": actions[:, :2].copy(), "progress": actions[:, :1].copy()}
    store.append([Episode(frames, actions, f"task {n}", None, 10.0, "test", "front", extras)])
    print(n, flush=True)
"""


def test_a_killed_process_leaves_a_readable_store(store, make_episode):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    for round_ in range(3):
        command = [sys.executable, "-c", APPEND_FOREVER, str(store.path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        for _ in range(3):
            assert process.stdout.readline()
        time.sleep(0.011 * round_)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = EpisodeStore.open(store.path)
        found.verify(deep=True)
        assert len(found) >= 5 + 3 * (round_ + 1)
        assert found[len(found) - 1].actions[0, 0] == len(found) - 1
    found.append([make_episode(1)])
    for path in store.path.rglob("*"):  # what the killed process was writing is gone
        assert ".tmp" not in path.name
    groups = len(found.info.groups)
    for kind in KINDS:
        assert len(list(found.file(kind, 0).parent.iterdir())) == groups


def test_an_append_removes_what_a_killed_one_left_anywhere(store, make_episode):
    left = [path.parent / f".{path.stem}.x1.tmp{path.suffix}" for path in store.path.rglob("*") if path.is_file()]
    left = [path for path in left if path.relative_to(store.path).parts[0] in ("data", "meta", "videos")]
    assert len({path.parent for path in left}) >= 4
    for path in left:
        path.write_bytes(b"half")
    store.append([make_episode(1)])
    assert not any(path.exists() for path in left)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


@pytest.mark.parametrize("kind", ["video", "data"])
def test_a_truncated_file_is_named_with_expected_and_found(store, kind):
    path = store.file(kind, 1)
    size = path.stat().st_size
    cut(path)
    for action in (lambda: store[4], store.verify):
        with pytest.raises(RoboAlignError, match=f"{path}: expected {size} bytes, found {size - 200}"):
            action()
    assert len(store[0]) == 8  # other groups can still be read


def test_a_changed_byte_is_found_by_deep_verification(store):
    path = store.file("video", 0)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    store.verify()
    with pytest.raises(RoboAlignError, match=f"{path}: expected SHA-256"):
        store.verify(deep=True)


def accept_sizes(store: EpisodeStore, group: int) -> EpisodeStore:
    """Make the record of the files' sizes fit, so that the checks behind it are reached."""
    info = json.loads((store.path / INFO_PATH).read_text())
    for kind, record in info["roboalign"]["groups"][group]["files"].items():
        record["bytes"] = store.file(kind, group).stat().st_size
    (store.path / INFO_PATH).write_text(json.dumps(info))
    return EpisodeStore.open(store.path)


def test_a_video_with_too_few_frames_is_named(store):
    path = store.file("video", 1)
    path.write_bytes(store.file("video", 0).read_bytes())  # 36 frames instead of 44
    store = accept_sizes(store, 1)
    with pytest.raises(RoboAlignError, match=f"{path}: expected 44 frames, found 36"):
        store.verify()
    with pytest.raises(RoboAlignError, match=f"{path}: expected 24 frames from frame 20 on, found 16"):
        store[4]


def test_an_undecodable_video_is_named(store):
    path = store.file("video", 1)
    path.write_bytes(b"\x00" * 4096)
    store = accept_sizes(store, 1)
    for action in (lambda: store[4], store.verify):
        with pytest.raises(RoboAlignError, match=f"{path}: expected a readable video"):
            action()


def test_too_few_action_rows_are_named(store):
    path = store.file("data", 1)
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 40), path, row_group_size=20)
    store = accept_sizes(store, 1)
    with pytest.raises(RoboAlignError, match=f"{path}: expected 44 rows, one per frame, found 40"):
        store.verify()
    with pytest.raises(RoboAlignError, match=f"{path}: row group 1: expected 24 rows"):
        store[4]


def test_action_columns_of_another_width_or_type_are_named(store):
    path = store.file("data", 1)
    table = pq.read_table(path)
    position = table.column_names.index("action")
    wrong = pa.array([[0.0, 0.0]] * len(table), pa.list_(pa.float64(), 2))
    pq.write_table(table.set_column(position, "action", wrong), path, row_group_size=20)
    store = accept_sizes(store, 1)
    with pytest.raises(RoboAlignError, match=r"column action: expected fixed_size_list.*3.*found.*double"):
        store[3]


def test_nan_actions_on_disk_are_refused(store):
    path = store.file("data", 0)
    table = pq.read_table(path)
    position = table.column_names.index("action")
    wrong = pa.array([[float("nan")] * 3] * len(table), pa.list_(pa.float32(), 3))
    pq.write_table(table.set_column(position, "action", wrong), path, row_group_size=8)
    store = accept_sizes(store, 0)
    with pytest.raises(RoboAlignError, match="actions: expected finite numbers, found nan at row 0"):
        store[0]
    with pytest.raises(RoboAlignError, match=f"{path}: column action: expected finite numbers"):
        FrameCache.open_or_build(store, progress=False)
    assert not (store.path / "cache/64x64").exists()


def change_info(store: EpisodeStore, *keys: str | int, value: object) -> None:
    info = json.loads((store.path / INFO_PATH).read_text())
    place = info
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    (store.path / INFO_PATH).write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("codebase_version",), "v2.1", "codebase_version: expected 'v3.0', found 'v2.1'"),
        (("data_path",), "../../../etc/passwd", "data_path: expected 'data/chunk-"),
        (("video_path",), "/etc/{video_key}", "video_path: expected 'videos/"),
        (("roboalign",), None, "expected the key 'roboalign'"),
        (("roboalign", "camera"), "../../secret", "camera: expected a name"),
        (("roboalign", "store_version"), 99, "store_version: expected 1, found 99"),
        (("roboalign", "groups", 0, "files", "video"), None, r"groups\[0\].files.video: expected dict"),
        (("roboalign", "groups", 0, "frames"), -5, r"groups\[0\].frames: expected a count"),
        (("roboalign", "lossless"), "no", "roboalign.lossless: expected bool"),
        (("total_frames",), 81, "total_frames .*: expected 80, found 81"),
        (("total_episodes",), "many", "total_episodes .*: expected 5, found 'many'"),
        (("features", "action", "shape"), [4], "features: expected"),
        (("features", "action"), None, "features.action: expected dict"),
        (("features",), [], "features: expected dict"),
        (("fps",), "fast", "fps: expected a number"),
        (("chunks_size",), 10**30, "chunks_size: expected 1000"),
    ],
)
def test_metadata_that_are_wrong_or_hostile_are_refused(store, keys, value, message):
    change_info(store, *keys, value=value)
    with pytest.raises(RoboAlignError, match=message) as error:
        EpisodeStore.open(store.path)
    assert str(store.path / INFO_PATH) in str(error.value)


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"[1, 2", b"[]", b""])
def test_metadata_that_are_no_json_are_refused(store, content):
    (store.path / INFO_PATH).write_bytes(content)
    with pytest.raises(RoboAlignError, match=INFO_PATH):
        EpisodeStore.open(store.path)


def test_a_folder_without_a_store_is_refused(tmp_path):
    with pytest.raises(RoboAlignError, match="expected a JSON file, found nothing there"):
        EpisodeStore.open(tmp_path / "absent")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("length", pa.array([20, 25]), "expected 2 episodes, 44 frames"),
        ("length", pa.array([20.0, 24.0]), "column length: expected int64, found double"),
        ("tasks", pa.array([["a"], []], pa.list_(pa.string())), "row 1: expected a length, one task"),
        ("episode_index", pa.array([3, 7]), "expected episode 4 from frame 56 on, found episode 7"),
    ],
)
def test_episode_rows_that_contradict_the_metadata_are_refused(store, column, values, message):
    path = store.file("episodes", 1)
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(column), column, values), path)
    with pytest.raises(RoboAlignError, match=message) as error:
        EpisodeStore.open(store.path)
    assert str(path) in str(error.value)
