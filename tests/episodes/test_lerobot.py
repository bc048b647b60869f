"""The reader of LeRobotDatasets; version 3.0 is what our own stores are."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec, video
from roboalign_core.episodes.convert import VERB, ConvertConfig
from roboalign_core.episodes.readers import Recording, choose_reader
from roboalign_core.episodes.readers.documents import MOST_JSON_BYTES
from roboalign_core.episodes.readers.lerobot.template import PathTemplate
from roboalign_core.episodes.video import VideoCodec
from roboalign_core.errors import RoboAlignError

FPS = 10
INFO = "meta/info.json"
FIRST_DATA = "data/chunk-000/episode_000000.parquet"
FIRST_VIDEO = "videos/chunk-000/observation.images.top/episode_000000.mp4"


def recordings(path: Path) -> list[Recording]:
    return list(choose_reader(path, "lerobot").recordings(path))


def episodes(path: Path) -> list[Episode]:
    return [recording.load() for recording in recordings(path)]


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes one away."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit_table(path: Path, **columns: Any) -> None:
    """Change columns of a parquet file; None takes one away."""
    table = pq.read_table(path)
    for key, column in columns.items():
        place = table.column_names.index(key)
        table = table.remove_column(place) if column is None else table.set_column(place, key, column)
    pq.write_table(table, path)


def png(frame: np.ndarray) -> dict[str, Any]:
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": "frame.png"}


def write_version2(root: Path, made: list[Episode]) -> Path:
    """As LeRobot 0.3 writes it: a camera as video, the same upside down as images, all in files of one episode."""
    lists = {"episodes": [], "tasks": [{"task_index": 0, "task": "push"}, {"task_index": 1, "task": "pull"}]}
    for index, episode in enumerate(made):
        length, steps = len(episode), np.arange(len(episode))
        columns = {
            "action": pa.array(list(episode.actions), pa.list_(pa.float32(), 3)),
            "observation.state": pa.array(episode.extras["observation.state"].tolist(), pa.list_(pa.float64())),
            "observation.images.low": pa.array([png(frame) for frame in episode.frames[:, ::-1]]),
            "next.success": pa.array(steps == (length - 1 if index else length)),
            "timestamp": pa.array((steps / FPS).astype(np.float32)),
            "frame_index": pa.array(steps),
            "episode_index": pa.array(np.full(length, index)),
            "index": pa.array(steps),
            "task_index": pa.array(np.full(length, index % 2)),
        }
        name = f"episode_{index:06d}"
        for folder in ("data/chunk-000", "videos/chunk-000/observation.images.top"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), root / f"data/chunk-000/{name}.parquet")
        path = root / f"videos/chunk-000/observation.images.top/{name}.mp4"
        video.encode(path, episode.frames, FPS, VideoCodec(lossless=True))
        lists["episodes"].append({"episode_index": index, "tasks": ["push"], "length": length})
    height, width = made[0].frames.shape[1:3]
    features = {
        "action": {"dtype": "float32", "shape": [3], "names": {"motors": ["x", "y", "grip"]}},
        "observation.state": {"dtype": "float32", "shape": [2], "names": ["a", "b"]},
        "observation.images.top": {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "rgb"]},
        "observation.images.low": {"dtype": "image", "shape": [3, height, width], "names": ["channels", "h", "w"]},
        "observation.images.depth": {"dtype": "video", "shape": [height, width, 1], "names": None},
        "next.success": {"dtype": "bool", "shape": [1], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{
            key: {"dtype": "int64", "shape": [1], "names": None}
            for key in ("frame_index", "episode_index", "index", "task_index")
        },
    }
    info = {
        "codebase_version": "v2.1",
        "total_episodes": len(made),
        "total_frames": sum(map(len, made)),
        "chunks_size": 1000,
        "fps": FPS,
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    }
    (root / "meta").mkdir()
    (root / INFO).write_text(json.dumps(info))
    for name, rows in lists.items():
        (root / f"meta/{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def made(make_episode) -> list[Episode]:
    return [make_episode(seed, length=6 + seed, size=(16, 24)) for seed in range(3)]


@pytest.fixture(scope="module")
def original2(made: list[Episode], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_version2(tmp_path_factory.mktemp("lerobot") / "two", made)


@pytest.fixture
def version2(original2: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original2, tmp_path / "two"))


@pytest.fixture
def version3(made: list[Episode], tmp_path: Path) -> Path:
    """Two groups, so that videos and rows begin within files."""
    labels = ("m (delta)", "rad (absolute)", "whatever")
    store = EpisodeStore.create(tmp_path / "three", StoreSpec.like(made[0], ("x", "y", "grip"), labels))
    store.append(made[:2])
    store.append(made[2:])
    return store.path


def test_version_2_gives_every_camera_and_column(version2: Path, made: list[Episode]) -> None:
    found = recordings(version2)
    assert [recording.camera for recording in found] == ["top", "low"] * 3
    assert found[0].action.names == ("x", "y", "grip")
    assert set(found[0].action.units) == {"not declared by the source (unknown)"}
    for number, recording in enumerate(found):
        expected, episode = made[number // 2], recording.load()
        np.testing.assert_array_equal(episode.frames, expected.frames[:, :: 1 if recording.camera == "top" else -1])
        np.testing.assert_array_equal(episode.actions, expected.actions)
        assert episode.extras.keys() == {"observation.state"}
        np.testing.assert_array_equal(episode.extras["observation.state"], expected.extras["observation.state"])
        about = (episode.instruction, episode.success, episode.fps, episode.source)
        assert about == (("push", "pull")[number // 2 % 2], number > 1, FPS, "lerobot")


def test_a_store_of_ours_comes_back_as_it_is(version3: Path) -> None:
    [*found] = recordings(version3)
    assert [column.kind.value for column in found[0].action.columns] == ["delta", "absolute", "unknown"]
    assert found[0].action.units == ("m (delta)", "rad (absolute)", "whatever (unknown)")
    for recording, expected in zip(found, EpisodeStore.open(version3), strict=True):
        episode = recording.load()
        for name in ("frames", "actions"):
            np.testing.assert_array_equal(getattr(episode, name), getattr(expected, name))
        assert episode.extras.keys() == expected.extras.keys()
        for key, rows in expected.extras.items():
            np.testing.assert_array_equal(episode.extras[key], rows)
        for name in ("instruction", "success", "fps", "source", "camera"):
            assert getattr(episode, name) == getattr(expected, name)


def test_convert_takes_both_versions_by_their_names(version2: Path, version3: Path, tmp_path: Path) -> None:
    results = dict(VERB.run(ConvertConfig(src=str(version2), out=str(tmp_path / "out"), lossless=True)))
    assert (results["episodes"], results["cameras"], results["detail"]["format"]) == (6, 2, "lerobot")
    VERB.run(ConvertConfig(src=str(version3), out=str(tmp_path / "again"), size=[8, 12]))
    store = EpisodeStore.open(tmp_path / "again")
    assert (len(store), store.spec.height, store.spec.source) == (3, 8, "test")


def test_rows_of_all_episodes_in_one_piece(version3: Path, made: list[Episode]) -> None:
    """As pandas writes files: one row group, and the tasks under a name of its own."""
    for path in (version3 / "data").rglob("*.parquet"):
        pq.write_table(pq.read_table(path), path)
    tasks = pq.read_table(version3 / "meta/tasks.parquet")
    pq.write_table(tasks.rename_columns(["task_index", "__index_level_0__"]), version3 / "meta/tasks.parquet")
    for episode, expected in zip(episodes(version3), made, strict=True):
        np.testing.assert_array_equal(episode.actions, expected.actions)
        assert episode.instruction == expected.instruction


def test_several_tasks_of_one_episode_are_joined(version2: Path) -> None:
    edit_table(version2 / FIRST_DATA, task_index=pa.array([1, 1, 0, 0, 1, 1]))
    assert recordings(version2)[0].load().instruction == "pull; push"


def test_what_the_source_does_not_name_is_numbered_or_left_open(version2: Path) -> None:
    features = json.loads((version2 / INFO).read_text())["features"]
    features["action"]["names"] = ["x", "x", "grip"]
    del features["task_index"], features["next.success"]
    (version2 / "meta/tasks.jsonl").unlink()
    edit(version2 / INFO, features=features, codebase_version="v2.0")
    rows = [json.loads(line) for line in (version2 / "meta/episodes.jsonl").read_text().splitlines()]
    rows[0]["success"] = False
    (version2 / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = recordings(version2)
    assert found[0].action.names == ("action_0", "action_1", "action_2")
    assert [(e.instruction, e.success) for e in (found[0].load(), found[2].load())] == [("push", False), ("push", None)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"x": 2, "y": 0, "grip": 1}, ("y", "grip", "x")),
        ([["x", "y", "grip"]], ("x", "y", "grip")),
        (["x"], ("action_0", "action_1", "action_2")),
        ([1, 2, 3], ("action_0", "action_1", "action_2")),
        ({"x": {}, "y": 0, "grip": 1}, ("action_0", "action_1", "action_2")),
        (None, ("action_0", "action_1", "action_2")),
    ],
)
def test_names_come_in_several_forms(version2: Path, names: Any, expected: tuple[str, ...]) -> None:
    features = json.loads((version2 / INFO).read_text())["features"]
    edit(version2 / INFO, features={**features, "action": {**features["action"], "names": names}})
    assert recordings(version2)[0].action.names == expected


def test_times_may_be_off_by_a_little(version2: Path) -> None:
    edit_table(version2 / FIRST_DATA, timestamp=pa.array((np.arange(6) / FPS + 0.004).astype(np.float32)))
    assert len(recordings(version2)[0].load()) == 6


# -- bad input ------------------------------------------------------------------------------------------------------

Damage = Callable[[Path], str]


def info_with(message: str, **changes: Any) -> Damage:
    def damage(root: Path) -> str:
        edit(root / INFO, **changes)
        return rf"info\.json: {message}"

    return damage


def feature_with(message: str, key: str, **changes: Any) -> Damage:
    def damage(root: Path) -> str:
        features = json.loads((root / INFO).read_text())["features"]
        edit(root / INFO, features={**features, key: {**features[key], **changes}})
        return message

    return damage


def lines_with(message: str, name: str, change: Callable[[str], str]) -> Damage:
    def damage(root: Path) -> str:
        path = root / f"meta/{name}.jsonl"
        path.write_text(change(path.read_text()))
        return message

    return damage


def column_with(message: str, **columns: Any) -> Damage:
    def damage(root: Path) -> str:
        edit_table(root / FIRST_DATA, **columns)
        return message

    return damage


def no_file(name: str) -> Damage:
    def damage(root: Path) -> str:
        (root / name).unlink()
        return f"{Path(name).name}: expected .*, found nothing there"

    return damage


def cut_file(name: str) -> Damage:
    def damage(root: Path) -> str:
        path = root / name
        path.write_bytes(path.read_bytes()[:-400])
        return f"{path.name}: expected "

    return damage


def text_of_info(text: str, message: str) -> Damage:
    def damage(root: Path) -> str:
        (root / INFO).write_text(text)
        return rf"info\.json: {message}"

    return damage


def video_of(length: int, message: str, size: tuple[int, int] = (16, 24), fps: float = FPS) -> Damage:
    def damage(root: Path) -> str:
        video.encode(root / FIRST_VIDEO, np.zeros((length, *size, 3), np.uint8), fps, VideoCodec())
        return rf"episode_000000\.mp4: {message}"

    return damage


TIMES = pa.array([0.0, 0.1, 0.2, 0.35, 0.4, 0.5], pa.float32())
IMAGES = [{"bytes": b"no image", "path": ""}] * 6
IMAGE_TYPE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
ELSEWHERE = pa.array([{"bytes": None, "path": "/etc/passwd"}] * 6, IMAGE_TYPE)
RAGGED = pa.array([[1.0], [1.0] * 5, *[[1.0] * 3] * 4])

DAMAGE = {
    "version": info_with(r"codebase_version: expected v2\.0, v2\.1, v3\.0, found 'v1\.6'", codebase_version="v1.6"),
    "fps": info_with("fps: expected a rate", fps="fast"),
    "no fps": info_with("fps: expected a rate", fps=0),
    "counts": info_with("total_frames: expected a count, found -1", total_frames=-1),
    "absolute path": info_with("data_path: expected a path below", data_path="/etc/{episode_index}.parquet"),
    "path upwards": info_with("data_path: expected a path below", data_path="data/../../{episode_index}.parquet"),
    "odd field": info_with("data_path: expected a path with", data_path="data/{episode_index.__class__}"),
    "odd index": info_with("data_path: expected a path with", data_path="data/{episode_index[0]}"),
    "odd conversion": info_with("data_path: expected a path with", data_path="data/{episode_index!r}"),
    "wide format": info_with("data_path: expected a path with", data_path="data/{episode_index:099999999d}"),
    "nested format": info_with("data_path: expected a path with", data_path="data/{episode_index:{episode_chunk}}"),
    "open brace": info_with("data_path: expected a path with", data_path="data/{episode_index"),
    "zero byte": info_with("data_path: expected a path below", data_path="data/\0{episode_index}"),
    "path no text": info_with("data_path: expected a path with", data_path=5),
    "no video path": info_with("video_path: expected a path", video_path=None),
    "no features": info_with("features: expected an object", features=[]),
    "odd features": info_with("features: 'action': expected a dtype", features={"action": 3}),
    "odd shape": feature_with(r"features: 'action': shape: expected a count, found 'x'", "action", shape=["x"]),
    "no action": feature_with("features: expected action, a vector of floats", "action", dtype="int64"),
    "other width": feature_with("column action: expected 4 floats in a row, none empty, found 3", "action", shape=[4]),
    "no JSON": text_of_info("{", "expected valid UTF-8 JSON"),
    "not a number": text_of_info('{"fps": NaN}', "expected valid UTF-8 JSON, found: NaN"),
    "infinity": text_of_info('{"fps": -Infinity}', "expected valid UTF-8 JSON, found: -Infinity"),
    "no object": text_of_info("[]", "expected an object, found a list"),
    "deep": text_of_info('{"a":' + "[" * 100_000, "expected valid UTF-8 JSON"),
    "absurd size": text_of_info(" " * (MOST_JSON_BYTES + 1), f"expected at most {MOST_JSON_BYTES} bytes"),
    "no list": no_file("meta/episodes.jsonl"),
    "no tasks": no_file("meta/tasks.jsonl"),
    "no rows": no_file(FIRST_DATA),
    "no video": no_file(FIRST_VIDEO),
    "cut rows": cut_file(FIRST_DATA),
    "cut video": cut_file(FIRST_VIDEO),
    "an episode less": lines_with(
        "expected 3 episodes and 21 frames .*, found 2 and 13", "episodes", lambda text: text[: text.rindex('{"')]
    ),
    "an episode twice": lines_with(
        "expected each episode once", "episodes", lambda text: text.replace('"episode_index": 1', '"episode_index": 0')
    ),
    "odd number": lines_with(
        r"episode 1: episode_index: expected a count, found '\.\.'",
        "episodes",
        lambda text: text.replace('"episode_index": 1', '"episode_index": ".."'),
    ),
    "other length": lines_with(
        r"episode_000000\.parquet: expected 5 rows of episode 0, found 6",
        "episodes",
        lambda text: text.replace('"length": 6', '"length": 5').replace('"length": 7', '"length": 8'),
    ),
    "list no JSON": lines_with("jsonl: line 1: expected valid UTF-8 JSON", "tasks", lambda text: "}" + text),
    "unknown task": column_with("task_index: expected one of the 2 known tasks, found 9", task_index=pa.array([9] * 6)),
    "no action column": column_with("column action: expected it, found no such column", action=None),
    "text actions": column_with("column action: expected 3 floats", action=pa.array([["a", "b", "c"]] * 6)),
    "ragged actions": column_with("column action: expected 3 floats", action=RAGGED),
    "empty action": column_with("column action: expected no empty cells", action=pa.array([None, *[[1.0] * 3] * 5])),
    "endless action": column_with("expected finite numbers, found inf", action=pa.array([[1e300, 0.0, 0.0]] * 6)),
    "no times": column_with("timestamp: expected 0.0000 s in row 0", timestamp=pa.array([float("nan")] * 6)),
    "late row": column_with(r"timestamp: expected 0\.3000 s in row 3 .* found 0\.35", timestamp=TIMES),
    "rows out of order": column_with(
        "frame_index: expected 2 in row 2 of the episode, found 3", frame_index=pa.array([0, 1, 3, 2, 4, 5])
    ),
    "rows of another": column_with("expected 6 rows of episode 0, found 0", episode_index=pa.array([1] * 6)),
    "short video": video_of(5, "expected 6 frames, one a row, found 5"),
    "long video": video_of(7, "expected 6 frames, one a row, found 7"),
    "small video": video_of(6, "expected frames of 16 × 24, found 8 × 8", (8, 8)),
    "fast video": video_of(6, r"expected frame 1 at 0\.1000 s, found it at 0\.0500 s", fps=20),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_what_contradicts_itself_is_refused(version2: Path, damage: Damage) -> None:
    message = damage(version2)
    with pytest.raises(RoboAlignError, match=message):
        recordings(version2)[0].load()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (pa.array(IMAGES), "row 0: expected a whole PNG or JPEG image, found"),
        (pa.array([png(np.zeros((16, 23, 3), np.uint8))] * 6), "row 0: expected 16 × 24 RGB, found 16 × 23 RGB"),
        (pa.array([png(np.zeros((16, 24), np.uint8))] * 6), "row 0: expected 16 × 24 RGB, found 16 × 24 L"),
        (ELSEWHERE, "expected every image in the file itself"),
        (pa.array(["frame.png"] * 6), "expected images as bytes, found string"),
    ],
    ids=["damaged", "size", "grey", "elsewhere", "paths"],
)
def test_images_that_make_no_sense_are_refused(version2: Path, images: pa.Array, message: str) -> None:
    edit_table(version2 / FIRST_DATA, **{"observation.images.low": images})
    with pytest.raises(RoboAlignError, match=rf"observation\.images\.low: {message}"):
        recordings(version2)[1].load()


EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TOP = "videos/observation.images.front"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({f"{TOP}/to_timestamp": pa.array([1.6, 1.3])}, "front: expected 6 frames at 10 per second, found 0.0 to 1.6"),
        (
            {f"{TOP}/from_timestamp": pa.array([0.03, 0.6]), f"{TOP}/to_timestamp": pa.array([0.63, 1.3])},
            r"mp4: expected frame 0 at 0\.0300 s, found it at 0\.0000 s",
        ),
        (
            {f"{TOP}/from_timestamp": pa.array([0.8, 0.6]), f"{TOP}/to_timestamp": pa.array([1.4, 1.3])},
            r"mp4: expected 6 frames from 0\.8000 s on, found 5",
        ),
        ({f"{TOP}/from_timestamp": pa.array([1e300, 0.6])}, "from_timestamp: expected a time in seconds, found 1e"),
        ({f"{TOP}/to_timestamp": pa.array([float("nan"), 0.6])}, "to_timestamp: expected a time in seconds, found nan"),
        ({"data/file_index": pa.array([-1, 0])}, "data/file_index: expected a count, found -1"),
        ({"data/file_index": pa.array([77, 0])}, r"file-077\.parquet: expected a parquet file, found nothing there"),
        ({"dataset_to_index": pa.array([9, 13])}, r"expected 6 rows \(length\), found 0 to 9"),
        ({"tasks": pa.array([5, 6])}, "tasks: expected a list of texts, found 5"),
        ({"length": None}, "column length: expected it, found no such column"),
    ],
)  # fmt: skip
def test_lists_of_version_3_that_make_no_sense_are_refused(
    version3: Path, columns: dict[str, Any], message: str
) -> None:
    edit_table(version3 / EPISODES, **columns)
    with pytest.raises(RoboAlignError, match=message):
        recordings(version3)[0].load()


def test_a_key_that_leads_out_of_the_folder_is_refused(version2: Path) -> None:
    features = json.loads((version2 / INFO).read_text())["features"]
    features["../../../../top"] = features.pop("observation.images.top")
    edit(version2 / INFO, features=features)
    with pytest.raises(RoboAlignError, match="video_path: expected a path below"):
        recordings(version2)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("{}:!.[]/0d39 episode_indexchunk\\"), max_size=40))
def test_templates_are_refused_or_stay_below_the_folder(text: str) -> None:
    try:
        path = PathTemplate("here", text, ("episode_chunk", "episode_index"))
    except RoboAlignError:
        return
    found = path.path(Path("/root"), episode_chunk=3, episode_index=14)
    assert found.is_relative_to("/root")
    assert ".." not in found.parts


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from([INFO, "meta/episodes.jsonl", "meta/tasks.jsonl", FIRST_DATA, FIRST_VIDEO]),
    place=st.floats(0, 1),
    junk=st.binary(min_size=1, max_size=24),
)
def test_damaged_files_are_read_or_refused(
    original2: Path, tmp_path_factory: pytest.TempPathFactory, name: str, place: float, junk: bytes
) -> None:
    root = tmp_path_factory.getbasetemp() / "fuzzed"
    if not root.exists():
        shutil.copytree(original2, root)
    whole = (original2 / name).read_bytes()
    start = int(place * len(whole))
    (root / name).write_bytes(whole[:start] + junk + whole[start + len(junk) :])
    try:
        for recording in recordings(root)[:2]:
            recording.load()
    except RoboAlignError:
        pass
    finally:
        (root / name).write_bytes(whole)
