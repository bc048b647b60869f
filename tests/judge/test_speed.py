"""``roboalign bench suite=reward``: the student's speed, and a teacher's beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from roboalign_core import cli
from roboalign_core.benchmarks.reward import beside_teacher, random_student
from roboalign_core.benchmarks.teacher import Teacher, random_network, teacher_config
from roboalign_core.benchmarks.verb import VERB, BenchConfig
from roboalign_core.benchmarks.verb import run as run_bench
from roboalign_core.errors import MissingExtraError, RoboAlignError
from roboalign_core.judge.prompt import PromptConfig
from roboalign_core.judge.protocol import Video
from roboalign_core.reward.config import RewardModelConfig

TINY: dict[str, Any] = {
    "name": "tiny",
    "new_tokens": 4,
    "repeats": 2,
    "shown": {"frames": 3, "side": 64},
    "tied": True,
    "text": {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    },
    "vision": {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    },
}
VIDEO = Video(np.zeros((3, 64, 64, 3), np.uint8), "push the red cube left")


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    pytest.importorskip("torchvision", reason="the extra judge is not installed")
    return Teacher(teacher_config(TINY))


@pytest.fixture(scope="module")
def small() -> RewardModelConfig:
    config = RewardModelConfig(height=16, width=16, frames=4)
    config.vision.blocks = config.vision.layers = config.text.layers = 1
    return config


def settings(**changes: Any) -> BenchConfig:
    return BenchConfig(out="unused", suite="reward", candidates=[1, 2], frames=4, repeats=2, **changes)


def test_a_teacher_beside_a_student_of_random_weights(small: RewardModelConfig) -> None:
    pytest.importorskip("torchvision", reason="the extra judge is not installed")
    figures = run_bench(settings(reward_model=small.to_dict(), teacher=TINY))
    assert figures["student_weights"].startswith("random")
    assert "random weights" in figures["teacher"]
    assert figures["student_parameters"] > 0
    assert (figures["teacher_new_tokens"], figures["teacher_dtype"][-2:]) == (4, str(figures["teacher_dtype"])[-2:])
    ratio = 1000 / figures["student_shown_ms"] / figures["teacher_videos_per_s"]
    assert figures["student_over_teacher"] == pytest.approx(ratio)
    spoken = figures["teacher_first_token_s"] + 3 * figures["teacher_token_ms"] / 1000
    assert spoken == pytest.approx(1 / figures["teacher_videos_per_s"])
    assert "missing" not in figures


def test_without_a_teacher_the_ratio_is_missing() -> None:
    figures = run_bench(settings(reward="tabletop"))
    assert figures["student_weights"] == "trained: tabletop"
    assert figures["student_n2_videos_per_s"] == figures["student_videos_per_s"]
    assert "teacher=qwen3_vl_2b" in figures["missing"]["student_over_teacher"]


def test_a_reply_has_the_length_that_is_asked_for(teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken: list[int] = []
    generate = teacher.model.generate

    def spy(**arguments: Any) -> torch.Tensor:
        ids: torch.Tensor = generate(**arguments)
        spoken.append(ids.shape[1] - arguments["input_ids"].shape[1])
        return ids

    monkeypatch.setattr(teacher.model, "generate", spy)
    for length in (2, 9):
        reply = teacher.reply(VIDEO, PromptConfig(frames=3, side=64), length)
        assert 0 < reply.first < reply.total
    assert spoken == [2, 9]


def test_the_prompt_is_the_judge_s_with_every_frame(teacher: Teacher) -> None:
    more, fewer = (teacher.inputs(VIDEO, PromptConfig(frames=count, side=64)) for count in (3, 2))
    image = teacher.model.config.image_token_id
    assert [int((found["input_ids"] == image).sum()) for found in (more, fewer)] == [
        3 * 4,
        2 * 4,
    ]  # 32 x 32 pixels each
    assert more["pixel_values"].shape == (3 * 16, 3 * 2 * 16 * 16)
    assert int((more["input_ids"] != image).sum()) > 300  # the rubric in words
    assert more["mm_token_type_ids"].sum() == 12


def test_the_teacher_sees_the_frames_that_the_student_sees(
    teacher: Teacher, small: RewardModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_student(small, "cpu", 0)
    seen: dict[str, Any] = {}
    score, reply = model.score, teacher.reply

    def spy_score(frames: Any, *rest: Any) -> Any:
        seen["student"] = frames[0]
        return score(frames, *rest)

    def spy_reply(video: Video, *rest: Any, **options: Any) -> Any:
        seen["teacher"] = video.frames
        return reply(video, *rest, **options)

    monkeypatch.setattr(model, "score", spy_score)
    monkeypatch.setattr(teacher, "reply", spy_reply)
    beside_teacher(model, teacher, repeats=1, seed=0)
    assert seen["student"].shape == (3, 64, 64, 3)
    np.testing.assert_array_equal(seen["student"], seen["teacher"])


def test_random_students_are_as_loaded_ones(small: RewardModelConfig) -> None:
    model, same, other = (random_student(small, "cpu", seed) for seed in (0, 0, 1))
    assert model.network.heads.weight.dtype is torch.float32
    assert torch.equal(model.network.heads.weight, same.network.heads.weight)
    assert not torch.equal(model.network.heads.weight, other.network.heads.weight)
    assert not model.network.training


def test_presets_and_the_published_teacher_by_name() -> None:
    config = cli.compose(VERB, ["suite=reward", "out=x", "reward_model=base", "teacher=qwen3_vl_2b"])
    assert RewardModelConfig.from_dict(config.reward_model).size == (128, 128)
    found = teacher_config(config.teacher)
    assert (found.name, found.shown, found.new_tokens) == ("qwen3_vl_2b", PromptConfig(), 256)
    plain = cli.compose(VERB, ["suite=reward", "out=x"])
    assert (plain.reward_model, plain.teacher) == (None, None)


def test_the_published_sizes_make_a_model_of_two_billion() -> None:
    pytest.importorskip("torchvision", reason="the extra judge is not installed")
    found = teacher_config(cli.compose(VERB, ["out=x", "teacher=qwen3_vl_2b"]).teacher)
    with torch.device("meta"):
        network = random_network(found, torch.bfloat16)
    assert sum(weights.numel() for weights in network.parameters()) == pytest.approx(2.13e9, rel=0.01)
    wrong = teacher_config({**TINY, "text": {**TINY["text"], "num_key_value_heads": "two"}})
    with pytest.raises(RoboAlignError, match="teacher tiny: expected sizes of a Qwen3-VL, found: "):
        random_network(wrong, torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"new_tokens": 1}, r"teacher\.new_tokens: expected at least 2, found 1"),
        ({"repeats": 0}, r"teacher\.repeats: expected at least 1, found 0"),
        ({"sides": 3}, "teacher: .*sides"),
        ({"shown": {"frames": 1, "side": 64}}, "judge prompt: frames: expected at least 2"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        teacher_config({**TINY, **change})


def test_what_is_no_teacher_is_refused() -> None:
    with pytest.raises(RoboAlignError, match=r"teacher: expected a node of configs/teacher/, found 'qwen'"):
        teacher_config("qwen")
    with pytest.raises(RoboAlignError, match=r"teacher: .*missing mandatory value: vision"):
        teacher_config({key: value for key, value in TINY.items() if key != "vision"})


def test_the_extra_is_named_where_it_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    from roboalign_core.judge import engine

    def absent(name: str, extra: str) -> Any:
        raise MissingExtraError(name, extra)

    monkeypatch.setattr(engine, "require", absent)
    with pytest.raises(MissingExtraError, match="judge"):
        Teacher(teacher_config(TINY))
