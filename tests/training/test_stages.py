"""Every stage learns on a toy store, writes what the next one needs, and resumes bit by bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roboalign_core.episodes import EpisodeStore
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.files import read_json
from roboalign_core.reward.progress import ProgressModel
from roboalign_core.tensors import load_tensors
from roboalign_core.training.data import TrainingData
from roboalign_core.training.loop import Trainer
from roboalign_core.training.progress import ProgressStage, ProgressStageConfig, _constant
from roboalign_core.training.tokenizer import TokenizerStage, TokenizerStageConfig
from roboalign_core.training.verb import TrainConfig, train
from roboalign_core.world_model import DynamicsConfig, TokenizerConfig, WorldModel

Settings = Callable[..., TrainConfig]
NAMES = ["tokenizer", "dynamics", "decoder", "progress", "probe"]
STEPS = {"tokenizer": 80, "dynamics": 100, "decoder": 60, "progress": 120, "probe": 60}


@pytest.fixture(scope="module")
def runs(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One finished run of every stage, the later ones built on the earlier."""
    folder = tmp_path_factory.mktemp("runs")
    needs = {"dynamics": folder / "tokenizer" / "model"}
    needs |= dict.fromkeys(("decoder", "progress"), folder / "dynamics" / "model")
    torch.set_num_threads(1)
    for name in NAMES:
        config = settings(name, folder / name, steps=STEPS[name], world_model=needs.get(name, ""))
        train(replace(config, loop=replace(config.loop, checkpoint_every=40)))
    return {name: folder / name for name in NAMES}


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def needed(stage: str, runs: dict[str, Path]) -> Path | str:
    needs = {"dynamics": "tokenizer", "decoder": "dynamics", "progress": "dynamics"}
    return runs[needs[stage]] / "model" if stage in needs else ""


@pytest.mark.parametrize(
    ("name", "figure", "least"),
    [
        ("tokenizer", "loss", 0.3),
        ("dynamics", "token_loss", 0.1),
        ("dynamics", "frame_loss", 0.1),
        ("progress", "loss", 0.3),
        ("probe", "mae", 0.3),
    ],
)
def test_loss_falls(runs: dict[str, Path], name: str, figure: str, least: float) -> None:
    values = [entry[figure] for entry in metrics(runs[name])]
    assert len(values) == STEPS[name]
    first, last = np.mean(values[:5]), np.mean(values[-10:])
    assert last < (1 - least) * first, f"{figure}: {first:.3f} → {last:.3f}"


def test_the_tokenizer_s_codes_stay_in_use(runs: dict[str, Path]) -> None:
    last = metrics(runs["tokenizer"])[-1]
    assert last["context_codes"] > 10
    assert last["dynamics_codes"] > 5


def test_learning_rate_warms_up_and_falls_to_nothing(runs: dict[str, Path]) -> None:
    rates = [entry["lr"] for entry in metrics(runs["tokenizer"])]
    assert rates[0] == pytest.approx(1e-3)
    assert max(rates) == pytest.approx(3e-3, rel=0.02)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 1e-5


def test_what_a_run_leaves(runs: dict[str, Path]) -> None:
    for name, run in runs.items():
        steps = STEPS[name]
        assert [entry["step"] for entry in metrics(run)] == list(range(1, steps + 1))
        assert read_json(run / "run.json")["identity"]["stage"]["name"] == name
        assert any((run / "tensorboard").glob("events.out.*"))
        kept = sorted(path.name for path in (run / "checkpoints").iterdir())
        assert kept == [f"step-{step:08d}" for step in sorted({*range(40, steps, 40), steps})[-2:]]
        assert not list(run.rglob("*.tmp*"))


def test_the_exported_world_model_imagines(runs: dict[str, Path], store: Path) -> None:
    model = WorldModel.from_pretrained(runs["dynamics"] / "model", dtype=torch.float32)
    episode = EpisodeStore.open(store)[0]
    assert model.config.action_dim == 2
    assert model.config.fps == 5.0
    assert model.config.image_size == (32, 32)
    actions = np.concatenate([cached.actions for cached in EpisodeStore.open(store)])
    np.testing.assert_allclose(model.config.action_low, np.percentile(actions, 1, axis=0), atol=1e-6)
    frames = model.rollout(episode.frames[0], episode.actions[None, :5]).frames
    assert frames.shape == (1, 5, 32, 32, 3)
    real, floor = episode.frames[1:6].astype(float), episode.frames[0, 0, 0]
    square = real[..., 0] > 128

    def error(drawn: np.ndarray) -> float:
        """Half of the square, half of the floor around it: of frames of one colour none is better than an empty one."""
        errors = np.abs(drawn - real)
        return float(errors[square].mean() + errors[~square].mean()) / 2

    assert error(frames[0].astype(float)) < 0.9 * error(np.broadcast_to(floor.astype(float), real.shape))


