"""The reader of RLDS: with a stand-in for tensorflow-datasets, and with the package itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from roboalign_core.episodes import EpisodeStore
from roboalign_core.episodes.convert import VERB, ConvertConfig
from roboalign_core.episodes.readers import Recording, choose_reader
from roboalign_core.episodes.readers.rlds import episode_of_steps
from roboalign_core.episodes.readers.rlds_layout import Layout, read_layout, read_splits
from roboalign_core.errors import MissingExtraError, RoboAlignError

PREFIX = "tensorflow_datasets.core.features"
LENGTHS = {"train": (4, 5, 6), "val": (7,)}


def recordings(path: Path) -> list[Recording]:
    return list(choose_reader(path, "rlds").recordings(path))


def dictionary(**features: Any) -> dict[str, Any]:
    return {"pythonClassName": f"{PREFIX}.features_dict.FeaturesDict", "featuresDict": {"features": features}}


def tensor(dtype: str, *shape: int) -> dict[str, Any]:
    about = {"shape": {"dimensions": [str(length) for length in shape]} if shape else {}, "dtype": dtype}
    return {"pythonClassName": f"{PREFIX}.tensor_feature.Tensor", "tensor": about}


def image(*shape: int) -> dict[str, Any]:
    about = {"shape": {"dimensions": [str(length) for length in shape]}, "dtype": "uint8", "encodingFormat": "jpeg"}
    return {"pythonClassName": f"{PREFIX}.image_feature.Image", "image": about}


TEXT = {"pythonClassName": f"{PREFIX}.text_feature.Text", "text": {}}
STEP = dictionary(
    observation=dictionary(
        image=image(16, 24, 3),
        wrist_image=image(8, 8, 3),
        depth=tensor("float32", 16, 24),
        state=tensor("float32", 5),
        natural_language_embedding=tensor("float32", 512),
    ),
    action=tensor("float32", 7),
    reward=tensor("float32"),
    discount=tensor("float32"),
    is_terminal=tensor("bool"),
    language_instruction=TEXT,
)


def features(step: dict[str, Any]) -> dict[str, Any]:
    steps = {"pythonClassName": f"{PREFIX}.dataset_feature.Dataset", "sequence": {"feature": step}}
    return dictionary(steps=steps, episode_metadata=dictionary(file_path=TEXT))


def steps(split: str, number: int) -> list[dict[str, Any]]:
    length = LENGTHS[split][number]
    rng = np.random.default_rng(length)
    observations = [
        {
            "image": rng.integers(0, 256, (16, 24, 3)).astype(np.uint8),
            "wrist_image": np.full((8, 8, 3), 10 * length + t, np.uint8),
            "depth": np.zeros((16, 24), np.float32),
            "state": rng.normal(size=5).astype(np.float32),
            "natural_language_embedding": np.zeros(512, np.float32),
        }
        for t in range(length)
    ]
    return [
        {
            "observation": observation,
            "action": np.full(7, length + t / 8, np.float32),
            "reward": np.float32(t == length - 1),
            "discount": np.float32(1),
            "is_terminal": np.bool_(t == length - 1),
            "language_instruction": f"{split} it {number}".encode(),
        }
        for t, observation in enumerate(observations)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "toy/1.0.0"
    path.mkdir(parents=True)
    (path / "features.json").write_text(json.dumps(features(STEP)))
    splits = [
        {"name": name, "shardLengths": [str(len(lengths))], "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}"}
        for name, lengths in LENGTHS.items()
    ]
    (path / "dataset_info.json").write_text(json.dumps({"name": "toy", "fileFormat": "tfrecord", "splits": splits}))
    return path


@pytest.fixture
def layout(folder: Path) -> Layout:
    return read_layout(folder)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for tensorflow_datasets; the parts of splits that were opened."""
    parts: list[str] = []

    def as_dataset(split: str, shuffle_files: bool, read_config: Any) -> Any:
        assert not shuffle_files
        assert read_config == {"interleave_cycle_length": 1}
        parts.append(split)
        name, _, rest = split.partition("[")
        return ({"steps": iter(steps(name, n))} for n in range(int(rest.rstrip(":]")), len(LENGTHS[name])))

    module = SimpleNamespace(
        builder_from_directory=lambda path: SimpleNamespace(as_dataset=as_dataset),
        ReadConfig=dict,
        as_numpy=lambda rows: rows,
    )
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    return parts


