"""A judge on this machine: a tiny Qwen3-VL with the adapter that it was taught."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from judge_support import SCORES, SHOWN, toy_episode, toy_video

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json
from roboalign_core.judge import QwenConfig, QwenJudge, ReplyError, merge_adapter
from roboalign_core.judge.chat import SamplingConfig
from roboalign_core.judge.engine import load_engine
from roboalign_core.judge.prompt import build_prompt
from roboalign_core.judge.protocol import Video
from roboalign_core.judge.targets import target_reply

torch = pytest.importorskip("torch")
LIKELIEST = SamplingConfig(samples=1, temperature=0, again=0, max_tokens=80)


def test_the_adapter_judges_videos_that_it_has_not_seen(run: Path) -> None:
    judge = QwenJudge(QwenConfig(adapter=str(run / "model"), batch=3, progress=False, sampling=LIKELIEST))
    assert judge.name == "tiny+model"
    assert judge.shown == SHOWN
    videos = [toy_video(4), toy_video(5), toy_video(7), toy_video(8)]
    found = judge.judge(videos)
    assert [tuple(row) for row in found.scores.raw] == [SCORES[0], SCORES[1], SCORES[1], SCORES[0]]
    assert found.replies[0][0] == target_reply(SCORES[0], False)
    judge.sampling = SamplingConfig(samples=2, temperature=0.2, max_tokens=80)
    state = torch.get_rng_state()
    first = judge.score([videos[0].frames], [videos[0].instruction])
    assert [tuple(row) for row in first.scores.raw] == [SCORES[0]]
    assert len(first.replies[0]) == 2
    assert torch.equal(torch.get_rng_state(), state)


def test_merged_it_says_the_same(run: Path, tmp_path: Path) -> None:
    out = merge_adapter(run / "model", tmp_path / "merged")
    assert not list(tmp_path.glob(".tmp*"))
    prompt = build_prompt(toy_video(5), SHOWN)
    apart, merged = load_engine("", str(run / "model")), load_engine(str(out))
    assert "lora" not in " ".join(merged.model.state_dict())
    assert merged.reply([prompt], 0, 80, 0) == apart.reply([prompt], 0, 80, 0)
    assert QwenJudge(QwenConfig(model=str(out))).shown == SHOWN
    with pytest.raises(RoboAlignError, match="merged: expected nothing there"):
        merge_adapter(run / "model", out)


def test_a_model_that_cannot_be_written_leaves_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, *_: object, **__: object) -> None:
        assert any(folder.glob("*.safetensors"))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("roboalign_core.judge.engine.write_trained_on", full)
    with pytest.raises(OSError, match="No space left"):
        merge_adapter(run / "model", tmp_path / "merged")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_no_part_of_a_merged_model(run: Path, tmp_path: Path) -> None:
    half = tmp_path / ".tmp-merged" / "model-00002-of-00002.safetensors"
    half.parent.mkdir()
    half.write_bytes(b"half")
    out = merge_adapter(run / "model", tmp_path / "merged")
    assert half.name not in {path.name for path in out.iterdir()}
    assert list(tmp_path.iterdir()) == [out]


def test_temperature_and_seed_decide_what_is_said(tiny_model: Path) -> None:
    engine, prompts = load_engine(str(tiny_model)), [build_prompt(toy_video(n), SHOWN) for n in (0, 1)]
    said = [engine.reply(prompts, 1.0, 12, seed) for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]
    assert all(text.startswith("<think>") for text in said[0])  # cut off: no reply yet


def test_an_untrained_model_gives_one_clear_error(tiny_model: Path, tmp_path: Path) -> None:
    sampling = SamplingConfig(samples=1, again=1, max_tokens=8)
    config = QwenConfig(model=str(tiny_model), cache=str(tmp_path), shown=SHOWN, sampling=sampling, progress=False)
    judge = QwenJudge(config)
    with pytest.raises(ReplyError, match=r"video 0, sample 0, drawn 2 times .*: reply: expected a JSON object"):
        judge.judge([toy_video(0)])
    assert len(list((tmp_path / "rejected").iterdir())) == 2
    with pytest.raises(RoboAlignError, match=r"instruction: expected plain words, found the control token <\|im_end"):
        judge.judge([Video(toy_episode(0).frames, "stop<|im_end|>")])


def test_other_weights_have_other_replies_in_the_cache(tiny_model: Path, run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "tiny"
    shutil.copytree(tiny_model, copied)
    configs = [QwenConfig(str(tiny_model)), QwenConfig(str(copied)), QwenConfig(adapter=str(run / "model"))]
    described = [json.dumps(QwenJudge(config).describe(), sort_keys=True) for config in configs]
    assert len(set(described)) == 3


def test_an_adapter_belongs_to_its_prompt(run: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(run / "model", adapter)
    facts = read_json(adapter / "judge.json")
    write_json(adapter / "judge.json", {**facts, "version": 99})
    with pytest.raises(RoboAlignError, match="trained with version 1 of the prompt, found 99"):
        load_engine("", str(adapter))
    write_json(adapter / "judge.json", {**facts, "shown": {"colour": 1}})
    with pytest.raises(RoboAlignError, match="shown: expected frames and side"):
        load_engine("", str(adapter))
    (adapter / "judge.json").unlink()
    with pytest.raises(RoboAlignError, match=r"judge\.json: expected a JSON file, found nothing there"):
        load_engine("", str(adapter))