def test_the_exported_objective_knows_the_store_s_instructions(runs: dict[str, Path]) -> None:
    progress = ProgressModel.from_pretrained(runs["progress"] / "model")
    assert progress.config.instructions == ["go left", "go right"]
    assert (progress.config.cells, progress.config.channels) == (16, 32)


def test_progress_is_learned_from_every_recorded_frame(store: Path, world_model: Path) -> None:
    data = TrainingData([str(store)], (32, 32))
    mean, std = data.column_range("observation.state")
    config = ProgressStageConfig(contexts=1, distance=1, holdout=0.25, width=16, slots=4, hidden=16)
    recorded = ProgressStage(config, WorldModel.from_pretrained(world_model), data, 0).recorded
    episodes = [EpisodeStore.open(store)[index] for index in range(12)]  # the last 4 of 16 are held out
    states = [(torch.tensor(one.extras["observation.state"]) - mean) / std for one in episodes]
    torch.testing.assert_close(recorded.later, torch.cat(states))
    torch.testing.assert_close(recorded.first, torch.cat([rows[:1].expand_as(rows) for rows in states]))
    torch.testing.assert_close(
        recorded.target, torch.tensor(np.concatenate([one.extras["progress"] for one in episodes]))
    )
    first, later, target = recorded.draw(500, torch.Generator().manual_seed(0))
    rows = {tuple(row) for row in torch.cat([recorded.first, recorded.later, recorded.target], 1).tolist()}
    drawn = {tuple(row) for row in torch.cat([first, later, target], 1).tolist()}
    assert drawn <= rows
    assert len(drawn) > 0.8 * len(rows)


def test_columns_that_never_change_are_found(store: Path, tmp_path: Path) -> None:
    episodes = []
    for number, episode in enumerate(EpisodeStore.open(store)):
        still = np.full((len(episode), 1), number / 10, np.float32)  # another in every episode
        rows = np.concatenate([episode.extras["observation.state"], still], axis=1)
        episodes.append(replace(episode, extras={**episode.extras, "observation.state": rows}))
    spec = EpisodeStore.open(store).spec
    wider = replace(spec, extras={**spec.extras, "observation.state": ("x", "y", "goal")})
    EpisodeStore.create(tmp_path / "wider", wider).append(episodes)
    assert _constant(TrainingData([str(tmp_path / "wider")], (32, 32)), "observation.state") == [False, False, True]


def test_the_exported_probe_reads_places(runs: dict[str, Path], store: Path, tmp_path: Path) -> None:
    for name in ("dynamics", "probe"):  # a probe is shipped beside a world model
        shutil.copytree(runs[name] / "model", tmp_path, dirs_exist_ok=True)
    read = StateProbe.from_pretrained(tmp_path).read(EpisodeStore.open(store)[0].frames)
    true = EpisodeStore.open(store)[0].extras["observation.state"]
    assert np.abs(read - true).mean() < 0.7 * np.abs(true - 0.5).mean()


