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
from toy_world import toy_episode

from roboalign_core.episodes import AugmentationConfig
from roboalign_core.errors import RoboAlignError
from roboalign_core.precision import native_dtype
from roboalign_core.tensors import load_tensors
from roboalign_core.training.data import TrainingData
from roboalign_core.training.dynamics import DynamicsStage, DynamicsStageConfig
from roboalign_core.training.state import StateRange
from roboalign_core.training.verb import TrainConfig, train
from roboalign_core.training.windows import WindowSource
from roboalign_core.world_model.model import WorldModel, load_config, load_tokenizer
from roboalign_core.world_model.rollout import Context, roll
from roboalign_core.world_model.tokenizer import to_frames, to_pixels

GREY_CONTEXTS = torch.full((4, 1, 3, 32, 32), 0.5)
Settings = Callable[..., TrainConfig]
STILL = AugmentationConfig(photometric=False, geometric=False)


@pytest.fixture(scope="module")
def tokenizer(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    torch.set_num_threads(1)
    train(settings("tokenizer", folder, steps=40))
    return folder / "model"


def stage_of(config: DynamicsStageConfig, store: Path, tokenizer: Path) -> DynamicsStage:
    data, model = TrainingData([str(store)], (32, 32)), load_config(tokenizer)
    samplers = {
        length + config.context_distance: data.sampler(length + config.context_distance, STILL, 0)
        for length in config.lengths
    }
    coder = load_tokenizer(tokenizer, model).to(native_dtype(torch.device("cpu"))).eval()
    torch.manual_seed(0)
    return DynamicsStage(config, WindowSource(config, model, coder, samplers, StateRange.none(), torch.device("cpu")))


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
    stage = stage_of(DynamicsStageConfig(clips=4, lengths=[4], context_distance=3, moved_share=0.25), store, tokenizer)
    start, source = stage.source._places(2000)
    assert set(start[source == start].tolist()) == {0, 1, 2, 3}
    assert set((start - source)[source != start].tolist()) == {1, 2, 3}
    assert 0.2 < (source != start).float().mean() < 0.3
    assert stage.loss()[0].isfinite()


def test_training_goes_on_from_another_run(settings: Settings, tokenizer: Path, tmp_path: Path) -> None:
    train(settings("dynamics", tmp_path / "first", steps=40, world_model=tokenizer))
    changes = {"start": [str(tmp_path / "first")], "imagined_share": 0.5}
    figures = train(settings("dynamics", tmp_path / "second", steps=2, world_model=tokenizer, **changes))
    fresh = train(settings("dynamics", tmp_path / "fresh", steps=2, world_model=tokenizer))
    assert figures["loss"] < 0.9 * fresh["loss"]
    with pytest.raises(RoboAlignError, match=r"stage\.start: nowhere: expected a run with world_model=.*found None"):
        train(settings("dynamics", tmp_path / "third", world_model=tokenizer, start=["nowhere"]))
    shutil.copytree(tokenizer, tmp_path / "other")
    with pytest.raises(RoboAlignError, match=r"stage\.start: .*expected a run with world_model=.*other"):
        train(settings("dynamics", tmp_path / "third", world_model=tmp_path / "other", **changes))


def test_a_run_resumes_without_the_run_it_started_from(settings: Settings, tokenizer: Path, tmp_path: Path) -> None:
    train(settings("dynamics", tmp_path / "first", steps=2, world_model=tokenizer))
    second = settings("dynamics", tmp_path / "second", steps=2, world_model=tokenizer, start=[str(tmp_path / "first")])
    train(second)
    shutil.rmtree(tmp_path / "first")
    assert train(second)["steps"] == 2


def test_frames_of_a_rollout_come_in_but_are_not_learned(store: Path, tokenizer: Path) -> None:
    """In the share that is asked for, other clips each time, and only as input: the targets stay recorded."""
    config = DynamicsStageConfig(clips=4, lengths=[4], context_distance=0, imagined_share=0.5)
    stage = stage_of(config, store, tokenizer)
    windows = stage._windows()
    model = stage._for_inference()
    start = Context(windows.context, windows.start, model.tokenizer.context_features_of(windows.context, GREY_CONTEXTS))
    rollout = roll(model, start, windows.actions[:, :3], "plain", 3, "frame").tokens
    changed = set()
    for _ in range(8):
        given = stage._imagined(windows)
        assert torch.equal(given[:, 0], windows.start)
        rows = (given != windows.given).flatten(1).any(1)
        assert rows.sum() <= 2
        assert torch.equal(given[rows, 1:], rollout[rows])
        changed |= set(rows.nonzero().flatten().tolist())
    assert len(changed) > 2, "other clips each time"


def drifting(store: Path, tokenizer: Path, drift: int) -> DynamicsStage:
    config = DynamicsStageConfig(clips=4, lengths=[4], context_distance=4, own_share=0.5, own_drift=drift)
    return stage_of(config, store, tokenizer)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_context_of_its_own_is_what_a_rollout_would_show(store: Path, tokenizer: Path, steps: int) -> None:
    stage = drifting(store, tokenizer, 4)
    frames = torch.from_numpy(np.stack([toy_episode(index).frames[0] for index in range(3)]))
    bins = torch.randint(0, 16, (3, steps + 1, 2))
    found = to_frames(stage._imagined_context(to_pixels(frames, (32, 32)).unsqueeze(1), bins))[:, -1]
    stage.module.dynamics.to(next(stage.tokenizer.parameters()).dtype)
    model = WorldModel(stage.source.model, stage.tokenizer, stage.module.dynamics)
    expected = roll(model, model.encode(frames), bins[:, :steps], "plain", 5, "frame").frames[:, -1]
    assert (np.abs(found.numpy().astype(int) - expected) <= 8).mean() > 0.98, "but for rounding in bfloat16"


def test_windows_after_re_encoding_start_from_the_drawing(store: Path, tokenizer: Path) -> None:
    """Such a frame differs in nothing from its context, which is itself; those that follow are recorded ones."""
    for drift in (0, 4):
        stage = drifting(store, tokenizer, drift)
        stage.config = stage.source.config = replace(stage.config, moved_share=0.0, own_share=1.0)
        windows = stage._windows()
        assert (windows.codes[:, 0] == stage.tokenizer.still_code).all()
        assert (windows.codes[:, 1:] != stage.tokenizer.still_code).any()


def test_contexts_are_imagined_no_further_than_clips_reach_back() -> None:
    with pytest.raises(RoboAlignError, match=r"stage.own_drift: expected 0 to context_distance \(3\), found 4"):
        DynamicsStageConfig(context_distance=3, own_drift=4)
