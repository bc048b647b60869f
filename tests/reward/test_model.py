"""The student: scores of any videos, files, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_benchmark import flicker, toy_model, toy_video

import roboalign_core
from roboalign_core.errors import RoboAlignError
from roboalign_core.reward import RewardModel
from roboalign_core.reward.calibration import Calibration
from roboalign_core.reward.student import RewardNetwork
from roboalign_core.reward.summary import small
from roboalign_core.reward.text import tokenise
from roboalign_core.rubric import HIGHEST, Scores

CALIBRATION = Calibration(scale=[1.5] * 6, shift=[0.1] * 6, floor=[0.02] * 6, spread=[2.0] * 6)


@pytest.fixture(scope="module")
def model() -> RewardModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RewardModel(toy_model(), RewardNetwork(toy_model()), CALIBRATION)


@pytest.fixture
def folder(model: RewardModel, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "student", dtype=torch.float32)
    return tmp_path / "student"


def video(seed: int = 0, length: int = 12, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (length, *size, 3), dtype=np.uint8)


def test_scores_of_an_array_of_videos(model: RewardModel) -> None:
    frames = np.stack([video(seed) for seed in range(5)])
    scores = model.score(frames, "push it")
    assert isinstance(scores, Scores)
    assert scores.raw.shape == scores.uncertainty.shape == (5, 6)
    assert scores.raw.dtype == scores.uncertainty.dtype == np.float32
    assert (scores.raw > 0).all()
    assert (scores.raw < HIGHEST).all()
    assert (scores.uncertainty >= 0.0199 * HIGHEST).all()
    assert len(np.unique(scores.raw)) == 30


def test_positions_are_read_from_each_frame_whatever_is_asked_and_the_scores_depend_on_them() -> None:
    torch.manual_seed(0)
    config = replace(toy_model(), positions=["thing.x", "thing.y"])
    network = RewardNetwork(config).eval()
    summaries = torch.randint(0, 256, (1, 2, 5, 32, 32, 3), dtype=torch.uint8)
    ids = tokenise(["push it", "leave that"], config.text)
    with torch.no_grad():
        logits, positions = network.read(summaries.expand(2, -1, -1, -1, -1, -1), ids)
        assert positions.shape == (2, 5, 2)
        assert torch.equal(positions[0], positions[1])
        assert torch.equal(network(summaries, ids[:1]), network.read(summaries, ids[:1])[0])
        reader = network.video.frames.reader
        assert reader is not None
        reader.read.bias += 1.0  # all positions alike: what they are less the first and the last stays
        moved, further = network.read(summaries.expand(2, -1, -1, -1, -1, -1), ids)
    torch.testing.assert_close(further, positions + 1)
    assert (moved - logits).abs().max() > 1e-3


def test_videos_of_any_lengths_and_sizes_at_once(model: RewardModel) -> None:
    videos = [video(0, 3), video(1, 40, (48, 20)), video(2, 8), video(3, 1), video(4, 9, (16, 16)), video(5, 3)]
    texts = [f"push number {index}" for index in range(6)]
    together = model.score(videos, texts)
    for row, (frames, text) in enumerate(zip(videos, texts, strict=True)):
        alone = model.score([frames], [text])
        np.testing.assert_allclose(together.raw[row], alone.raw[0], atol=1e-4)
        np.testing.assert_allclose(together.uncertainty[row], alone.uncertainty[0], atol=1e-4)


def test_the_batch_only_bounds_memory(model: RewardModel) -> None:
    frames = np.stack([video(seed) for seed in range(5)])
    texts = ["push", "reach", "push", "lift it", "lift it"]
    np.testing.assert_allclose(model.score(frames, texts, batch=2).raw, model.score(frames, texts).raw, atol=1e-4)


def test_frames_are_resized_with_antialiasing(model: RewardModel) -> None:
    large = video(0, 10, (96, 64))
    np.testing.assert_allclose(
        model.score([large], "push").raw, model.score([small(large, (32, 32))], "push").raw, atol=1e-6
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda frames: frames[::-1],
        lambda frames: np.random.default_rng(0).permutation(frames),
        lambda frames: flicker(frames, 0),
        lambda frames: np.concatenate([frames[:6], frames[:1], frames[7:]]),
        lambda frames: np.concatenate([frames[:1]] * 12),
    ],
    ids=["reversed", "shuffled", "flicker", "a jump", "frozen"],
)
def test_what_happens_in_time_is_seen(model: RewardModel, change: object) -> None:
    frames = toy_video("red", "left", True, 0)
    before, after = model.score([frames, change(frames)], "move the red square left").raw  # type: ignore[operator]
    assert np.abs(before - after).max() > 1e-3


def test_the_instruction_is_seen(model: RewardModel) -> None:
    frames = toy_video("red", "left", True, 0)
    texts = ["move the red square left", "move the blue square left", "move the red square right"]
    raw = model.score([frames] * 3, texts).raw
    assert min(np.abs(raw[i] - raw[j]).max() for i, j in [(0, 1), (0, 2), (1, 2)]) > 1e-3


def test_files_come_back(model: RewardModel, folder: Path) -> None:
    again = RewardModel.from_pretrained(folder, dtype=torch.float32)
    assert again.config == model.config
    assert again.calibration == CALIBRATION
    frames = [video(1), video(2, 5)]
    np.testing.assert_array_equal(again.score(frames, "push").raw, model.score(frames, "push").raw)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "reward.safetensors"]


def test_half_precision_scores_nearly_alike(model: RewardModel, folder: Path) -> None:
    half = RewardModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.network.heads.weight.dtype is torch.float32
    frames = np.stack([video(seed) for seed in range(8)])
    np.testing.assert_allclose(half.score(frames, "push").raw, model.score(frames, "push").raw, atol=0.15)


def test_a_student_lies_in_the_folder_of_a_world_model(model: RewardModel, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    model.save_pretrained(tmp_path / "reward")
    assert RewardModel.from_pretrained(tmp_path).config == model.config
    assert RewardModel.from_pretrained(tmp_path / "reward").config == model.config


def test_a_bundled_name_finds_it(model: RewardModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roboalign_core.bundled.MODELS", tmp_path)
    (tmp_path / "desk").mkdir()
    (tmp_path / "desk" / "config.json").write_text("{}")
    with pytest.raises(RoboAlignError, match=r"'desk': expected a reward model, found no reward\.safetensors"):
        RewardModel.from_pretrained("desk")
    model.save_pretrained(tmp_path / "desk" / "reward")
    assert RewardModel.from_pretrained("desk").config == model.config


def test_it_is_a_public_name() -> None:
    assert roboalign_core.RewardModel is RewardModel
    assert all(getattr(roboalign_core, name) is not None for name in roboalign_core.__all__)


@pytest.mark.parametrize(
    ("frames", "instructions", "message"),
    [
        ([], "push", "frames: expected at least one video, found none"),
        (
            np.zeros((2, 3, 8, 8, 3), np.float32),
            "push",
            r"video 0: expected a uint8 array \(T, H, W, 3\), found float32",
        ),
        (np.zeros((3, 8, 8, 3), np.uint8), "push", r"video 0: expected .*found uint8 \(8, 8, 3\)"),
        ([np.zeros((3, 8, 8, 3), np.uint8), np.zeros((0, 8, 8, 3), np.uint8)], "push", "video 1: expected"),
        ([[[0]]], "push", "video 0: expected a uint8 array .*, found list"),
        (np.zeros((2, 3, 8, 8, 3), np.uint8), ["push"], "one for each of 2 videos, or one for all, found 1"),
        (np.zeros((2, 3, 8, 8, 3), np.uint8), ["push", ""], "instruction: expected a sentence, found ''"),
        (np.zeros((1, 3, 8, 8, 3), np.uint8), "a b c d e f g h i", "at most 8 words, found 9"),
    ],
)
def test_what_is_no_video_or_instruction_is_refused(
    model: RewardModel, frames: object, instructions: object, message: str
) -> None:
    with pytest.raises(RoboAlignError, match=message):
        model.score(frames, instructions)  # type: ignore[arg-type]


def test_damaged_files_are_named(folder: Path, tmp_path: Path) -> None:
    value = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**value, "frames": 9}))
    with pytest.raises(
        RoboAlignError, match=r"reward\.safetensors: weights do not fit the configuration: video\.position"
    ):
        RewardModel.from_pretrained(folder)
    del value["calibration"]["scale"]
    value["calibration"]["slope"] = 1
    (folder / "config.json").write_text(json.dumps(value))
    with pytest.raises(RoboAlignError, match=r"config\.json: expected a reward model's settings.*slope"):
        RewardModel.from_pretrained(folder)
    with pytest.raises(RoboAlignError, match="nowhere"):
        RewardModel.from_pretrained(tmp_path / "nowhere")
