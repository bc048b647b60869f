"""The reader of CALVIN's folders, and of the pickle in them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roboalign_core.episodes import Episode, EpisodeStore
from roboalign_core.episodes.convert import VERB, ConvertConfig
from roboalign_core.episodes.readers import Recording, choose_reader
from roboalign_core.episodes.readers.pickles import Call, contents, read_object, whole_number
from roboalign_core.errors import RoboAlignError

FIRST, LENGTH = 358482, 12
INSTRUCTIONS = ["open the drawer", "lift the red block"]


def recordings(path: Path) -> list[Recording]:
    return list(choose_reader(path, "calvin").recordings(path))


def annotations(indx: Any, ann: Any = INSTRUCTIONS) -> dict[str, Any]:
    """As CALVIN's annotator collects them."""
    emb = np.random.default_rng(0).normal(size=(2, 1, 8)).astype(np.float32)
    return {"language": {"ann": ann, "task": ["a", "b"], "emb": emb}, "info": {"episodes": [], "indx": indx}}


def save(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    np.save(path, value, allow_pickle=True)


@pytest.fixture
def frames(make_episode) -> np.ndarray:
    return make_episode(length=LENGTH, size=(20, 20)).frames


@pytest.fixture
def play(tmp_path: Path, frames: np.ndarray) -> Path:
    """Twelve frames in two stretches, as CALVIN lays them out."""
    folder = tmp_path / "task_D_D/training"
    folder.mkdir(parents=True)
    for row, frame in enumerate(frames):
        np.savez_compressed(
            folder / f"episode_{FIRST + row:07d}.npz",
            rgb_static=frame,
            rgb_gripper=255 - frame[::2, ::2],
            depth_static=np.zeros((20, 20), np.float32),
            rel_actions=np.full(7, row / 12),
            actions=np.full(7, row + 0.5),
            robot_obs=np.arange(15) + row / 4,
            scene_obs=np.zeros(24),
        )
    np.save(folder / "ep_start_end_ids.npy", np.array([[FIRST, FIRST + 6], [FIRST + 7, FIRST + 11]]))
    return folder


@pytest.fixture
def told(play: Path) -> Path:
    first = np.int64(FIRST)
    save(play / "lang_annotations/auto_lang_ann.npy", annotations([(first + 1, first + 4), (first + 2, first + 9)]))
    return play


def test_annotated_stretches_become_episodes(told: Path, frames: np.ndarray, tmp_path: Path) -> None:
    results = dict(VERB.run(ConvertConfig(src=str(tmp_path / "task_D_D"), out=str(tmp_path / "out"), lossless=True)))
    assert (results["episodes"], results["cameras"], results["detail"]["format"]) == (4, 2, "calvin")
    static, gripper = (EpisodeStore.open(tmp_path / "out" / camera) for camera in ("static", "gripper"))
    assert static.instructions == gripper.instructions == INSTRUCTIONS
    assert (static.lengths.tolist(), static.spec.fps, np.isnan(static.success).all()) == ([4, 8], 30, True)
    assert static.spec.action_units[0] == "m x 50 (delta)"
    np.testing.assert_array_equal(static[0].frames, frames[1:5])
    np.testing.assert_array_equal(gripper[1].frames, 255 - frames[2:10, ::2, ::2])
    np.testing.assert_array_equal(static[0].actions[:, 6], np.arange(1, 5, dtype=np.float32) / np.float32(12))
    np.testing.assert_array_equal(static[0].extras["action.absolute"][:, 0], np.arange(1.5, 5))
    np.testing.assert_array_equal(static[0].extras["observation.state"][:, 1], 1 + np.arange(1, 5) / 4)
    assert static[0].extras["observation.environment_state"].shape == (4, 24)


def test_without_annotations_recorded_stretches_are_episodes(play: Path, frames: np.ndarray) -> None:
    found: list[Episode] = [recording.load() for recording in recordings(play)]
    assert [(len(episode), episode.camera, episode.instruction) for episode in found] == [
        (7, "static", ""), (7, "gripper", ""), (5, "static", ""), (5, "gripper", ""),
    ]  # fmt: skip
    np.testing.assert_array_equal(found[2].frames, frames[7:])


def test_one_camera_alone(play: Path) -> None:
    for file in play.glob("*.npz"):
        arrays = {key: array for key, array in np.load(file).items() if key != "rgb_gripper"}
        np.savez(file, **arrays)
    assert [recording.camera for recording in recordings(play)] == ["static", "static"]


# -- bad input ------------------------------------------------------------------------------------------------------


def rewrite(folder: Path, **changes: Any) -> None:
    file = folder / f"episode_{FIRST + 3:07d}.npz"
    arrays = {**np.load(file), **changes}
    np.savez(file, **{key: array for key, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rel_actions": np.zeros(6)}, r"rel_actions: expected \(7\) float32 or float64, found \(6,\) float64"),
        ({"rel_actions": np.zeros(7, np.int64)}, r"rel_actions: expected \(7\) float32 or float64, found .* int64"),
        ({"rel_actions": np.full(7, np.nan)}, "actions: expected finite numbers, found nan at row 3"),
        ({"rgb_static": np.zeros((20, 21, 3), np.uint8)}, r"rgb_static: expected \(20, 20, 3\) uint8, found \(20, 21"),
        ({"robot_obs": np.array([{}])}, r"expected an archive .*, found: robot_obs holds Python objects"),
        ({"scene_obs": None}, "expected an archive with .*scene_obs.*, found: .*scene_obs.npy"),
    ],
)  # fmt: skip
def test_frames_that_make_no_sense_are_refused(play: Path, changes: dict[str, Any], message: str) -> None:
    rewrite(play, **changes)
    with pytest.raises(RoboAlignError, match=message):
        recordings(play)[0].load()


def test_a_frame_that_is_missing_is_named(play: Path) -> None:
    (play / f"episode_{FIRST + 3:07d}.npz").unlink()
    with pytest.raises(RoboAlignError, match=r"episode_0358485\.npz: expected an archive of arrays, found nothing"):
        recordings(play)[0].load()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.array([[5, 5]]), "row 0: expected a first and a later last frame up to 9999999, found 5, 5"),
        (np.array([[-1, 5]]), "row 0: expected a first"),
        (np.array([[0, 10**7]]), "row 0: expected a first"),
        (np.array([[0, 5, 6]]), r"expected \(N, 2\) int64 or int32, found \(1, 3\)"),
        (np.array([[0.0, 5.0]]), r"expected \(N, 2\) int64 or int32, found \(1, 2\) float64"),
        (np.array([[{}, 5]], dtype=object), "holds Python objects, which are not unpacked"),
    ],
)
def test_stretches_that_make_no_sense_are_refused(play: Path, rows: np.ndarray, message: str) -> None:
    np.save(play / "ep_start_end_ids.npy", rows)
    with pytest.raises(RoboAlignError, match=rf"ep_start_end_ids\.npy: .*{message}"):
        recordings(play)