def test_every_camera_of_every_split(folder: Path, opened: list[str], tmp_path: Path) -> None:
    results = dict(VERB.run(ConvertConfig(src=str(tmp_path / "toy"), out=str(tmp_path / "out"), fps=5, lossless=True)))
    assert (results["episodes"], results["cameras"], results["detail"]["format"]) == (8, 2, "rlds")
    assert opened == ["train[0:]", "val[0:]"]  # each split once, although two cameras asked
    store = EpisodeStore.open(tmp_path / "out/image")
    assert store.instructions == ["train it 0", "train it 1", "train it 2", "val it 0"]
    assert (store.lengths.tolist(), store.spec.fps) == ([4, 5, 6, 7], 5)
    assert np.isnan(store.success).all()
    assert store.spec.action_names[-1] == "action_6"
    assert store.spec.action_units[0] == "not declared by the source (unknown)"
    for episode, (split, number) in zip(store, [("train", 0), ("train", 1), ("train", 2), ("val", 0)], strict=True):
        expected = steps(split, number)
        np.testing.assert_array_equal(episode.frames, [step["observation"]["image"] for step in expected])
        np.testing.assert_array_equal(episode.actions, [step["action"] for step in expected])
        np.testing.assert_array_equal(episode.extras["reward"][:, 0], [step["reward"] for step in expected])
        state = episode.extras["observation.state"]
        np.testing.assert_array_equal(state, [step["observation"]["state"] for step in expected])
        assert episode.extras.keys() == {"reward", "observation.state"}
    wrist = EpisodeStore.open(tmp_path / "out/wrist_image")
    assert wrist[3].frames[6, 0, 0].tolist() == [76, 76, 76]


def test_episodes_in_any_order(folder: Path, opened: list[str]) -> None:
    found = {recording.name.split(": ")[1]: recording for recording in recordings(folder)}
    for name, length in (
        ("train 2, image", 6),
        ("train 0, wrist_image", 4),
        ("train 1, image", 5),
        ("val 0, image", 7),
    ):
        assert len(found[name].load()) == length
    assert opened == ["train[2:]", "train[0:]", "val[0:]"]


def test_a_rate_must_be_given(folder: Path, opened: list[str], tmp_path: Path) -> None:
    with pytest.raises(RoboAlignError, match=r"train 0, image: expected fps=…, frames per second"):
        VERB.run(ConvertConfig(src=str(folder), out=str(tmp_path / "out")))
    with pytest.raises(RoboAlignError, match="fps: expected a rate above 0 and up to 1000, found -5"):
        VERB.run(ConvertConfig(src=str(folder), out=str(tmp_path / "out"), fps=-5))


@pytest.mark.skipif(importlib.util.find_spec("tensorflow_datasets") is not None, reason="tensorflow-datasets is there")
def test_without_the_package_the_message_says_what_brings_it(folder: Path) -> None:
    with pytest.raises(MissingExtraError, match=r'pip install "roboalign\[rlds\]"'):
        recordings(folder)[0].load()


def test_actions_in_parts_and_instructions_as_they_come(folder: Path) -> None:
    """As in fractal20220817_data."""
    step = dictionary(
        observation=dictionary(image=image(4, 4, 3), natural_language_instruction=tensor("string")),
        action=dictionary(
            world_vector=tensor("float32", 3), gripper=tensor("float32"), terminate_episode=tensor("int32", 3)
        ),
    )
    (folder / "features.json").write_text(json.dumps(features(step)))
    layout = read_layout(folder)
    assert layout.meaning.names == ("gripper", "world_vector_0", "world_vector_1", "world_vector_2")
    rows = [
        {
            "observation": {"image": np.zeros((4, 4, 3), np.uint8), "natural_language_instruction": text},
            "action": {"world_vector": np.arange(3.0), "gripper": np.float32(9), "terminate_episode": np.zeros(3)},
        }
        for text in (b"pick", b"pick", b"place")
    ]
    episode = episode_of_steps("here", rows, layout, "image", "rlds")
    np.testing.assert_array_equal(episode.actions, [[9, 0, 1, 2]] * 3)
    assert episode.instruction == "pick; place"


