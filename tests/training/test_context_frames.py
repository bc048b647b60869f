"""Every stage with contexts of several frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toy_world import toy_episode

from roboalign_core.episodes import AugmentationConfig
from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.progress import ProgressModel
from roboalign_core.tensors import load_tensors
from roboalign_core.training.data import TrainingData
from roboalign_core.training.decoder import DECODER
from roboalign_core.training.grpo.imagination import Prompts, draw
from roboalign_core.training.state import StateRange
from roboalign_core.training.tokenizer import TokenizerStage, contexts, own_drawings
from roboalign_core.training.verb import TrainConfig, train
from roboalign_core.training.windows import WindowConfig, WindowSource
from roboalign_core.world_model import WorldModel
from roboalign_core.world_model.tokenizer import to_pixels

Settings = Callable[..., TrainConfig]
STILL = AugmentationConfig(photometric=False, geometric=False)
CPU = torch.device("cpu")
CHANGES: dict[str, dict[str, Any]] = {
    "tokenizer": {},
    "dynamics": {"own_drift": 2, "own_share": 0.5, "imagined_share": 0.5},
    "decoder": {},
    "progress": {"contexts": 32},
    "grpo": {},
}


def with_two(config: TrainConfig) -> TrainConfig:
    return replace(config, model=replace(config.model, tokenizer=replace(config.model.tokenizer, context_frames=2)))


@pytest.fixture(scope="module")
def runs(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two steps of every stage, the later ones built on the earlier."""
    folder = tmp_path_factory.mktemp("runs")
    needs = {"dynamics": folder / "tokenizer" / "model"}
    needs |= dict.fromkeys(("decoder", "progress", "grpo"), folder / "dynamics" / "model")
    for name, changes in CHANGES.items():
        figures = train(with_two(settings(name, folder / name, 2, needs.get(name, ""), **changes)))
        assert np.isfinite(figures["loss"]), name
    return {name: folder / name / "model" for name in CHANGES}


@pytest.fixture(scope="module")
def model(runs: dict[str, Path]) -> WorldModel:
    return WorldModel.from_pretrained(runs["dynamics"], dtype=torch.float32)


@pytest.fixture
def frames() -> torch.Tensor:
    """(4, 12, 32, 32, 3) uint8, four episodes."""
    return torch.from_numpy(np.stack([toy_episode(index).frames for index in range(4)]))


def test_every_stage_hands_it_on(runs: dict[str, Path], model: WorldModel) -> None:
    assert model.config.layout.context_tokens == 2 * 16
    for name in ("decoder", "grpo"):
        assert WorldModel.from_pretrained(runs[name]).config == model.config
    assert ProgressModel.from_pretrained(runs["progress"]).config.cells == 2 * 16
    before, after = (load_tensors(runs[name] / "tokenizer.safetensors") for name in ("dynamics", "decoder"))
    assert all(name.startswith(DECODER) for name in before if not torch.equal(before[name], after[name]))


def test_the_age_of_context_frames_is_learned(settings: Settings, tmp_path: Path) -> None:
    stages: list[TokenizerStage] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TokenizerStage, "export", lambda self, folder: stages.append(self))
        train(with_two(settings("tokenizer", tmp_path, steps=1, grey_share=0.2)))
    stage = stages[0]
    stage.loss()[0].backward()
    (age,) = stage.tokenizer.context_ages
    assert age.grad is not None
    assert age.grad.abs().max() > 0
    context, _ = stage._draw()
    assert context.shape == (6, 2, 3, 32, 32)
    assert (context == 0.5).flatten(1).all(1).tolist() == [False] * 5 + [True]


def test_contexts_end_where_they_are_told_to(frames: torch.Tensor) -> None:
    newest = torch.tensor([2, 5, 11, 3])
    found = contexts(frames, newest, 3, (32, 32), still_share=0.5)
    assert found.shape == (4, 3, 3, 32, 32)
    for row, place in enumerate(newest.tolist()):
        moves = row % 2 == 0  # every other one is held still
        seen = frames[row, place - 2 : place + 1] if moves else frames[row, place].expand(3, -1, -1, -1)
        assert torch.equal(found[row], to_pixels(seen, (32, 32)))


@torch.no_grad()
def test_own_drawings_are_of_all_frames_of_a_context(model: WorldModel, frames: torch.Tensor) -> None:
    places = torch.full((4,), 4)
    recorded, elsewhere = (contexts(frames, place, 2, (32, 32)) for place in (places, places + 5))
    found = own_drawings(model.tokenizer, recorded, elsewhere[:2])
    assert torch.equal(found[2:], recorded[2:])
    features = model.context(elsewhere[:2]).features
    for age in range(2):
        codes = model.tokenizer.encode_dynamics(recorded[:2, age], features)[1]
        drawn = model.tokenizer.decode_dynamics(codes, features).clamp(0, 1)
        torch.testing.assert_close(found[:2, age], drawn, atol=1e-4, rtol=1e-4)


def test_windows_have_the_frames_before_as_context(store: Path, model: WorldModel, frames: torch.Tensor) -> None:
    """The window's clip reaches back by the older context frames, also where the context lies before the window."""
    config = WindowConfig(clips=4, lengths=[3], context_distance=2, still_share=0.0, own_share=0.0)
    assert config.span(3, 2) == 6
    data = TrainingData([str(store)], (32, 32))
    sampler = data.sampler(6, STILL, 0)
    source = WindowSource(config, model.config, model.tokenizer, {6: sampler}, StateRange.none(), CPU)
    clip = sampler.sample(4)
    start, newest = torch.tensor([0, 2, 1, 2]), torch.tensor([0, 2, 0, 1])
    source.samplers[6] = SimpleNamespace(sample=lambda count: clip)  # type: ignore[assignment]
    source._places = lambda count: (start, newest)  # type: ignore[method-assign]
    windows = source.draw(3, 4, 0)
    for row in range(4):
        first = 1 + int(newest[row])
        context = model.encode(clip.frames[row : row + 1, first - 1 : first + 1])
        assert torch.equal(windows.context[row], context.codes[0])
        later = clip.frames[row, 1 + int(start[row]) :][:3]
        assert torch.equal(windows.codes[row], model.encode_dynamics(later, context.features.repeat(3)))
        if start[row] == newest[row]:
            assert torch.equal(windows.start[row], context.start[0])


def test_windows_are_coded_once(settings: Settings, runs: dict[str, Path], tmp_path: Path) -> None:
    config = settings("dynamics", tmp_path, 1, runs["tokenizer"], cached=4, own_share=0.5)
    assert np.isfinite(train(with_two(config))["loss"])
    assert load_tensors(next((tmp_path / "windows").glob("*.safetensors")))["context"].shape[1] == 32


def test_prompts_bring_the_frames_seen_before(model: WorldModel, frames: torch.Tensor) -> None:
    prompts = Prompts(frames[:, :5], torch.zeros(4, 3, 2), ["go left"] * 4, past=1)
    assert torch.equal(prompts.recorded, frames[:, 1:5])
    context, _ = draw(model, prompts[1:3], 2, "frame")
    assert torch.equal(context.codes, model.encode(frames[1:3, :2]).codes)


def test_episodes_shorter_than_the_context_are_refused(settings: Settings, tmp_path: Path) -> None:
    config = settings("tokenizer", tmp_path / "run")
    config.model.tokenizer = replace(config.model.tokenizer, context_frames=12)
    with pytest.raises(RoboAlignError, match="clips: expected episodes of 15 frames"):
        train(config)
    assert not (tmp_path / "run").exists()