def test_hours_in_one_stretch_are_refused_before_they_are_read(play: Path) -> None:
    np.save(play / "ep_start_end_ids.npy", np.array([[FIRST, 9_000_000]]))
    with pytest.raises(
        RoboAlignError, match="expected at most 3579139 frames of this size in an episode, found 8641519"
    ):
        recordings(play)[0].load()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "found: no info"),
        ({"language": {}}, "found: no info"),
        (annotations([(1, 2)]), "found: zip"),
        (annotations([(1, 2), (1, 2, 3)]), "found: too many values"),
        (annotations([(1, 2), (1.0, 2)]), "found: a float in place of a whole number"),
        (annotations([(1, 2), (True, 2)]), "found: a bool in place of a whole number"),
        (annotations([(1, 2), np.arange(2)]), "found: a Call in place of a pair"),
        (annotations([(1, 2), (1, 2)], ["a", 5]), "found: an instruction that is no text"),
        (annotations([(1, 2), (1, 2)], "ab"), "found: a str in place of a list"),
        (annotations([(1, 2), (2, 1)]), "annotation 1: expected a first and a later last frame"),
    ],
)
def test_annotations_that_make_no_sense_are_refused(play: Path, value: Any, message: str) -> None:
    save(play / "lang_annotations/auto_lang_ann.npy", value)
    with pytest.raises(RoboAlignError, match=rf"auto_lang_ann\.npy: .*{message}"):
        recordings(play)


