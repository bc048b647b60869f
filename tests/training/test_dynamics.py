"""What the dynamics stage draws, and the positions that it reads on the side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from roboalign_core.episodes import AugmentationConfig
from roboalign_core.errors import RoboAlignError
from roboalign_core.tensors import load_tensors
from roboalign_core.training.data import TrainingData
from roboalign_core.training.dynamics import DynamicsStage, DynamicsStageConfig, StateRange
from roboalign_core.training.verb import TrainConfig, train
from roboalign_core.world_model.model import load_config, load_tokenizer

Settings = Callable[..., TrainConfig]
STILL = AugmentationConfig(photometric=False, geometric=False)


@pytest.fixture(scope="module")
def tokenizer(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    torch.set_num_threads(1)
    train(settings("tokenizer", folder, steps=40))
    return folder / "model"


def with_state(settings: Settings, out: Path, tokenizer: Path, columns: list[str], steps: int = 4) -> TrainConfig:
    config = settings("dynamics", out, steps=steps, world_model=tokenizer, state={"columns": columns, "weight": 4.0})
    return replace(config, augmentation=STILL)


def test_positions_are_learned_and_left_out_of_the_model(settings: Settings, tokenizer: Path, tmp_path: Path) -> None:
    train(with_state(settings, tmp_path, tokenizer, ["x", "y"], steps=160))
    errors = [json.loads(line)["state_error"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(errors[-20:]) < 0.7 * np.mean(errors[:10])
    names = set(load_tensors(tmp_path / "model" / "dynamics" / "model.safetensors"))
    names |= set(load_tensors(tmp_path / "model" / "frame_head.safetensors"))
    assert not any("state" in name for name in names)


def test_unknown_columns_are_named(settings: Settings, tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(RoboAlignError, match=r"stage\.state\.columns: expected names among x, y, found 'z'"):
        train(with_state(settings, tmp_path / "run", tokenizer, ["z"]))
    assert not (tmp_path / "run").exists()


def test_moved_frames_and_recorded_positions_exclude_each_other(
    settings: Settings, tokenizer: Path, tmp_path: Path
) -> None:
    config = with_state(settings, tmp_path / "run", tokenizer, ["x"])
    with pytest.raises(RoboAlignError, match=r"augmentation\.geometric: expected false with stage\.state\.columns"):
        train(replace(config, augmentation=AugmentationConfig(photometric=False)))


def test_states_belong_to_their_frames(store: Path, tokenizer: Path) -> None:
    """The square's place in a frame is the state that comes with it."""
    data = TrainingData([str(store)], (32, 32))
    clip = data.sampler(5, STILL, 0, extra="observation.state").sample(8)
    assert clip.extra.shape == (8, 5, 2)
    bright = clip.frames[..., 0].float() > 128
    columns = (bright.any(2).float() * torch.arange(32)).sum(-1) / bright.any(2).sum(-1)
    torch.testing.assert_close(columns / 32, clip.extra[..., 0], atol=0.05, rtol=0)


def test_windows_cover_the_beginnings_of_episodes(store: Path, tokenizer: Path) -> None:
    """A clip is longer than its window, so that a context may lie before it; most windows are their own context."""
    data, model = TrainingData([str(store)], (32, 32)), load_config(tokenizer)
    config = DynamicsStageConfig(clips=4, lengths=[4], context_distance=3, moved_share=0.25)
    samplers = {7: data.sampler(7, STILL, 0)}
    stage = DynamicsStage(config, model, load_tokenizer(tokenizer, model), samplers, StateRange.none(), "cpu")
    start, source = stage._places(2000)
    assert set(start[source == start].tolist()) == {0, 1, 2, 3}
    assert set((start - source)[source != start].tolist()) == {1, 2, 3}
    assert 0.2 < (source != start).float().mean() < 0.3
    assert stage.loss()[0].isfinite()


def test_training_goes_on_from_another_run(settings: Settings, tokenizer: Path, tmp_path: Path) -> None:
    train(settings("dynamics", tmp_path / "first", steps=40, world_model=tokenizer))
    changes = {"start": str(tmp_path / "first"), "imagined_share": 0.5}
    figures = train(settings("dynamics", tmp_path / "second", steps=2, world_model=tokenizer, **changes))
    fresh = train(settings("dynamics", tmp_path / "fresh", steps=2, world_model=tokenizer))
    assert figures["loss"] < 0.9 * fresh["loss"]
    with pytest.raises(RoboAlignError, match=r"stage\.start: nowhere: expected a run with world_model=.*found None"):
        train(settings("dynamics", tmp_path / "third", world_model=tokenizer, start="nowhere"))
    shutil.copytree(tokenizer, tmp_path / "other")
    with pytest.raises(RoboAlignError, match=r"stage\.start: .*expected a run with world_model=.*other"):
        train(settings("dynamics", tmp_path / "third", world_model=tmp_path / "other", **changes))


def test_a_run_resumes_without_the_run_it_started_from(settings: Settings, tokenizer: Path, tmp_path: Path) -> None:
    train(settings("dynamics", tmp_path / "first", steps=2, world_model=tokenizer))
    second = settings("dynamics", tmp_path / "second", steps=2, world_model=tokenizer, start=str(tmp_path / "first"))
    train(second)
    shutil.rmtree(tmp_path / "first")
    assert train(second)["steps"] == 2


def test_imagined_frames_come_in_but_are_not_learned(store: Path, tokenizer: Path) -> None:
    """In the share that is asked for, after the first frame, and only as input: the targets stay recorded."""
    data, model = TrainingData([str(store)], (32, 32)), load_config(tokenizer)
    config = DynamicsStageConfig(clips=4, lengths=[4], context_distance=0, imagined_share=0.5)
    samplers = {4: data.sampler(4, STILL, 0)}
    stage = DynamicsStage(config, model, load_tokenizer(tokenizer, model), samplers, StateRange.none(), "cpu")
    context, codes, bins, _ = stage._tokens()
    changed = set()
    for _ in range(8):
        given = stage._imagined(context, codes, bins)
        assert torch.equal(given[:, 0], codes[:, 0])
        rows = (given != codes).flatten(1).any(1).nonzero().flatten().tolist()
        assert len(rows) <= 2
        changed |= set(rows)
    assert len(changed) > 2, "other clips each time"
