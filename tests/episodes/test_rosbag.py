"""Bags of `ros2 bag record` in both storages become episodes; what is refused is in test_rosbag_refusals.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from roboalign_core.configs import config_dir
from roboalign_core.episodes import EpisodeStore
from roboalign_core.errors import RoboAlignError

from .bags import (
    ACTIONS,
    CAMERA,
    COMMANDS,
    DELAY,
    JOINTS,
    MCAP,
    MS,
    PIXELS,
    SQLITE,
    Message,
    at,
    coded,
    command,
    convert,
    header,
    image,
    joints,
    make,
    record,
    told,
    twist,
    write,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recorded() -> list[Message]:
    return record()


@pytest.fixture
def pixels() -> np.ndarray:
    return PIXELS


# -- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", [MCAP, SQLITE], ids=["mcap", "db3"])
@pytest.mark.parametrize("packed", ["", "message", "file", "storage"])
def test_frames_and_actions_come_back_exactly(
    tmp_path: Path, recorded: list[Message], pixels: np.ndarray, plugin: Any, packed: str
) -> None:
    if (plugin, packed) == (SQLITE, "storage"):
        pytest.skip("SQLite files are not compressed inside")
    [episode], results = convert(write(tmp_path / "bag", recorded, plugin, packed))
    np.testing.assert_array_equal(episode.frames, pixels)
    np.testing.assert_array_equal(episode.actions, ACTIONS)
    assert (episode.fps, episode.source, episode.camera, episode.instruction) == (10, "rosbag", "front", "")
    assert episode.success is None
    assert (results["frame_psnr_db"], results["noted"], results["detail"]["format"]) == (100.0, 0, "rosbag")
    [store] = results["detail"]["stores"].values()
    assert store["action"] == {"a": "rad (absolute)", "b": "rad (absolute)"}


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_files_without_metadata_are_bags_of_their_own(tmp_path: Path, recorded: list[Message], suffix: str) -> None:
    for name in ("one", "two"):
        written = write(tmp_path / name, recorded, MCAP if suffix == ".mcap" else SQLITE)
        (tmp_path / "lone").mkdir(exist_ok=True)
        (written / f"{name}{suffix}").rename(tmp_path / "lone" / f"{name}{suffix}")
        (written / "metadata.yaml").unlink()
    episodes, _ = convert(tmp_path / "lone")
    assert len(episodes) == 2
    assert len(convert(tmp_path / "lone" / f"one{suffix}")[0]) == 1


def test_a_bag_in_several_files_is_one_episode(tmp_path: Path, recorded: list[Message], pixels: np.ndarray) -> None:
    bag, rest = write(tmp_path / "bag", recorded[:6]), write(tmp_path / "rest", recorded[6:])
    (rest / "rest.mcap").rename(bag / "rest.mcap")
    (rest / "metadata.yaml").unlink()
    about = yaml.safe_load((bag / "metadata.yaml").read_text())
    about["rosbag2_bagfile_information"]["relative_file_paths"] = ["bag.mcap", "rest.mcap"]
    (bag / "metadata.yaml").write_text(yaml.safe_dump(about))
    [episode], _ = convert(bag)
    np.testing.assert_array_equal(episode.frames, pixels)
    np.testing.assert_array_equal(episode.actions, ACTIONS)


def test_quality_of_service_in_the_metadata_does_not_matter(tmp_path: Path, recorded: list[Message]) -> None:
    """Recorders write it in several ways; rosbags' reader of folders drops the messages where two differ."""
    bag = write(tmp_path / "bag", recorded)
    about = yaml.safe_load((bag / "metadata.yaml").read_text())
    for topic in about["rosbag2_bagfile_information"]["topics_with_message_count"]:
        topic["topic_metadata"]["offered_qos_profiles"] = "- history: 3\n  depth: 0\n  reliability: 1"
    (bag / "metadata.yaml").write_text(yaml.safe_dump(about))
    [episode], _ = convert(bag)
    assert len(episode) == 8


