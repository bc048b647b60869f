"""A tiny Qwen3-VL learns the benchmark with LoRA."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from judge_support import ADAPTER_STEPS, SCORES, SHOWN, toy_video

from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.prompt import build_prompt
from roboalign_core.judge.targets import target_reply
from roboalign_core.tensors import load_tensors
from roboalign_core.training.loop import Trainer
from roboalign_core.training.pairs import PairData
from roboalign_core.training.verb import TrainConfig, train

torch = pytest.importorskip("torch")
pytest.importorskip("peft", reason="the extra judge is not installed")
Settings = Callable[..., TrainConfig]


def make_stage(config: TrainConfig) -> Any:
    from roboalign_core.training.verb import STAGES, _settings

    name, stage = _settings(config.stage)
    return STAGES[name][0](config, stage, PairData(config.data))


# -- what is learned ------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_reply_alone(settings: Settings, tmp_path: Path) -> None:
    stage = make_stage(settings(tmp_path, dropout=0.0))
    inputs, labels = stage.batch([0, 1])
    tokenizer = stage.engine.processor.tokenizer
    for row in (0, 1):
        said = labels[row][labels[row] != -100]
        assert tokenizer.decode(said) == target_reply(SCORES[row], False) + "<|im_end|>"
        before = inputs["input_ids"][row][: -len(said)]
        assert (inputs["input_ids"][row][-len(said) :] == said).all()
        assert tokenizer.decode(before).endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert (labels == -100).any()  # one is shorter, and padded
    full = stage.engine.model(**inputs).logits.float().log_softmax(-1)
    expected = []
    for row in (0, 1):
        said = labels[row][labels[row] != -100]
        before = full[row, -len(said) - 1 : -1]
        expected.append(-before[torch.arange(len(said)), said].mean())
    stage._draw = lambda: [0, 1]
    loss, figures = stage.loss()
    assert loss.item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-3)
    assert figures["loss"] == pytest.approx(loss.item())
    assert 0 <= figures["right"] <= 1


def test_every_pair_once_before_any_twice(settings: Settings, tmp_path: Path) -> None:
    stage = make_stage(settings(tmp_path))
    shares = []
    for rank in (0, 1):
        stage.processes = replace(stage.processes, rank=rank, count=2)
        for stage.step in range(4):
            shares.append(stage._draw())
    first, second = shares[:4], shares[4:]
    for one, other in zip(first, second, strict=True):
        assert sorted(one + other) == [0, 1, 2, 3]
    assert len({tuple(one + other) for one, other in zip(first, second, strict=True)}) > 1


def test_only_the_adapter_is_trained_and_kept(run: Path, settings: Settings, tmp_path: Path) -> None:
    (folder,) = (run / "checkpoints").glob(f"step-{ADAPTER_STEPS:08d}")
    names = set(load_tensors(folder / "model.safetensors"))
    assert names
    assert all("lora_" in name and "language_model" in name for name in names)
    seeing = make_stage(settings(tmp_path, vision=True)).module.state_dict()
    assert any("visual" in name and "attn" in name for name in seeing)
    assert sorted(path.name for path in (run / "model").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "judge.json",
    ]


def test_the_loss_falls(run: Path) -> None:
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(entries) == ADAPTER_STEPS
    assert entries[-1]["loss"] < 0.1 * entries[0]["loss"]
    assert entries[-1]["right"] == 1


# -- thinking models ------------------------------------------------------------------------------------------------


def test_a_prompt_that_opens_the_thought(tiny_model: Path, settings: Settings, tmp_path: Path) -> None:
    thinking = tmp_path / "thinking"
    shutil.copytree(tiny_model, thinking)
    template = (thinking / "chat_template.jinja").read_text()
    (thinking / "chat_template.jinja").write_text(
        template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    )
    stage = make_stage(settings(tmp_path / "run", base=str(thinking)))
    _, labels = stage.batch([1])
    said = stage.engine.processor.tokenizer.decode(labels[0])
    assert said == target_reply(SCORES[1], True) + "<|im_end|>"
    (text,) = stage.engine.reply([build_prompt(toy_video(0), SHOWN)], 1.0, 5, 0)
    assert text.startswith("<think>")


# -- resuming, and refusals -----------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_bit_by_bit(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = (settings(tmp_path / name, dropout=0.3) for name in ("whole", "broken"))
    train(whole)
    update, calls = Trainer._update, []

    def interrupted(self: Trainer) -> Any:
        calls.append(1)
        if len(calls) > 3:
            self.stage.loss()
            raise KeyboardInterrupt
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    train(broken)
    for name in ("checkpoints/step-00000004/model.safetensors", "model/adapter_model.safetensors"):
        ours, theirs = (load_tensors(Path(config.out) / name) for config in (broken, whole))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    with pytest.raises(RoboAlignError, match=r"expected a checkpoint of this configuration.*\(stage"):
        train(settings(tmp_path / "whole", dropout=0.2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "./nowhere"}, r"judge: model './nowhere': expected a folder or hub id"),
        ({"base": ""}, "judge: model: expected a folder or hub id of a vision-language model, found nothing"),
        ({"rank": 0}, "stage.rank: expected at least 1, found 0"),
        ({"dropout": 1.0}, r"stage.dropout: expected a share in \[0, 1\), found 1"),
        ({"loop": {"optimizer": "muon"}}, "loop.optimizer: expected adamw for a LoRA adapter, found 'muon'"),
        ({"shown": {"frames": 1}}, "frames: expected at least 2"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    settings: Settings, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RoboAlignError, match=message):
        train(settings(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_data_are_benchmarks(settings: Settings, tmp_path: Path, benchmark_folder: Path) -> None:
    config = settings(tmp_path / "run")
    for data, message in (
        ([], "expected at least one folder of a benchmark"),
        ([str(benchmark_folder / "stores" / "toy")], "expected a finished benchmark"),
    ):
        with pytest.raises(RoboAlignError, match=message):
            train(replace(config, data=data))
