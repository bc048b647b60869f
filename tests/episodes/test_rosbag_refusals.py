"""Bags and settings that make no sense: one clear error each."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roboalign_core.configs import config_dir
from roboalign_core.episodes.convert import VERB, ConvertConfig
from roboalign_core.episodes.readers import choose_reader
from roboalign_core.errors import RoboAlignError

from .bags import (
    ACTIONS,
    CAMERA,
    COMMANDS,
    JOINTS,
    MCAP,
    MS,
    PIXELS,
    SQLITE,
    TOPICS,
    Message,
    at,
    coded,
    command,
    convert,
    header,
    image,
    joints,
    load,
    make,
    record,
    told,
    write,
)


@pytest.fixture
def recorded() -> list[Message]:
    return record()


@pytest.mark.parametrize("plugin", [MCAP, SQLITE], ids=["mcap", "db3"])
@pytest.mark.parametrize("left", [0.0, 0.3, 0.7, 0.98])
def test_cut_off_recordings_are_refused(tmp_path: Path, recorded: list[Message], plugin: Any, left: float) -> None:
    bag = write(tmp_path / "bag", recorded, plugin)
    [file] = [*bag.glob("*.mcap"), *bag.glob("*.db3")]
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * left)])
    with pytest.raises(RoboAlignError, match=r"^/.*bag/bag\.(mcap|db3): expected a whole recording.* found.*reindex"):
        load(bag)


def test_a_damaged_bag_is_left_out_on_request(tmp_path: Path, recorded: list[Message]) -> None:
    for name in ("a", "b"):
        write(tmp_path / "bags" / name, recorded)
    (tmp_path / "bags/a/a.mcap").write_bytes(b"")
    (tmp_path / "topics.yaml").write_text(yaml.safe_dump({**TOPICS, "episode": {"topic": "/absent"}}))
    (tmp_path / "good.yaml").write_text(yaml.safe_dump(TOPICS))
    config = ConvertConfig(src=str(tmp_path / "bags"), out=str(tmp_path / "out"), options=str(tmp_path / "good.yaml"))
    config.skip_bad = True
    results = VERB.run(config)
    assert (results["episodes"], results["skipped"]) == (1, 1)
    config.options, config.out = str(tmp_path / "topics.yaml"), str(tmp_path / "out2")
    with pytest.raises(RoboAlignError, match="expected at least one whole episode"):
        VERB.run(config)
    config.skip_bad = False
    with pytest.raises(RoboAlignError, match=r"bags/a: front: /.*/bags/a/a.mcap: expected a whole recording"):
        VERB.run(config)
    assert not (tmp_path / "out2").exists()


@pytest.fixture(scope="module", params=[MCAP, SQLITE], ids=["mcap", "db3"])
def victim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one file of a bag, small, and not compressed: more of its bytes matter."""
    folder = tmp_path_factory.mktemp("victim")
    small = [image(0, PIXELS[0, :2, :2]), joints(50, [1, 2]), image(100, PIXELS[1, :2, :2]), joints(150, [3, 4])]
    bag = write(folder / "bag", [*small, image(200, PIXELS[2, :2, :2])], request.param)
    [file] = [*bag.glob("*.mcap"), *bag.glob("*.db3")]
    return file


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), junk=st.binary(min_size=1, max_size=24))
def test_damaged_bags_are_read_or_refused(victim: Path, place: float, junk: bytes) -> None:
    before = victim.read_bytes()
    content = bytearray(before)
    start = int(place * len(before))
    content[start : start + len(junk)] = junk[: len(before) - start]
    victim.write_bytes(content)
    try:
        [episode] = load(victim.parent, gaps="hold", gap=1)
    except RoboAlignError:
        pass
    else:
        assert episode.frames.shape[1:] == (2, 2, 3)
        assert np.isfinite(episode.actions).all()
    finally:
        victim.write_bytes(before)


