"""Windows as tokens: how they start, and windows that are coded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from roboalign_core.episodes import AugmentationConfig
from roboalign_core.errors import RoboAlignError
from roboalign_core.training.data import TrainingData
from roboalign_core.training.loop import Trainer
from roboalign_core.training.state import StateRange
from roboalign_core.training.verb import TrainConfig, train
from roboalign_core.training.windows import WindowCache, WindowConfig, Windows, WindowSource
from roboalign_core.world_model.model import load_config, load_tokenizer
from roboalign_core.world_model.tokenizer import DualBranchTokenizer, to_pixels

Settings = Callable[..., TrainConfig]
STILL = AugmentationConfig(photometric=False, geometric=False)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    train(settings("tokenizer", path, steps=80, grey_share=0.5))
    return path / "model"


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> DualBranchTokenizer:
    return load_tokenizer(folder, load_config(folder)).eval().requires_grad_(False)


def source_of(config: WindowConfig, store: Path, folder: Path, tokenizer: DualBranchTokenizer) -> WindowSource:
    data, model = TrainingData([str(store)], (32, 32)), load_config(folder)
    span = config.lengths[0] + config.context_distance
    return WindowSource(config, model, tokenizer, {span: data.sampler(span, STILL, 0)}, StateRange.none(), CPU)


def same(first: Windows, second: Windows) -> bool:
    return all(torch.equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


def test_windows_start_as_rollouts_do(store: Path, folder: Path, tokenizer: DualBranchTokenizer) -> None:
    """Their own context: the first frame is coded by itself. An earlier context: relative to that."""
    config = WindowConfig(clips=6, lengths=[3], context_distance=2, moved_share=0.5, own_share=0.0)
    source = source_of(config, store, folder, tokenizer)
    torch.manual_seed(0)
    windows = Windows.join([source.draw(3, 6, 0) for _ in range(4)])
    still = (windows.codes[:, 0] == tokenizer.still_code).all(1)
    assert still.any()
    assert not still.all()
    assert (windows.start[still] != tokenizer.still_code).any(1).all()
    assert torch.equal(windows.start[~still], windows.codes[~still, 0])
    assert torch.equal(windows.given[:, 0], windows.start)
    assert torch.equal(windows.given[:, 1:], windows.codes[:, 1:])


@torch.no_grad()
def test_a_start_frame_is_coded_by_itself(store: Path, tokenizer: DualBranchTokenizer) -> None:
    """Its codes say what it shows, whatever context stands beside it, and nobody else's in the batch matters."""
    frames = TrainingData([str(store)], (32, 32)).frames(torch.tensor([0, 1]), torch.tensor([0, 11]))
    pixels = to_pixels(frames, (32, 32))
    context = pixels.unsqueeze(1)
    features = tokenizer.context_features(tokenizer.encode_context(context)[0], context)
    codes = tokenizer.encode_start(pixels, features)
    assert (codes[0] != codes[1]).any()
    assert torch.equal(tokenizer.encode_start(pixels[1:], features[1:]), codes[1:])
    assert torch.equal(tokenizer.encode_start(pixels, features[torch.tensor([1, 0])]), codes)


def test_coded_windows_are_kept_and_found_again(
    store: Path, folder: Path, tokenizer: DualBranchTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = WindowConfig(clips=4, lengths=[3], context_distance=2, own_share=0.5, cached=10)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    built = WindowCache.open_or_build(tmp_path, source_of(config, store, folder, tokenizer), 3, {"data": 1}, seed=0)
    assert torch.equal(torch.get_rng_state(), before), "a run draws the same whether or not it builds"
    assert len(built.windows) == 12, "whole batches"
    monkeypatch.setattr(WindowSource, "draw", lambda *args: pytest.fail("coded twice"))
    again = WindowCache.open_or_build(tmp_path, source_of(config, store, folder, tokenizer), 3, {"data": 1}, seed=0)
    assert same(again.windows, built.windows)
    assert {each.suffix for each in tmp_path.iterdir()} == {".safetensors", ".lock"}
    monkeypatch.undo()
    others = [replace(config, moved_share=0.5), replace(config, own_share=0.25), replace(config, cached=5)]
    for other in others:
        WindowCache.open_or_build(tmp_path, source_of(other, store, folder, tokenizer), 3, {"data": 1}, seed=0)
    for depends, seed in (({"data": 2}, 0), ({"data": 1}, 1)):
        WindowCache.open_or_build(tmp_path, source_of(config, store, folder, tokenizer), 3, depends, seed)
    blind = source_of(config, store, folder, tokenizer)
    blind.model = replace(blind.model, tokenizer=replace(blind.model.tokenizer, still_threshold=0.5))
    WindowCache.open_or_build(tmp_path, blind, 3, {"data": 1}, seed=0)
    with torch.no_grad():
        tokenizer.dynamics_out.bias.add_(1)
        WindowCache.open_or_build(tmp_path, source_of(config, store, folder, tokenizer), 3, {"data": 1}, seed=0)
        tokenizer.dynamics_out.bias.sub_(1)
    assert len(list(tmp_path.glob("*.safetensors"))) == 8, "other data, settings or weights: other windows"


def test_what_a_killed_process_left_goes(
    store: Path, folder: Path, tokenizer: DualBranchTokenizer, tmp_path: Path
) -> None:
    (tmp_path / ".1234.x.tmp.safetensors").write_bytes(b"half")
    theirs = tmp_path / "other_run" / ".model.x.tmp.safetensors"  # which another process is writing
    theirs.parent.mkdir()
    theirs.write_bytes(b"half")
    config = WindowConfig(clips=4, lengths=[3], context_distance=2, cached=4)
    WindowCache.open_or_build(tmp_path, source_of(config, store, folder, tokenizer), 3, {}, seed=0)
    assert not list(tmp_path.glob(".*.tmp*"))
    assert theirs.is_file()


def test_windows_with_imagined_contexts_are_not_coded_once() -> None:
    assert WindowConfig(clips=8, own_share=0.5).cached_own == 4
    assert WindowConfig(clips=8, own_share=0.5, own_drift=2).cached_own == 0


@pytest.mark.parametrize("drift", [0, 1])
def test_a_run_learns_from_coded_windows_and_resumes(
    settings: Settings, folder: Path, tmp_path: Path, drift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"world_model": folder, "cached": 8, "own_drift": drift, "own_share": 0.5}
    whole = train(settings("dynamics", tmp_path / "whole", steps=6, cache=str(tmp_path / "windows"), **options))
    assert len(list((tmp_path / "windows").glob("*.safetensors"))) == 2, "one of each length"
    config = settings("dynamics", tmp_path / "parts", steps=6, **options)
    step, update = 0, Trainer._update

    def stop(trainer: Trainer) -> Mapping[str, float]:
        nonlocal step
        step += 1
        if step > 3:
            raise KeyboardInterrupt
        return update(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert len(list((tmp_path / "parts" / "windows").glob("*.safetensors"))) >= 1
    config.stage["cache"] = str(tmp_path / "windows")
    again = train(config)
    assert again["steps"] == 6
    assert again["loss"] == whole["loss"], "where windows lie, and who coded them, changes nothing"


def test_numbers_out_of_range_are_named() -> None:
    with pytest.raises(RoboAlignError, match=r"expected clips >= 1 and cached >= 0, found 16 and -1"):
        WindowConfig(cached=-1)
