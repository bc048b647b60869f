"""The decoder learns to draw what is imagined, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toy_world import toy_episode

from roboalign_core.errors import RoboAlignError
from roboalign_core.precision import autocast
from roboalign_core.tensors import load_tensors
from roboalign_core.training import decoder
from roboalign_core.training.decoder import DECODER, DecoderStage, DecoderStageConfig
from roboalign_core.training.verb import TrainConfig, train
from roboalign_core.world_model import WorldModel
from roboalign_core.world_model.tokenizer import to_pixels

Settings = Callable[..., TrainConfig]


@pytest.fixture(scope="module")
def world_model(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    train(settings("tokenizer", folder / "tokenizer", steps=60))
    train(settings("dynamics", folder / "dynamics", steps=60, world_model=folder / "tokenizer" / "model"))
    return folder / "dynamics" / "model"


@pytest.fixture(scope="module")
def trained(settings: Settings, world_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained")
    train(settings("decoder", run, steps=60, world_model=world_model))
    return run


def test_only_the_decoder_changes(world_model: Path, trained: Path) -> None:
    before, after = (load_tensors(folder / "tokenizer.safetensors") for folder in (world_model, trained / "model"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(DECODER) for name in changed)
    for name in ("config.json", "frame_head.safetensors", "positions.safetensors", "dynamics/model.safetensors"):
        assert (trained / "model" / name).read_bytes() == (world_model / name).read_bytes()


def test_codes_and_imagination_stay_what_they_were(world_model: Path, trained: Path) -> None:
    frames = torch.from_numpy(np.stack([toy_episode(index).frames[0] for index in range(3)]))
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 3, 2)).astype(np.float32)
    first, second = (
        WorldModel.from_pretrained(folder, dtype=torch.float32) for folder in (world_model, trained / "model")
    )
    assert torch.equal(first.encode(frames).start, second.encode(frames).start)
    rolled = [model.rollout(frames[0].numpy(), actions, order="frame", mode="plain") for model in (first, second)]
    assert torch.equal(rolled[0].tokens, rolled[1].tokens)
    assert not np.array_equal(rolled[0].frames, rolled[1].frames)


def test_drawings_get_better(trained: Path) -> None:
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    for name in ("imagined_psnr", "coded_psnr"):
        values = [row[name] for row in rows]
        assert np.mean(values[-15:]) > np.mean(values[:5])


def test_a_batch_is_of_both_kinds(settings: Settings, world_model: Path, tmp_path: Path) -> None:
    """Imagined codes belong to the first clips, and each is held against the frame of its own step."""
    stages: list[DecoderStage] = []

    def keep(self: DecoderStage, folder: Path) -> None:
        stages.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DecoderStage, "export", keep)
        train(settings("decoder", tmp_path, steps=1, world_model=world_model, imagined_share=0.5, own_share=0.0))
    stage = stages[0]
    with autocast(stage.world_model.device), torch.no_grad():
        context, _features, codes, targets = stage._draw()
        values, _ = stage.world_model.tokenizer.encode_context(context)
        again = stage.world_model.tokenizer.context_features(values, context)
        coded = stage.world_model.tokenizer.encode_dynamics(targets, again.repeat(2))[1]
    assert codes.shape[0] == targets.shape[0] == 12
    assert torch.equal(coded[6:], codes[6:]), "coded relative to their contexts, frame by frame"
    assert not torch.equal(coded[:6], codes[:6])


def test_imagined_codes_are_those_of_the_frame_they_are_held_against(
    settings: Settings, world_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where imagination is right, its codes draw the target."""
    monkeypatch.setattr(DecoderStage, "export", lambda self, folder: stages.append(self))
    stages: list[DecoderStage] = []
    train(settings("decoder", tmp_path, steps=1, world_model=world_model, imagined_share=1.0, own_share=0.0))
    stage = stages[0]
    clip = stage.sampler.sample(6)
    stage.sampler = SimpleNamespace(sample=lambda count: clip)
    marks = torch.arange(6 * 3).reshape(6, 3, 1).expand(-1, -1, stage.world_model.config.layout.dynamics_tokens)
    monkeypatch.setattr(decoder, "roll", lambda *given: SimpleNamespace(tokens=marks))
    _, _, codes, targets = stage._draw()
    for row in range(12):
        episode, step = divmod(int(codes[row, 0]), 3)
        assert episode == row // 2
        expected = to_pixels(clip.frames[episode, step + 1][None], (32, 32))
        torch.testing.assert_close(targets[row], expected[0])


def test_numbers_out_of_range_are_named(settings: Settings, world_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RoboAlignError, match=r"stage\.imagined: expected 1 to distance \(2\), found 3"):
        DecoderStageConfig(distance=2, imagined=3)
    with pytest.raises(RoboAlignError, match=r"stage\.imagined_share: expected a share"):
        replace(DecoderStageConfig(), imagined_share=1.5)
    with pytest.raises(RoboAlignError, match=r"stage\.imagined: expected at most 5 \(max_frames - 1\), found 6"):
        train(settings("decoder", tmp_path / "run", world_model=world_model, distance=8, imagined=6))
    with pytest.raises(RoboAlignError, match=r"world_model: expected a trained world model, found nothing"):
        train(settings("decoder", tmp_path / "run"))
    assert not (tmp_path / "run").exists()