def metadata(bag: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
    return content


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["../../etc/passwd.mcap"], r"relative_file_paths: expected files of this folder, found '../../etc"),
        (["../other.mcap"], r"relative_file_paths: expected files of this folder, found '../other.mcap'"),
        (["/etc/passwd"], r"relative_file_paths: expected files of this folder, found '/etc/passwd'"),
        (["a/b/c.mcap"], r"relative_file_paths: expected files of this folder"),
        (["other.mcap"], r"bag/other.mcap: expected a file of a recording, found nothing there"),
        ([], r"metadata.yaml: expected rosbag2_bagfile_information with relative_file_paths"),
        (7, r"metadata.yaml: expected rosbag2_bagfile_information with relative_file_paths"),
    ],
)
def test_metadata_lead_nowhere_else(tmp_path: Path, recorded: list[Message], paths: object, message: str) -> None:
    bag = write(tmp_path / "bag", recorded)
    content = {"rosbag2_bagfile_information": {**metadata(bag), "relative_file_paths": paths}}
    (bag / "metadata.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(RoboAlignError, match=message):
        load(bag)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [touch /tmp/owned]",
        "[" * 500,
        "\0",
        "a: &a [*a",
        "rosbag2_bagfile_information",
    ],
)
def test_hostile_yaml_is_refused(tmp_path: Path, recorded: list[Message], text: str) -> None:
    bag = write(tmp_path / "bag", recorded)
    (tmp_path / "hostile.yaml").write_text(text)
    with pytest.raises(RoboAlignError, match=r"hostile.yaml: expected"):
        choose_reader(bag, options=tmp_path / "hostile.yaml")
    (bag / "metadata.yaml").write_text(text)
    with pytest.raises(RoboAlignError, match=r"bag/metadata.yaml: expected"):
        load(bag)
    assert not Path("/tmp/owned").exists()


def test_topics_must_be_told(tmp_path: Path, recorded: list[Message]) -> None:
    bag = write(tmp_path / "bag", recorded)
    with pytest.raises(
        RoboAlignError, match=r"expected options=FILE.yaml.*topics: /commands \(sensor_msgs/msg/JointState\)"
    ):
        VERB.run(ConvertConfig(src=str(bag), out=str(tmp_path / "out")))
    with pytest.raises(RoboAlignError, match=r"absent.yaml: expected a YAML file, found nothing there"):
        VERB.run(ConvertConfig(src=str(bag), out=str(tmp_path / "out"), options="absent.yaml"))


def test_other_formats_take_no_options(tmp_path: Path) -> None:
    np.savez(tmp_path / "0.npz", image=np.zeros((2, 64, 64, 3), np.uint8))
    with pytest.raises(RoboAlignError, match=r"format rt1 takes none, found topics.yaml"):
        VERB.run(ConvertConfig(src=str(tmp_path), out=str(tmp_path / "out"), options="topics.yaml"))