# -- bad input ------------------------------------------------------------------------------------------------------


def no_image(rows: list[dict[str, Any]]) -> str:
    del rows[2]["observation"]["image"]
    return "expected observation/image in each step, found none"


def other_size(rows: list[dict[str, Any]]) -> str:
    rows[2]["observation"]["image"] = np.zeros((16, 23, 3), np.uint8)
    return r"observation/image: expected \(any, any, 3\) uint8 in each step, alike in all, found \(16, 23, 3\)"


def float_image(rows: list[dict[str, Any]]) -> str:
    for row in rows:
        row["observation"]["image"] = np.zeros((16, 24, 3), np.float32)
    return "observation/image: expected .* uint8 in each step, alike in all, found .* float32"


def other_width(rows: list[dict[str, Any]]) -> str:
    for row in rows:
        row["action"] = np.zeros(8, np.float32)
    return r"action: expected \(7\) float32 in each step, alike in all, found \(8,\) float32"


def whole_action(rows: list[dict[str, Any]]) -> str:
    rows[0]["action"] = np.zeros(7, np.int64)
    return "action: expected .* found .* int64"


def endless(rows: list[dict[str, Any]]) -> str:
    rows[1]["action"] = np.full(7, 1e300)
    return "actions: expected finite numbers, found inf at row 1"


def no_text(rows: list[dict[str, Any]]) -> str:
    rows[0]["language_instruction"] = b"\xff\xfe"
    return "language_instruction: expected UTF-8 text"


def no_steps(rows: list[dict[str, Any]]) -> str:
    rows.clear()
    return "observation/image: expected .* found no steps"


def one_step(rows: list[dict[str, Any]]) -> str:
    del rows[1:]
    return "frames: expected at least 2 frames, found 1"


@pytest.mark.parametrize(
    "damage",
    [no_image, other_size, float_image, other_width, whole_action, endless, no_text, no_steps, one_step],
)
def test_steps_that_make_no_sense_are_refused(layout: Layout, damage: Callable[[list[dict[str, Any]]], str]) -> None:
    rows = steps("train", 1)
    message = damage(rows)
    with pytest.raises(RoboAlignError, match=message):
        episode_of_steps("here", rows, layout, "image", "rlds")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dictionary(), "expected episodes with steps, found none"),
        (features(dictionary(action=tensor("float32", 7))), r"expected images \(H, W, 3\) .*, found 'action'"),
        (features(dictionary(observation=dictionary(image=image(4, 4, 1)))), "expected images"),
        (
            features(dictionary(observation=dictionary(image=image(4, 4, 3)), action=tensor("int32", 7))),
            "expected images .* and an action of floats, found 'action, observation/image'",
        ),
        (
            features(dictionary(action={"pythonClassName": "os.path", "tensor": {}})),
            "expected classes of tensorflow_datasets alone, found 'os.path'",
        ),
    ],
)
def test_features_that_make_no_sense_are_refused(folder: Path, content: dict[str, Any], message: str) -> None:
    (folder / "features.json").write_text(json.dumps(content))
    with pytest.raises(RoboAlignError, match=rf"features\.json: {message}"):
        recordings(folder)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"name": "train[3:]", "shardLengths": ["3"]}, r"splits: expected names and shardLengths, found 'train\[3:\]'"),
        ({"name": "train", "shardLengths": ["-3"]}, "shardLengths: expected counts, found '-3'"),
        ({"name": "train", "shardLengths": "3"}, "splits: expected names and shardLengths"),
        ({"name": "t", "filepathTemplate": "../{SPLIT}"}, "split t: expected files in this folder, found"),
        (5, "splits: expected names and shardLengths, found None"),
    ],
)
def test_splits_that_make_no_sense_are_refused(folder: Path, split: Any, message: str) -> None:
    (folder / "dataset_info.json").write_text(json.dumps({"splits": [split]}))
    with pytest.raises(RoboAlignError, match=rf"dataset_info\.json: {message}"):
        recordings(folder)


