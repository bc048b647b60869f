"""Bags as `ros2 bag record` makes them, written with rosbags' own writer; and their conversion."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image as Pillow

from roboalign_core.episodes import EpisodeStore
from roboalign_core.episodes.convert import VERB, ConvertConfig
from roboalign_core.episodes.readers import choose_reader

rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="needs the extra rosbag")
from rosbags.typesys import Stores, get_typestore  # noqa: E402

MS = 1_000_000
START = 1_700_000_000_000 * MS
DELAY = 7 * MS  # from stamp to receipt
TYPES = get_typestore(Stores.ROS2_JAZZY)
CAMERA, COMMANDS, JOINTS = "/front/image_raw", "/commands", "/joint_states"
MCAP, SQLITE = rosbag2.StoragePlugin.MCAP, rosbag2.StoragePlugin.SQLITE3

Message = tuple[str, int, Any]  # topic, time of receipt, message


def make(kind: str, **fields: Any) -> Any:
    return TYPES.types[kind](**fields)


def header(ms: float) -> Any:
    seconds, rest = divmod(START + round(ms * MS), 1000 * MS)
    return make(
        "std_msgs/msg/Header", stamp=make("builtin_interfaces/msg/Time", sec=seconds, nanosec=rest), frame_id="base"
    )


def at(ms: float) -> int:
    return START + round(ms * MS) + DELAY


def image(ms: float, pixels: np.ndarray, encoding: str = "rgb8", topic: str = CAMERA, padding: int = 0) -> Message:
    rows = np.pad(pixels.reshape(len(pixels), -1), ((0, 0), (0, padding)), constant_values=77)
    content = make(
        "sensor_msgs/msg/Image", header=header(ms), height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
        is_bigendian=0, step=rows.shape[1], data=rows.reshape(-1),
    )  # fmt: skip
    return (topic, at(ms), content)


def joints(ms: float, values: list[float], names: tuple[str, ...] = ("a", "b"), topic: str = COMMANDS) -> Message:
    empty = np.empty(0)
    content = make(
        "sensor_msgs/msg/JointState", header=header(ms), name=list(names), position=np.array(values, np.float64),
        velocity=empty, effort=empty,
    )  # fmt: skip
    return (topic, at(ms), content)


def twist(ms: float, x: float) -> Message:
    vectors = [make("geometry_msgs/msg/Vector3", x=value, y=0.0, z=0.0) for value in (x, 0.0)]
    content = make("geometry_msgs/msg/Twist", linear=vectors[0], angular=vectors[1])
    return (COMMANDS, at(ms), make("geometry_msgs/msg/TwistStamped", header=header(ms), twist=content))


def told(topic: str, ms: float, data: object) -> Message:
    kind = {bool: "Bool", str: "String", int: "Int32"}[type(data)]
    return (topic, at(ms), make(f"std_msgs/msg/{kind}", data=data))


def write(path: Path, messages: list[Message], plugin: Any = MCAP, packed: str = "", types: Any = TYPES) -> Path:
    writer = rosbag2.Writer(path, version=9, storage_plugin=plugin)
    if packed:
        writer.set_compression(rosbag2.CompressionMode[packed.upper()], rosbag2.CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for topic, received, content in messages:
            kind = content.__msgtype__
            if (topic, kind) not in connections:
                connections[topic, kind] = writer.add_connection(topic, kind, typestore=types)
            writer.write(connections[topic, kind], received, types.serialize_cdr(content, kind))
    return path


def command(field: str, name: str = "a", kind: str = "absolute", topic: str = COMMANDS) -> dict[str, str]:
    return {"topic": topic, "field": field, "name": name, "unit": "rad", "kind": kind}


TOPICS: dict[str, Any] = {
    "rate": 10,
    "cameras": {"front": {"topic": CAMERA}},
    "actions": [command("position[0]", "a"), command("position[b]", "b")],
}


def convert(bag: Path, **changes: Any) -> tuple[list[Any], dict[str, Any]]:
    """Episodes and results of a conversion without loss; ``changes`` are to the yaml file."""
    folder = bag.parent
    settings = {key: value for key, value in {**TOPICS, **changes}.items() if value is not None}
    (folder / "topics.yaml").write_text(yaml.safe_dump(settings))
    out = folder / f"out{len(list(folder.glob('out*')))}"
    config = ConvertConfig(src=str(bag), out=str(out), options=str(folder / "topics.yaml"), lossless=True)
    results = dict(VERB.run(config))
    return [episode for path in results["detail"]["stores"] for episode in EpisodeStore.open(path)], results


def load(bag: Path, **changes: Any) -> list[Any]:
    """Episodes as the reader gives them, without writing a store."""
    settings = {key: value for key, value in {**TOPICS, **changes}.items() if value is not None}
    (bag.parent / "topics.yaml").write_text(yaml.safe_dump(settings))
    reader = choose_reader(bag, options=bag.parent / "topics.yaml")
    return [recording.load() for recording in reader.recordings(bag)]


PIXELS = np.random.default_rng(0).integers(0, 256, (8, 16, 24, 3)).astype(np.uint8)


def coded(frame: np.ndarray, form: str) -> np.ndarray:
    """The bytes of a JPEG, PNG, …."""
    buffer = io.BytesIO()
    Pillow.fromarray(frame).save(buffer, form, quality=95)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def record() -> list[Message]:
    """Eight images at 10 Hz; commands 30 ms before the second to the last of them, that name their joints."""
    images = [image(100 * k, frame) for k, frame in enumerate(PIXELS)]
    commands = [joints(100 * k - 30, [k / 8, -k]) for k in range(1, 8)]
    return sorted([*images, *commands], key=lambda message: message[1])


ACTIONS = np.array([[k / 8, -k] for k in [*range(1, 8), 7]], np.float32)