def test_the_example_is_understood(tmp_path: Path, recorded: list[Message]) -> None:
    bag = write(tmp_path / "bag", recorded)
    with pytest.raises(RoboAlignError, match="expected topic /front/color/image_raw, found /commands"):
        convert(bag, **yaml.safe_load((config_dir() / "rosbag/arm.yaml").read_text()))


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"speed": 1}, r"topics.yaml: expected among the keys actions, .*; found 'speed'"),
    ({"cameras": {"front": {"topic": CAMERA, "encoding": "rgb8"}}}, r"cameras: front: .* keys topic; found 'encoding'"),
    ({"actions": [{**command("position[0]"), "scale": 2}]}, r"actions\[0\]: expected among .* found 'scale'"),
    ({"cameras": {1: {"topic": CAMERA}}}, r"cameras: expected among the keys none; found 1"),
    ({"rate": None}, "rate: expected a number from 0.001 to 1000, found nothing"),
    ({"rate": 0}, "rate: expected a number from 0.001 to 1000, found 0"),
    ({"rate": True}, "rate: expected a number"),
    ({"rate": float("nan")}, "rate: expected a number"),
    ({"rate": 10**400}, "rate: expected a number"),
    ({"gap": 0.05}, "gap: expected at least 0.1 s, a frame, found 0.05"),
    ({"gaps": "bridge"}, "gaps: expected refuse or hold, found 'bridge'"),
    ({"cameras": {}}, "expected at least one camera and one action"),
    ({"cameras": {"front": None}}, "cameras: front: expected keys and values, found None"),
    ({"actions": []}, "expected at least one camera and one action"),
    ({"actions": [command("position[0]")] * 2}, "action columns: expected each name once, found a, a"),
    (
        {"actions": [command("position[0]", kind="speed")]},
        "kind: expected absolute or delta or velocity, found 'speed'",
    ),
    ({"actions": [command("position[0")]}, r"expected a path like .* found 'position\[0'"),
    ({"actions": [command("__class__")]}, r"expected a path like .* found '__class__'"),
    ({"actions": {"a": 1}}, "actions: expected a list, found"),
    ({"frames": "wrist"}, "frames: expected one of front, found wrist"),
    ({"state": [{"topic": JOINTS, "field": "position[0]", "name": "a"}] * 2}, "state: expected each name once"),
    ({"instruction": {"text": "a", "topic": "/b"}}, "expected one of text, file and topic, found text and topic"),
    ({"instruction": {"file": "../secret"}}, "expected the name of a file in each bag's folder, found '../secret'"),
    ({"instruction": {"file": ".."}}, "expected the name of a file in each bag's folder"),
    ({"instruction": "pick"}, "instruction: expected keys and values, found 'pick'"),
    ({"unstamped": ["/absent"]}, "unstamped: expected topics that are read, found /absent"),
    ({"cameras": {"front": {"topic": "/absent"}}}, r"expected topic /absent, found /commands \(sensor_msgs/msg/Joint"),
    (
        {"cameras": {"front": {"topic": COMMANDS}}},
        "camera front: /commands: expected sensor_msgs/msg/Image or .*, found",
    ),
    ({"actions": [command("positon[0]")]}, "field positon.*: expected one of header, name, position, .* found positon"),
    ({"actions": [command("position[2]")]}, r"message 0: field position\[2\]: expected an element 2, found 2 in all"),
    ({"actions": [command("position[c]")]}, r"expected c among the names, found \['a', 'b'\]"),
    ({"actions": [command("position")]}, "field position: expected a finite number, found 2 values: say which"),
    ({"actions": [command("name[0]")]}, "expected a finite number, found 'a'"),
    ({"actions": [command("header")]}, "expected a finite number, found std_msgs__msg__Header"),
    ({"actions": [command("header.stamp.sec[0]")]}, r"expected a list before \[0\], found 1700000000"),
    ({"actions": [command("position.x")]}, "expected none, for this is 2 values"),
    ({"success": {"topic": COMMANDS, "field": "position[0]"}}, "expected one use, found two that differ"),
    ({"success": {"topic": COMMANDS, "field": "header.frame_id"}}, "expected true or false, found 'base'"),
]


@pytest.mark.parametrize(("changes", "message"), SETTINGS, ids=[message[:40] for _, message in SETTINGS])
def test_settings_that_make_no_sense_are_refused(
    tmp_path: Path, recorded: list[Message], changes: dict[str, Any], message: str
) -> None:
    bag = write(tmp_path / "bag", recorded[:4])
    with pytest.raises(RoboAlignError, match=message):
        load(bag, **changes)


def test_cameras_that_cannot_be_folders_are_refused(tmp_path: Path, recorded: list[Message]) -> None:
    with pytest.raises(RoboAlignError, match="camera: expected a name of letters"):
        convert(write(tmp_path / "bag", recorded), cameras={"../x": {"topic": CAMERA}})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bag", "topics.yaml"]


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "topics.yaml").write_text("cameras:\n  front: {topic: /a}\n  front: {topic: /b}\n")
    write(tmp_path / "bag", [told("/a", 0, 1)])
    with pytest.raises(RoboAlignError, match="the key 'front' stands here twice"):
        choose_reader(tmp_path / "bag", options=tmp_path / "topics.yaml")


BROKEN: list[tuple[Message, str]] = [
    (image(300, np.zeros((16, 24, 2), np.uint8), "yuv422"), "message 3: expected encoding rgb8, .* found 'yuv422'"),
    (image(300, np.zeros((16, 24, 1), np.uint8)), r"message 3: expected 16 rows of at least 72 bytes .* rows of 24"),
    (image(300, np.zeros((17, 24, 3), np.uint8)), r"message 3: expected \(16, 24\) pixels as before, found \(17, 24\)"),
    (joints(269, [float("nan"), 0]), r"/commands: message 2: field position\[0\]: expected a finite number, found nan"),
    (joints(269, [float("inf"), 0]), r"field position\[0\]: expected a finite number, found .*inf"),
    (joints(269, [1e300, 0]), r"field position\[0\]: expected a finite number, found .*1e\+300"),
    (joints(270, [9, 9]), r"/commands: expected one message a stamp, found different ones at 1700000000\.270"),
    ((CAMERA, at(300), make("std_msgs/msg/Bool", data=True)), "/front/image_raw: expected messages of one type"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "error"), BROKEN, ids=[error[:40] for _, error in BROKEN])