# -- pickles, which are never unpickled -----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_plain_data_reads_as_numpy_reads_it(tmp_path: Path, protocol: int) -> None:
    shared = ["same"]
    value = {
        "texts": ["ä", "b" * 300, *shared],
        "numbers": [0, -1, 255, 70_000, 1 << 40, 1.5, None, True, False],
        "pairs": [(1, 2), (), (1,), (1, 2, 3), (1, 2, 3, 4)],
        "again": [shared, shared],
        "bytes": b"x" * 300,
    }
    path = tmp_path / "x.npy"
    np.save(path, np.array(0))
    header = b"\x93NUMPY\x01\x00v\x00" + str({"descr": "|O", "fortran_order": False, "shape": ()}).ljust(117).encode()
    path.write_bytes(header + b"\n" + pickle.dumps(np.array(value, dtype=object), protocol=protocol))
    assert read_object(path) == np.load(path, allow_pickle=True).item() == value


def test_arrays_of_numbers_and_objects(tmp_path: Path) -> None:
    rows = np.arange(6, dtype=np.int32).reshape(3, 2)
    save(tmp_path / "x.npy", {"c": rows, "f": np.asfortranarray(rows), "big": rows.astype(">i8"), "one": rows[1, 1]})
    found = read_object(tmp_path / "x.npy")
    assert contents(found["c"]) == contents(found["f"]) == contents(found["big"]) == rows.tolist()
    assert whole_number(found["one"]) == 3
    save(tmp_path / "x.npy", {"objects": np.array(["a", "bc"], dtype=object), "texts": np.array(["a", "bc"])})
    found = read_object(tmp_path / "x.npy")
    assert contents(found["objects"]) == ["a", "bc"]
    with pytest.raises(ValueError, match="an array of other things than numbers"):
        contents(found["texts"])


class Calling:
    """What a pickle of an attacker holds."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class WithState:
    """A class of one's own, whose state a pickle sets."""


def test_nothing_in_a_pickle_is_called(play: Path, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    for caller in (Calling(os.system, f"touch {sign}"), Calling(eval, f"open({str(sign)!r}, 'w')"), WithState()):
        for value in (caller, {"language": {"ann": caller}}, annotations(caller)):
            save(play / "lang_annotations/auto_lang_ann.npy", value)
            with pytest.raises(
                RoboAlignError, match=r"plain data, found: the name (posix\.system|builtins\.eval|.*WithSt)"
            ):
                recordings(play)
    assert not sign.exists()
    np.load(play / "lang_annotations/auto_lang_ann.npy", allow_pickle=True)  # the last one is harmless


def header_and(pickled: bytes) -> bytes:
    text = str({"descr": "|O", "fortran_order": False, "shape": ()}).ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + pickled


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x03r\xff\xff\xff\x7f.",  # a memo of 2^31 places
        b"\x80\x03B\xff\xff\xff\xff.",  # four gigabytes of bytes
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x03]q\x00h\x00a.",  # a list that holds itself
        b"\x80\x03" + b"(" * 1000 + b".",
        b"\x80\x03(t",
        b"\x80\x03cposix\nsystem\nq\x00.",
        b"\x80\x03cnumpy\ndtype\n}b.",
        b"\x80\x03cnumpy\ndtype\n)R}b.",
        b"\x80\x03)]R.",
        b"\x80\x03}]K\x01s.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",
        b"\x80\x03P0\n.",  # a persistent name
        b"\x80\x02\x82\x01.",  # a registered extension
        b"",
        b".",
    ],
)
def test_programs_are_refused(tmp_path: Path, pickled: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(header_and(pickled))
    with pytest.raises(RoboAlignError, match=r"x\.npy: expected one pickled object of plain data, found"):
        read_object(tmp_path / "x.npy")


PLAIN = (dict, list, tuple, str, bytes, int, float, bool, type(None), Call)


@settings(max_examples=150, deadline=None)
@given(start=st.integers(100, 900), junk=st.binary(min_size=1, max_size=12))
@example(start=129, junk=b"\x80\x03r\xff\xff\xff\x7f")
def test_damaged_pickles_are_plain_data_or_refused(
    tmp_path_factory: pytest.TempPathFactory, start: int, junk: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "lang_annotations/fuzzed.npy"
    save(path, annotations([(np.int64(3), np.int64(4)), (5, 6)]))
    content = bytearray(path.read_bytes())
    content[start : start + len(junk)] = junk
    path.write_bytes(content)
    try:
        waiting = [read_object(path)]
    except RoboAlignError:
        return
    for _ in range(10_000):
        if not waiting:
            break
        value = waiting.pop()
        assert type(value) in PLAIN
        waiting += [*value.values()] if isinstance(value, dict) else []
        waiting += value if isinstance(value, (list, tuple)) else []