def test_compressed_images(tmp_path: Path, recorded: list[Message]) -> None:
    commands = [message for message in recorded if message[0] == COMMANDS]
    smooth = np.linspace(0, 255, 16 * 24 * 3).reshape(16, 24, 3) + np.arange(8.0).reshape(8, 1, 1, 1)
    smooth = smooth.clip(0, 255).astype(np.uint8)
    for form, tolerance in (("png", 0), ("jpeg", 12)):
        images = [
            (CAMERA, at(100 * k), make("sensor_msgs/msg/CompressedImage", header=header(100 * k),
             format=f"rgb8; {form} compressed bgr8", data=coded(frame, form)))
            for k, frame in enumerate(smooth)
        ]  # fmt: skip
        [episode], _ = convert(write(tmp_path / form, [*images, *commands]))
        assert np.abs(episode.frames.astype(int) - smooth).max() <= tolerance


@pytest.mark.parametrize(
    ("encoding", "channels"),
    [("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("rgba8", [0, 1, 2, 0]), ("bgra8", [2, 1, 0, 0]), ("mono8", [1])],
)
def test_encodings_and_padded_rows(
    tmp_path: Path, recorded: list[Message], pixels: np.ndarray, encoding: str, channels: list[int]
) -> None:
    commands = [message for message in recorded if message[0] == COMMANDS]
    images = [image(100 * k, frame[..., channels], encoding, padding=5) for k, frame in enumerate(pixels)]
    [episode], _ = convert(write(tmp_path / "bag", [*images, *commands]))
    np.testing.assert_array_equal(episode.frames, pixels[..., [1, 1, 1]] if encoding == "mono8" else pixels)


def test_two_cameras_share_frame_times(tmp_path: Path, recorded: list[Message], pixels: np.ndarray) -> None:
    """The second camera starts 130 ms late and runs at 20 Hz; state and success and instruction go to both."""
    wrist = [image(130 + 50 * k, pixels[k % 8] // 2, topic="/wrist") for k in range(12)]
    state = [joints(-5 + 100 * k, [k, 2 * k], topic=JOINTS) for k in range(8)]
    words = [told("/instruction", -500, "pick the cube "), told("/success", 200, False), told("/success", 900, True)]
    episodes, results = convert(
        write(tmp_path / "bag", [*recorded, *wrist, *state, *words]),
        cameras={"front": {"topic": CAMERA}, "wrist": {"topic": "/wrist"}},
        state=[{"topic": JOINTS, "field": "position[b]", "name": "joint.b"}],
        instruction={"topic": "/instruction"},
        success={"topic": "/success"},
    )
    assert [episode.camera for episode in episodes] == ["front", "wrist"]
    for episode in episodes:  # frames at 130, 230, … 630 ms
        np.testing.assert_array_equal(episode.actions, ACTIONS[[1, 2, 3, 4, 5, 5]])
        np.testing.assert_array_equal(episode.extras["observation.state"][:, 0], [2, 4, 6, 8, 10, 12])
        assert (episode.instruction, episode.success) == ("pick the cube", True)
    np.testing.assert_array_equal(episodes[0].frames, pixels[1:7])
    np.testing.assert_array_equal(episodes[1].frames, pixels[[0, 2, 4, 6, 0, 2]] // 2)
    store = EpisodeStore.open(next(iter(results["detail"]["stores"])))
    assert store.spec.extras == {"observation.state": ("joint.b",)}
    assert all(
        "/instruction: stamped by the times of receipt" in notes for notes in results["detail"]["notes"].values()
    )


# -- alignment, against figures worked out by hand --------------------------------------------------------------------


def test_an_action_is_the_last_target_before_the_next_frame(tmp_path: Path, pixels: np.ndarray) -> None:
    """Targets at 40 and 100 (both lead to the frame at 100), none up to 200 (held), 201 (leads to 300)."""
    images = [image(100 * k, frame) for k, frame in enumerate(pixels[:4])]
    commands = [joints(ms, [ms, 0]) for ms in (40, 100, 201)]
    [episode], _ = convert(write(tmp_path / "bag", [*images, *commands]), gap=0.5)
    np.testing.assert_array_equal(episode.actions[:, 0], [100, 100, 201, 201])


def test_no_frame_before_a_target_is_known(tmp_path: Path, pixels: np.ndarray) -> None:
    """The first target comes at 210: the first frame is 100 ms before it, and shows the image of 100."""
    images = [image(100 * k, frame) for k, frame in enumerate(pixels[:5])]
    [episode], _ = convert(write(tmp_path / "bag", [*images, joints(210, [5, 0]), joints(390, [6, 0])]))
    np.testing.assert_array_equal(episode.frames, pixels[[1, 2, 3]])  # at 110, 210, 310
    np.testing.assert_array_equal(episode.actions[:, 0], [5, 5, 5])


def test_steps_add_up_and_silence_is_no_motion(tmp_path: Path, pixels: np.ndarray) -> None:
    images = [image(100 * k, frame) for k, frame in enumerate(pixels[:5])]
    commands = [joints(ms, [step, 0]) for ms, step in ((0, 64), (30, 1), (100, 2), (150, 4), (301, 8), (400, 16))]
    [episode], _ = convert(
        write(tmp_path / "bag", [*images, *commands]), actions=[command("position[0]", kind="delta")]
    )
    np.testing.assert_array_equal(episode.actions[:, 0], [3, 4, 0, 24, 0])


def test_velocities_are_integrated(tmp_path: Path, pixels: np.ndarray) -> None:
    """1 from 50, 3 from 150, 0 from 220; the images are at 0, 100, … 400."""
    images = [image(100 * k, frame) for k, frame in enumerate(pixels[:5])]
    commands = [twist(ms, speed) for ms, speed in ((50, 1.0), (150, 3.0), (220, 0.0))]
    [episode], results = convert(
        write(tmp_path / "bag", [*images, *commands]), actions=[command("twist.linear.x", kind="velocity")]
    )
    np.testing.assert_allclose(episode.actions[:, 0], [0.05, 0.05 + 0.15, 0.06, 0, 0], atol=1e-7)
    assert "rad (delta)" in str(results["detail"]["stores"])


def test_a_velocity_does_not_outlast_the_gap(tmp_path: Path, pixels: np.ndarray) -> None:
    images = [image(100 * k, frame) for k, frame in enumerate(pixels[:5])]
    bag = write(tmp_path / "bag", [*images, twist(0, 1.0)])
    settings = {"actions": [command("twist.linear.x", kind="velocity")], "gap": 0.25}
    with pytest.raises(
        RoboAlignError, match=r"/commands: expected a message every 0.25 s .* of 0.400 s, 0.000 s after"
    ):
        convert(bag, **settings)
    [episode], _ = convert(bag, **settings, gaps="hold")
    np.testing.assert_allclose(episode.actions[:, 0], [0.1, 0.1, 0.05, 0, 0], atol=1e-7)


def test_frames_show_the_newest_image(tmp_path: Path, pixels: np.ndarray) -> None:
    """A camera that drops and jitters: at 0, 95, 210, 290, 405, 600 on a grid of 100."""
    images = [image(ms, pixels[k]) for k, ms in enumerate((0, 95, 210, 290, 405, 600))]
    commands = [joints(100 * k, [k, 0]) for k in range(7)]
    [episode], results = convert(write(tmp_path / "bag", [*images, *commands]))
    np.testing.assert_array_equal(episode.frames, pixels[[0, 1, 1, 3, 3, 4, 5]])
    np.testing.assert_array_equal(episode.actions[:, 0], [1, 2, 3, 4, 5, 6, 6])
    assert "2 of 7 frames repeat the image before" in str(results["detail"]["notes"])


def test_frames_can_be_the_images_themselves(tmp_path: Path, pixels: np.ndarray) -> None:
    """As a simulation records that waits for its planner: actions carry the stamp of the frame that they led to."""
    times = (0, 10, 20, 400, 410)
    images = [image(ms, pixels[k]) for k, ms in enumerate(times)] + [image(20, pixels[2])]
    commands = [joints(ms, [ms, 0]) for ms in times[1:]]
    bag = write(tmp_path / "bag", [*images, *commands])
    [episode], results = convert(bag, frames="front", actions=[command("position[a]", kind="delta")])
    np.testing.assert_array_equal(episode.frames, pixels[:5])
    np.testing.assert_array_equal(episode.actions[:, 0], [10, 20, 400, 410, 0])
    assert "/front/image_raw: 1 messages that came twice were dropped" in str(results["detail"]["notes"])
    assert "frames lie 0.010 s apart (median), 0.100 s by the rate" in str(results["detail"]["notes"])
    [episode], _ = convert(bag, frames="front")  # a target must be known at the second frame
    np.testing.assert_array_equal(episode.actions[:, 0], [10, 20, 400, 410, 410])


def test_joints_are_found_by_name_in_any_order(tmp_path: Path, recorded: list[Message]) -> None:
    turned = [message for message in recorded if message[0] == CAMERA]
    turned += [joints(100 * k - 30, [-k, k / 8], ("b", "a")) for k in (1, 3, 5, 7)]
    turned += [joints(100 * k - 30, [k / 8, -k, 9], ("a", "b", "c")) for k in (2, 4, 6)]
    [episode], _ = convert(
        write(tmp_path / "bag", sorted(turned, key=lambda item: item[1])),
        actions=[command("position[a]", "a"), command("position[b]", "b")],
    )
    np.testing.assert_array_equal(episode.actions, ACTIONS)


def test_late_and_repeated_messages(tmp_path: Path, recorded: list[Message], pixels: np.ndarray) -> None:
    """Pairs change places on the way, and every third message arrives twice."""
    stamped = [(topic, content) for topic, _, content in recorded]
    swapped = [stamped[place ^ 1] if place ^ 1 < len(stamped) else stamped[place] for place in range(len(stamped))]
    doubled = [item for place, item in enumerate(swapped) for item in [item] * (1 + (place % 3 == 0))]
    sent = [(topic, at(40 * place), content) for place, (topic, content) in enumerate(doubled)]
    [episode], results = convert(write(tmp_path / "bag", sent))
    np.testing.assert_array_equal(episode.frames, pixels)
    np.testing.assert_array_equal(episode.actions, ACTIONS)
    assert "that came twice were dropped" in str(results["detail"]["notes"])


def test_messages_without_a_header_count_from_their_receipt(tmp_path: Path, pixels: np.ndarray) -> None:
    images = [image(100 * k, frame) for k, frame in enumerate(pixels[:4])]
    numbers = [told(COMMANDS, ms - DELAY / MS, value) for ms, value in ((40, 1), (100, 2), (201, 3))]
    [episode], results = convert(write(tmp_path / "bag", [*images, *numbers]), actions=[command("data")])
    np.testing.assert_array_equal(episode.actions[:, 0], [2, 2, 3, 3])
    assert results["detail"]["notes"] == {
        f"{tmp_path / 'bag'}: front": [f"{COMMANDS}: stamped by the times of receipt"]
    }


def test_stamps_of_another_clock(tmp_path: Path, recorded: list[Message], pixels: np.ndarray) -> None:
    """The camera's computer is an hour ahead."""
    images = [image(3_600_000 + 100 * k, frame) for k, frame in enumerate(pixels)]
    ahead = [(topic, at(100 * k), content) for k, (topic, _, content) in enumerate(images)]
    bag = write(tmp_path / "bag", [*ahead, *(message for message in recorded if message[0] == COMMANDS)])
    with pytest.raises(RoboAlignError, match=r"expected stamps of one clock, found /commands stamped 0.007 s before"):
        convert(bag)
    [episode], _ = convert(bag, unstamped=[CAMERA, COMMANDS])
    np.testing.assert_array_equal(episode.frames, pixels)
    np.testing.assert_array_equal(episode.actions, ACTIONS)


# -- episodes, instructions, success ---------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [250, 390])
def test_a_topic_cuts_a_bag_into_episodes(
    tmp_path: Path, recorded: list[Message], pixels: np.ndarray, end: int
) -> None:
    """Episode 7 is told at 0 and ends; episode 9 runs from 390 on; before that its task is told, the first judged."""
    marks = [(-50, 0), (0, 7), *([(end, 0)] if end < 390 else []), (390, 9)]
    marks = [told("/episode", ms - DELAY / MS, label) for ms, label in marks]
    words = [told("/instruction", ms, text) for ms, text in ((-400, "push"), (380, "pull"))]
    judged = [told("/success", 300, True), told("/success", 850, False)]
    everything = sorted([*recorded, *marks, *words, *judged], key=lambda message: message[1])
    settings = {
        "episode": {"topic": "/episode"}, "instruction": {"topic": "/instruction"}, "success": {"topic": "/success"},
    }  # fmt: skip
    episodes, results = convert(write(tmp_path / "bag", everything), **settings)
    assert [(len(episode), episode.instruction, episode.success) for episode in episodes] == [
        (3 + (end > 300), "push", True),
        (4, "pull", False),
    ]
    np.testing.assert_array_equal(episodes[0].frames, pixels[: len(episodes[0])])
    np.testing.assert_array_equal(episodes[0].actions, ACTIONS[[0, 1, 1] if end < 300 else [0, 1, 2, 2]])
    np.testing.assert_array_equal(episodes[1].frames, pixels[4:])
    np.testing.assert_array_equal(episodes[1].actions, ACTIONS[[4, 5, 6, 7]])
    assert set(results["detail"]["notes"]) == {f"{tmp_path / 'bag'}: episode {label}: front" for label in (1, 2)}


def test_instructions_from_files_and_from_the_settings(tmp_path: Path, recorded: list[Message]) -> None:
    bag = write(tmp_path / "bag", recorded)
    assert convert(bag, instruction={"text": "stack them"})[0][0].instruction == "stack them"
    with pytest.raises(RoboAlignError, match=r"bag/task.txt: expected the instruction as UTF-8 text"):
        convert(bag, instruction={"file": "task.txt"})
    (bag / "task.txt").write_text("open the drawer\n")
    assert convert(bag, instruction={"file": "task.txt"})[0][0].instruction == "open the drawer"


def test_what_nobody_judged_is_unknown(tmp_path: Path, recorded: list[Message]) -> None:
    [episode], results = convert(write(tmp_path / "bag", recorded), success={"topic": "/success"})
    assert episode.success is None
    assert "/success: no message, success is unknown" in str(results["detail"]["notes"])


def test_two_instructions_for_one_episode_are_refused(tmp_path: Path, recorded: list[Message]) -> None:
    words = [told("/instruction", ms, text) for ms, text in ((0, "push"), (300, "pull"))]
    bag = write(tmp_path / "bag", [*recorded, *words])
    with pytest.raises(RoboAlignError, match=r"/instruction: expected one instruction .* found 'push' and 'pull'"):
        convert(bag, instruction={"topic": "/instruction"})


# -- the robot of our own demo ----------------------------------------------------------------------------------------


def test_the_demo_of_this_repository_converts(tmp_path: Path, pixels: np.ndarray) -> None:
    """Two episodes as `robot_sim` publishes them: the last image and status are repeated while it waits."""
    types = get_typestore(Stores.ROS2_JAZZY)
    for name in ("ActionChunk", "RobotStatus"):
        text = (ROOT / f"ros2_ws/src/roboalign_interfaces/msg/{name}.msg").read_text()
        types.register(get_types_from_msg(text, f"roboalign_interfaces/msg/{name}"))
    chunk, status = (types.types[f"roboalign_interfaces/msg/{name}"] for name in ("ActionChunk", "RobotStatus"))
    point, pose = types.types["geometry_msgs/msg/Point"], types.types["geometry_msgs/msg/Pose"]
    still = types.types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
    messages: list[Message] = []
    for k in range(8):
        ms, episode, step = 900 * k, 1 + k // 4, k % 4
        about = status(
            header=header(ms), episode=episode, step=step, instruction=f"push {episode}", action_dim=3,
            waiting=True, done=step == 3, success=step == 3 and episode == 1, progress=step / 3,
        )  # fmt: skip
        seen = [image(ms, pixels[k], topic="/camera/image_raw"), ("/status", at(ms), about)]
        messages += [*seen, *((topic, received + 600 * MS, content) for topic, received, content in seen)]
        where = pose(position=point(x=0.1 * k, y=0.0, z=0.5), orientation=still)
        placed = types.types["geometry_msgs/msg/PoseStamped"](header=header(ms), pose=where)
        messages.append(("/effector_pose", at(ms), placed))
        if step:
            moved = np.array([step / 4, -0.5, 0], np.float32)
            did = chunk(
                header=header(ms), episode=episode, step=step - 1, plan_id=1, horizon=1, action_dim=3, actions=moved,
                names=[],
            )  # fmt: skip
            messages.append(("/action_executed", at(ms), did))
    messages.sort(key=lambda message: message[1])
    settings = yaml.safe_load((config_dir() / "rosbag/tabletop_demo.yaml").read_text())
    [first, second], results = convert(write(tmp_path / "bag", messages, types=types), **settings)
    for number, episode in enumerate((first, second)):
        np.testing.assert_array_equal(episode.frames, pixels[4 * number : 4 * number + 4])
        np.testing.assert_array_equal(episode.actions, [[0.25, -0.5, 0], [0.5, -0.5, 0], [0.75, -0.5, 0], [0, 0, 0]])
        assert (episode.instruction, episode.fps) == (f"push {number + 1}", 5)
    assert (first.success, second.success) == (True, False)
    np.testing.assert_allclose(second.extras["observation.state"][:, 0], [0.4, 0.5, 0.6, 0.7])
    [store] = results["detail"]["stores"].values()
    assert store["action"] == dict.fromkeys("xyz", "m / 0.03 (delta)")