def test_a_finished_run_only_says_its_figures_again(
    runs: dict[str, Path], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("tokenizer", runs["tokenizer"], steps=STEPS["tokenizer"])
    before = (runs["tokenizer"] / "model" / "tokenizer.safetensors").read_bytes()
    monkeypatch.setattr(Trainer, "_update", lambda self: pytest.fail("trained on"))
    figures = train(config)
    last = metrics(runs["tokenizer"])[-1]
    assert figures["loss"] == last["loss"]
    assert figures["steps"] == last["step"] == STEPS["tokenizer"]
    assert figures["train_minutes"] > 0
    assert (runs["tokenizer"] / "model" / "tokenizer.safetensors").read_bytes() == before


# -- resume ---------------------------------------------------------------------------------------------------------


def interrupt(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Ctrl-C in the middle of the update that follows ``after`` updates."""
    update, calls = Trainer._update, []

    def counted(self: Trainer) -> Any:
        calls.append(1)
        if len(calls) > after:
            self.stage.loss()  # draws are made, weights are not changed
            raise KeyboardInterrupt
        return update(self)

    monkeypatch.setattr(Trainer, "_update", counted)


def without_seconds(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != "seconds"}


def assert_same_run(found: Path, expected: Path) -> None:
    last = expected / "checkpoints" / "step-00000006"
    for name in ("model", "optimizer", "random"):
        ours, theirs = (
            load_tensors(run / "checkpoints" / last.name / f"{name}.safetensors") for run in (found, expected)
        )
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    states = [read_json(run / "checkpoints" / last.name / "state.json") for run in (found, expected)]
    assert without_seconds(states[0]) == without_seconds(states[1])
    for path in (expected / "model").rglob("*"):
        if path.is_file():
            assert (found / "model" / path.relative_to(expected / "model")).read_bytes() == path.read_bytes(), path.name
    assert [without_seconds(e) for e in metrics(found)] == [without_seconds(e) for e in metrics(expected)]


@pytest.mark.parametrize(
    ("name", "changes"),
    [*((name, {}) for name in NAMES), ("tokenizer", {"adversarial": 0.1, "adversarial_after": 3})],
)
def test_an_interrupted_run_goes_on_bit_by_bit(
    runs: dict[str, Path],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changes: dict[str, Any],
) -> None:
    whole, broken = (
        settings(name, tmp_path / out, world_model=needed(name, runs), **changes) for out in ("whole", "broken")
    )
    train(whole)
    for after in (1, 3):  # before the first checkpoint, and between two
        with monkeypatch.context() as patch:
            interrupt(patch, after)
            with pytest.raises(KeyboardInterrupt):
                train(broken)
    assert [path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()] == ["step-00000002"]
    train(broken)
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


@pytest.mark.parametrize(("composite", "expected"), [(True, 2), (False, 0)])
def test_some_contexts_are_grey_where_start_frames_are_coded_by_themselves(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, composite: bool, expected: int
) -> None:
    stages: list[TokenizerStage] = []
    monkeypatch.setattr(TokenizerStage, "export", lambda self, folder: stages.append(self))
    config = settings("tokenizer", tmp_path, steps=1, grey_share=0.3)
    config.model.tokenizer = replace(config.model.tokenizer, composite=composite)
    train(config)
    context, targets = stages[0]._draw()
    grey = (context == 0.5).flatten(1).all(1)
    assert grey.tolist() == [False] * (6 - expected) + [True] * expected
    assert not (targets == 0.5).flatten(1).all(1).any()


def test_shares_of_the_same_clips_do_not_overlap() -> None:
    with pytest.raises(RoboAlignError, match=r"own_share \+ stage\.grey_share: expected at most 1.*found 0.6 \+ 0.5"):
        TokenizerStageConfig(own_share=0.6, grey_share=0.5)
    with pytest.raises(RoboAlignError, match="grey contexts alone teach nothing"):
        TokenizerStageConfig(own_share=0.0, grey_share=1.0)


def test_draws_differ_between_seeds(settings: Settings, tmp_path: Path) -> None:
    first, other = settings("tokenizer", tmp_path / "a", steps=1), settings("tokenizer", tmp_path / "b", steps=1)
    other.loop.seed = 1
    assert train(first)["loss"] != train(other)["loss"]


# -- refusals -------------------------------------------------------------------------------------------------------


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda config: replace(config, loop=replace(config.loop, lr=1e-3)), "loop"),
        (lambda config: replace(config, loop=replace(config.loop, steps=7)), "loop"),
        (lambda config: replace(config, stage={**config.stage, "clips": 5}), "stage"),
        (lambda config: replace(config, augmentation=replace(config.augmentation, hue=0.0)), "augmentation"),
        (
            lambda config: replace(
                config, model=replace(config.model, tokenizer=replace(config.model.tokenizer, encoder_blocks=2))
            ),
            "model",
        ),
        (lambda config: replace(config, stage={"name": "probe"}), "model|stage"),
    ],
    ids=["rate", "steps", "stage setting", "augmentation", "model", "other stage"],
)
def test_another_configuration_does_not_resume(
    settings: Settings, tmp_path: Path, change: Callable[[TrainConfig], TrainConfig], named: str
) -> None:
    config = settings("tokenizer", tmp_path / "run", steps=2)
    train(config)
    before = snapshot(tmp_path)
    with pytest.raises(
        RoboAlignError, match=rf"expected a checkpoint of this configuration.*\(({named}).*choose a new"
    ):
        train(change(config))
    assert snapshot(tmp_path) == before


def test_other_data_do_not_resume(settings: Settings, tmp_path: Path, new_store: Callable[..., Path]) -> None:
    config = settings("tokenizer", tmp_path / "run", steps=2)
    train(config)
    other = new_store(tmp_path / "other", episodes=3)
    with pytest.raises(RoboAlignError, match=r"expected a checkpoint of this configuration.*\(data"):
        train(replace(config, data=[str(other)]))


def test_how_often_to_save_and_log_may_change(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings("tokenizer", tmp_path / "run", steps=4)
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(config)
    assert train(replace(config, loop=replace(config.loop, checkpoint_every=3, log_every=4)))["steps"] == 4


def test_nothing_is_decoded_or_written_for_a_run_that_cannot_be(
    settings: Settings, tmp_path: Path, new_store: Callable[..., Path], runs: dict[str, Path]
) -> None:
    fresh = new_store(tmp_path / "fresh", episodes=2)
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_bytes((runs["tokenizer"] / "model" / "config.json").read_bytes())
    before = snapshot(tmp_path)
    for stage, changes, message in (
        ("tokenizer", {"stage": {"name": "cooking"}}, "stage: expected one of tokenizer"),
        ("tokenizer", {"stage": {"name": "tokenizer", "colour": 1}}, "stage tokenizer: .*colour"),
        ("tokenizer", {"stage": {"name": "tokenizer", "clips": "many"}}, "stage tokenizer: .*clips|many"),
        ("tokenizer", {"data": []}, "at least one folder"),
        ("tokenizer", {"data": [str(tmp_path / "nowhere")]}, "nowhere"),
        ("tokenizer", {"world_model": str(runs["tokenizer"] / "model")}, "world_model: expected nothing"),
        ("dynamics", {}, "set world_model=FOLDER"),
        ("dynamics", {"world_model": "nowhere"}, "model 'nowhere'"),
        ("dynamics", {"world_model": str(half)}, "tokenizer.safetensors: expected weights"),
        ("dynamics", {"stage": {"name": "dynamics", "lengths": [1]}}, "stage.lengths: expected numbers of at least 2"),
        ("progress", {"world_model": str(runs["tokenizer"] / "model")}, "dynamics/model.safetensors: expected weights"),
    ):
        config = replace(settings(stage, tmp_path / "run"), **{"data": [str(fresh)], **changes})
        with pytest.raises(RoboAlignError, match=message):
            train(config)
        assert snapshot(tmp_path) == before, message
    assert not (tmp_path / "run").exists()


def test_stages_must_fit_each_other(settings: Settings, tmp_path: Path, runs: dict[str, Path]) -> None:
    config = settings("dynamics", tmp_path / "run", world_model=runs["tokenizer"] / "model", lengths=[7])
    with pytest.raises(RoboAlignError, match=r"stage\.lengths: expected at most max_frames 6, found 7"):
        train(config)
    config = settings("probe", tmp_path / "run", column="velocity")
    with pytest.raises(RoboAlignError, match="expected per-frame column 'velocity', found observation"):
        train(config)


def test_frames_have_the_size_of_the_model_that_a_stage_builds_on(
    settings: Settings, tmp_path: Path, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tokenizer's folder decides, not the tokenizer settings of a later command."""
    sizes = []

    def note(self: Any, folders: Any, size: tuple[int, int]) -> None:
        sizes.append(size)
        raise RoboAlignError("far enough")

    monkeypatch.setattr("roboalign_core.training.data.TrainingData.__init__", note)
    config = settings("dynamics", tmp_path / "run", world_model=runs["tokenizer"] / "model")
    config.model.tokenizer = TokenizerConfig(64, 64)
    with pytest.raises(RoboAlignError, match="far enough"):
        train(config)
    assert sizes == [(32, 32)]


def test_sizes_of_the_transformer_are_those_of_the_command(
    settings: Settings, tmp_path: Path, runs: dict[str, Path]
) -> None:
    config = settings("dynamics", tmp_path / "run", steps=1, world_model=runs["tokenizer"] / "model")
    config.model.dynamics = DynamicsConfig(layers=1, dim=16, heads=2, ffn=32, max_frames=5, frame_head_layers=1)
    train(config)
    model = WorldModel.from_pretrained(tmp_path / "run" / "model")
    assert model.config.dynamics == config.model.dynamics
    assert model.config.image_size == (32, 32)
