"""``roboalign score``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_benchmark import toy_model, toy_video

from roboalign_core import cli
from roboalign_core.episodes.video import VideoCodec, encode
from roboalign_core.errors import RoboAlignError
from roboalign_core.reward import RewardModel
from roboalign_core.reward.score import VERB, ScoreConfig, read_video, run
from roboalign_core.reward.student import RewardNetwork
from roboalign_core.rubric import KEYS

INSTRUCTION = "move the red square left"


@pytest.fixture
def student(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        RewardModel(toy_model(), RewardNetwork(toy_model())).save_pretrained(tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "left.mp4", tmp_path / "right.mp4"]
    for path, side in zip(paths, ("left", "right"), strict=True):
        encode(path, toy_video("red", side, True, 3), 5.0, VideoCodec(lossless=True))
    return paths


def test_figures_are_those_of_the_model(student: Path, videos: list[Path]) -> None:
    first, second = map(str, videos)
    results = run(ScoreConfig(videos=[first, second], instruction=INSTRUCTION, reward=str(student)))
    frames = [toy_video("red", side, True, 3) for side in ("left", "right")]
    expected = RewardModel.from_pretrained(student).score(frames, INSTRUCTION)
    assert [results[key] for key in KEYS] == pytest.approx(expected.raw.mean(0).tolist())
    assert results["total"] == pytest.approx(float(expected.total.mean()))
    rows = results["detail"]["rows"]
    assert [row["video"] for row in rows] == [first, second]
    assert [row["total"] for row in rows] == pytest.approx(expected.total.tolist())
    assert list(rows[0]["uncertainty"].values()) == pytest.approx(expected.uncertainty[0].tolist())


def test_the_command_shows_bars_and_writes_results(
    student: Path,
    videos: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "load_verb", lambda name: VERB)
    arguments = ["score", str(videos[0]), f"instruction={INSTRUCTION}", f"reward={student}", f"out={tmp_path / 'out'}"]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "Temporal Consistency" in shown
    assert "█" in shown
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(KEYS) | {"total", "videos", "command"} <= results.keys()
    assert results["videos"] == 1


def test_the_command_takes_several_videos_and_dashes(
    student: Path, videos: list[Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "load_verb", lambda name: VERB)
    names = [str(path) for path in videos]
    assert cli.main(["score", *names, "--instruction", INSTRUCTION, f"--reward={student}"]) == 0
    shown = capsys.readouterr().out
    assert all(Path(name).name in shown for name in names)
    assert cli.main(["score", *names, "--instruction"]) == 2
    assert "--instruction: expected --key and a value after it, found none" in capsys.readouterr().err
    assert cli.main(["score", *names, "--instruction", "--out"]) == 2
    assert cli.main(["score", names[0], f"videos=[{names[1]}]", f"instruction={INSTRUCTION}"]) == 2
    assert "expected videos once" in capsys.readouterr().err
    assert cli.main(["score", f"videos={names[0]}", f"instruction={INSTRUCTION}"]) == 2
    assert "videos: expected a list, such as [a,b], found one value" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    ["push it, then left", "don't push", "push (left)", "a=b", "null", "a\\'b", "so \\", '"x"', "[1,2]", "{a: b}"],
)
def test_text_after_dashes_is_taken_as_it_is(text: str) -> None:
    assert cli.compose(VERB, ["--instruction", text]).instruction == text


def test_a_long_video_is_read_in_blocks_at_the_size_of_the_model(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (70, 16, 24, 3), dtype=np.uint8)
    encode(tmp_path / "long.mp4", frames, 5.0, VideoCodec(lossless=True))
    np.testing.assert_array_equal(read_video(tmp_path / "long.mp4", (16, 24)), frames)
    assert read_video(tmp_path / "long.mp4", (8, 8)).shape == (70, 8, 8, 3)


def test_what_cannot_be_scored_is_named(student: Path, tmp_path: Path) -> None:
    with pytest.raises(RoboAlignError, match="score: expected videos, found none"):
        run(ScoreConfig(instruction=INSTRUCTION, reward=str(student)))
    with pytest.raises(RoboAlignError, match=r"none\.mp4: expected a video, found nothing there"):
        run(ScoreConfig(videos=[str(tmp_path / "none.mp4")], instruction=INSTRUCTION, reward=str(student)))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(RoboAlignError, match=r"text\.mp4: expected a readable video"):
        run(ScoreConfig(videos=[str(tmp_path / "text.mp4")], instruction=INSTRUCTION, reward=str(student)))