def test_messages_that_make_no_sense_are_refused(
    tmp_path: Path, recorded: list[Message], message: Message, error: str
) -> None:
    replaced = [other for other in recorded if not (message[0] == CAMERA and other[:2] == message[:2])]
    bag = write(tmp_path / "bag", sorted([*replaced, message], key=lambda item: item[1]))
    with pytest.raises(RoboAlignError, match=error):
        load(bag)


@pytest.mark.parametrize(
    "sizes", [(2**32 - 1,) * 3, (0, 24, 72), (16, 0, 72), (16, 24, 0), (2**31, 1, 3), (15, 24, 72), (16, 24, 80)]
)
def test_sizes_that_the_bytes_do_not_bear_out_are_refused(
    tmp_path: Path, recorded: list[Message], sizes: tuple[int, int, int]
) -> None:
    topic, received, content = image(0, np.zeros((16, 24, 3), np.uint8))
    content.height, content.width, content.step = sizes
    bag = write(tmp_path / "bag", [(topic, received, content), *recorded[1:]])
    with pytest.raises(RoboAlignError, match=r"/front/image_raw: message 0: expected (an image of 1 to|1. rows of)"):
        load(bag)


@pytest.mark.parametrize(
    ("form", "data", "message"),
    [
        ("jpeg", b"\xff\xd8\xff\xe0 no picture", "expected a whole JPEG or PNG image"),
        ("png", coded(np.zeros((16, 24, 3), np.uint8), "png")[:48].tobytes(), "expected a whole JPEG or PNG image"),
        ("png", coded(np.zeros((16, 24), np.uint16), "png").tobytes(), "expected a JPEG or PNG image in 8 bits"),
        ("jpeg", coded(np.zeros((16, 24, 3), np.uint8), "gif").tobytes(), "expected a whole JPEG or PNG image"),
        ("16UC1; compressedDepth png", b"", "expected a colour or grey image"),
    ],
    ids=["no_picture", "cut", "16_bits", "gif", "depth"],
)
def test_compressed_images_that_are_none_are_refused(
    tmp_path: Path, recorded: list[Message], form: str, data: bytes, message: str
) -> None:
    kind = "sensor_msgs/msg/CompressedImage"
    images = [
        (CAMERA, at(ms), make(kind, header=header(ms), format=form, data=np.frombuffer(data, np.uint8)))
        for ms in (0, 100, 200)
    ]
    bag = write(tmp_path / "bag", [*images, *(item for item in recorded if item[0] == COMMANDS)])
    with pytest.raises(RoboAlignError, match=f"/front/image_raw: message 0: {message}"):
        load(bag)


def test_gaps_are_refused_or_bridged(tmp_path: Path, recorded: list[Message]) -> None:
    without = [message for message in recorded if message[0] != CAMERA or not 150 < (message[1] - at(0)) / MS < 550]
    bag = write(tmp_path / "bag", without)
    with pytest.raises(
        RoboAlignError, match=r"image_raw: expected a message every 0.3 s \(gap\), found 1 silences, the "
    ):
        convert(bag, gap=0.3)
    [episode], results = convert(bag, gap=0.3, gaps="hold")
    np.testing.assert_array_equal(episode.frames, PIXELS[[0, 1, 1, 1, 1, 1, 6, 7]])
    np.testing.assert_array_equal(episode.actions, ACTIONS)
    [notes] = results["detail"]["notes"].values()
    assert notes == [
        f"{CAMERA}: 1 silences, the longest of 0.500 s, 0.100 s after the first frame, bridged",
        f"{CAMERA}: 4 of 8 frames repeat the image before",
    ]


def test_a_clock_that_jumps_is_refused(tmp_path: Path, recorded: list[Message]) -> None:
    def shifted(ms: float) -> list[Message]:
        """From 400 on, stamps are ``ms`` later; what was sent earlier is still received earlier."""
        first = [message for message in recorded if message[1] < at(350)]
        moved = [image(k * 100 + ms, np.zeros((16, 24, 3), np.uint8)) for k in range(4, 8)]
        moved += [joints(k * 100 - 30 + ms, [k, k]) for k in range(4, 8)]
        return [
            *first,
            *((topic, max(received, at(400 + k)), content) for k, (topic, received, content) in enumerate(moved)),
        ]

    with pytest.raises(RoboAlignError, match=r"stamped 9\.\d00 s before an earlier one: a clock was set back"):
        load(write(tmp_path / "back", shifted(-10_000)))
    with pytest.raises(RoboAlignError, match=r"found 1 silences, the longest of 10\.100 s"):
        load(write(tmp_path / "forth", shifted(10_000)), gap=1)
    with pytest.raises(RoboAlignError, match=r"expected at most 1000000 frames, found .* did a clock jump"):
        load(write(tmp_path / "far", shifted(300_000_000)), gap=1, gaps="hold")