def test_more_episodes_than_can_be_listed_are_refused(folder: Path) -> None:
    splits = [{"name": name, "shardLengths": ["400000", "100000"]} for name in ("train", "val")]
    (folder / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    assert read_splits(folder) == {"train": 500_000, "val": 500_000}
    splits[1]["shardLengths"] = ["999999999999"]
    (folder / "dataset_info.json").write_text(json.dumps({"splits": splits}))
    with pytest.raises(RoboAlignError, match=r"json: shardLengths: expected at most 1000000 .* found 1000000499999"):
        read_splits(folder)


def test_records_that_are_fewer_or_damaged_are_refused(
    folder: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LENGTHS, "train", (4,))
    found = recordings(folder)
    assert len(found[0].load()) == 4
    with pytest.raises(
        RoboAlignError, match=r"train: expected more than 1 episodes \(dataset_info.json\), found no more"
    ):
        found[2].load()
    monkeypatch.setattr(sys.modules["tensorflow_datasets"], "as_numpy", lambda rows: 1 / 0)
    with pytest.raises(RoboAlignError, match=r"train 0: expected a record .*, found: division by zero"):
        found[0].load()


# -- the package itself ---------------------------------------------------------------------------------------------


def test_records_of_the_package_itself(tmp_path: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets", reason="needs the extra rlds")

    class Toy(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        __module__ = "__main__"  # otherwise the package looks for files of its own beside this test

        def _info(self) -> Any:
            kinds = tfds.features
            observation = {
                "image": kinds.Image(shape=(16, 24, 3), encoding_format="png"),
                "wrist_image": kinds.Image(shape=(8, 8, 3), encoding_format="png"),
                "depth": kinds.Tensor(shape=(16, 24), dtype=np.float32),
                "state": kinds.Tensor(shape=(5,), dtype=np.float32),
                "natural_language_embedding": kinds.Tensor(shape=(512,), dtype=np.float32),
            }
            step = {
                "observation": kinds.FeaturesDict(observation),
                "action": kinds.Tensor(shape=(7,), dtype=np.float32),
                "reward": kinds.Scalar(dtype=np.float32),
                "discount": kinds.Scalar(dtype=np.float32),
                "is_terminal": kinds.Scalar(dtype=np.bool_),
                "language_instruction": kinds.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=kinds.FeaturesDict({"steps": kinds.Dataset(step)}))

        def _split_generators(self, manager: Any) -> Any:
            return {split: self._generate_examples(split) for split in LENGTHS}

        def _generate_examples(self, split: str) -> Any:
            for number in range(len(LENGTHS[split])):
                yield number, {"steps": steps(split, number)}

    Toy(data_dir=str(tmp_path)).download_and_prepare()
    found = [recording.load() for recording in recordings(tmp_path)]
    made = {len(steps(split, n)): steps(split, n) for split, lengths in LENGTHS.items() for n in range(len(lengths))}
    assert sorted(len(episode) for episode in found) == [4, 4, 5, 5, 6, 6, 7, 7]
    for episode in found:
        expected = made[len(episode)]
        np.testing.assert_array_equal(episode.frames, [step["observation"][episode.camera] for step in expected])
        np.testing.assert_array_equal(episode.actions, [step["action"] for step in expected])
        assert episode.instruction.encode() == expected[0]["language_instruction"]
    [record] = tmp_path.rglob("toy-val.tfrecord*")
    record.write_bytes(record.read_bytes()[:-100])
    with pytest.raises(RoboAlignError, match="val 0: expected a record that tensorflow-datasets reads, found"):
        recordings(tmp_path)[-1].load()