def test_streams_that_do_not_meet_are_refused(tmp_path: Path, recorded: list[Message]) -> None:
    late = [joints(5000, [0, 0]), joints(5100, [0, 0])]
    bag = write(tmp_path / "bag", [*(message for message in recorded if message[0] == CAMERA), *late])
    error = r"two frames while all streams run, found 0: /front/image_raw 0.000 to 0.700 s, /commands 5.000 to 5.100 s"
    with pytest.raises(RoboAlignError, match=error):
        load(bag)


def test_an_unfinished_database_is_refused(tmp_path: Path, recorded: list[Message]) -> None:
    bag = write(tmp_path / "bag", recorded, SQLITE)
    (bag / "bag.db3-wal").write_bytes(b"more")
    with pytest.raises(
        RoboAlignError, match=r"bag.db3: expected a finished recording, found one with a write-ahead log"
    ):
        load(bag)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("string[99999999] position\n", "expected fields of plain values, found position"),
        ("float64[] position=__import__('os')\n", "expected the definition of a message, found"),
        ("missing_msgs/Thing position\n", "expected definitions of all types in it, found none of missing_msgs"),
        ("sensor_msgs/JointState position\n", "expected"),
        ("fixed position\n", "expected definitions of all types in it, found none of sensor_msgs/msg/fixed"),
        ("#" + "x" * (1 << 20), "expected a .msg of at most 1048576 letters"),
    ],
    ids=["long", "code", "unknown", "endless", "kind", "huge"],
)
def test_hostile_definitions_are_refused(tmp_path: Path, recorded: list[Message], change: str, message: str) -> None:
    bag = write(tmp_path / "bag", recorded, SQLITE)
    with sqlite3.connect(bag / "bag.db3") as database:
        where = "WHERE topic_type = 'sensor_msgs/msg/JointState'"
        database.execute(f"UPDATE message_definitions SET encoded_message_definition = ? {where}", (change,))
    with pytest.raises(RoboAlignError, match=f"(?s)sensor_msgs/msg/JointState: {message}|/commands: {message}"):
        load(bag)


def test_images_defined_in_another_way_are_refused(tmp_path: Path, recorded: list[Message]) -> None:
    bag = write(tmp_path / "bag", recorded, SQLITE)
    with sqlite3.connect(bag / "bag.db3") as database:
        column = "encoded_message_definition"
        database.execute(f"UPDATE message_definitions SET {column} = replace({column}, 'uint32 step', 'uint32 stop')")
    with pytest.raises(RoboAlignError, match="sensor_msgs/msg/Image: expected the fields that ROS gives it"):
        load(bag)


def test_a_type_named_like_code_is_refused(tmp_path: Path, recorded: list[Message]) -> None:
    bag = write(tmp_path / "bag", recorded, SQLITE)
    name = "a/msg/B:\n    import os\nclass C"
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE topics SET type = ? WHERE name = '/commands'", (name,))
        database.execute("UPDATE message_definitions SET topic_type = ? WHERE topic_type LIKE '%JointState'", (name,))
    with pytest.raises(RoboAlignError, match=r"(?s)a/msg/B.*expected the definition of a message"):
        load(bag)


def test_types_without_a_definition(tmp_path: Path, recorded: list[Message]) -> None:
    """As recordings of ROS 2 Humble hold none: ROS' own types are known, others are not."""
    bag = write(tmp_path / "bag", recorded, SQLITE)
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("DELETE FROM message_definitions")
    [episode], _ = convert(bag)
    np.testing.assert_array_equal(episode.frames, PIXELS)
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE topics SET type = 'my_msgs/msg/Joints' WHERE name = '/commands'")
    with pytest.raises(RoboAlignError, match="my_msgs/msg/Joints: expected a definition in the recording"):
        load(bag)
