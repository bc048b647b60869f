"""Generated pairs: what a world model imagines along recorded actions, judged by what a probe reads in its frames."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_world import INSTRUCTIONS, save_world_model, toy_episode

from roboalign_core.benchmark import Benchmark, Origin, build, sources
from roboalign_core.benchmark.build import BuildConfig
from roboalign_core.benchmark.generate import Generator
from roboalign_core.benchmark.oracles import READ, Tolerance
from roboalign_core.benchmark.sources import open_sources
from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec
from roboalign_core.episodes.resize import resize
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.probe import ProbeConfig, ProbeNetwork, StateProbe
from roboalign_core.world_model import WorldModel

STATE, SIZE = "observation.state", (40, 48)  # not the models' size


class ToyOracle:
    """Recordings are perfect; what is imagined is scored by every state and action of it."""

    source, columns, instructions = "toy", ("x", "y"), INSTRUCTIONS

    def score(self, episode: Episode, instruction: str) -> np.ndarray:
        return np.array([3, 2, 1, 1, 1, 2], np.float32)

    def as_seen(self, states: np.ndarray, frames: np.ndarray) -> np.ndarray:
        return np.where(frames.mean((1, 2, 3))[:, None] < 105, np.nan, states)  # those near the start

    def score_states(
        self, states: np.ndarray, actions: np.ndarray, instruction: str, tolerance: Tolerance
    ) -> np.ndarray:
        assert tolerance == READ
        assert states.shape == actions.shape
        x, y = _share(np.nanmean(states, axis=0))
        along, lost = _share(np.nansum(states * actions)), np.isnan(states).mean()
        return np.array([3 * x, 2 * y, along, lost, INSTRUCTIONS.index(instruction), 0], np.float32)


def _share(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def save_probe(folder: Path, columns: tuple[str, ...] = ("x", "y")) -> None:
    """Of random weights, so large that it reads something else in every frame."""
    config = ProbeConfig(list(columns), [-1.6, 0.3], [1.0, 1.0], 32, 32, 8)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        network = ProbeNetwork(config)
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    StateProbe(config, network).save_pretrained(folder)


def store_of(path: Path, source: str = "toy", width: int = 2) -> Path:
    """Episodes of two lengths, larger than the models see them."""
    episodes = [toy_episode(seed, 9 + 3 * (seed % 2)) for seed in range(4)]
    episodes = [
        replace(
            each,
            source=source,
            frames=resize(each.frames, SIZE),
            actions=np.pad(each.actions, [(0, 0), (0, width - 2)]),
            extras={STATE: each.extras[STATE]},
        )
        for each in episodes
    ]
    spec = StoreSpec.like(episodes[0], extras={STATE: ("x", "y")}, lossless=True)
    EpisodeStore.create(path, spec).append(episodes)
    return path


@pytest.fixture
def models(tmp_path: Path) -> list[str]:
    """Two world models; the first brings the probe for both."""
    folders = [save_world_model(tmp_path / f"model_{seed}", seed) for seed in (0, 1)]
    save_probe(folders[0])
    return [str(folder) for folder in folders]


@pytest.fixture(autouse=True)
def toys_have_an_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "load_oracle", lambda source: ToyOracle() if source == "toy" else None)


def settings(out: Path, stores: list[Path], models: list[str], **changes: object) -> BuildConfig:
    usual = {"out": str(out), "stores": [str(store) for store in stores], "models": models, "pairs": 32, "seed": 1}
    origins = {"recorded": 0.2, "degraded": 0.3, "generated": 0.5}
    words = {"degradations": {"instruction_swap": 1.0}, "combined": 0.0}
    return BuildConfig(**{**usual, **words, "origins": origins, "crf": 0, **changes})  # type: ignore[arg-type]


def imagined(model: WorldModel, recorded: Episode) -> np.ndarray:
    """The first recorded frame, and what the model imagines along the recorded actions."""
    rollout = model.rollout(recorded.frames[0], recorded.actions[None, :-1], "swr", order="frame")
    return np.concatenate([recorded.frames[:1], resize(rollout.frames[0], SIZE)])


def difference(video: np.ndarray, other: np.ndarray) -> float:
    """The mean of pixels, as far as both go; the first frame, which videos share, is left out."""
    length = min(len(video), len(other))
    return float(np.abs(video[1:length].astype(float) - other[1:length]).mean())


def test_generated_pairs_are_imagined_along_recorded_actions(
    tmp_path: Path, models: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_BATCH", 8)
    folder = store_of(tmp_path / "store")
    (source,) = open_sources(folder)
    recordings = dict(zip(source.parents, EpisodeStore.open(folder), strict=True))
    rollouts = {
        (name, parent): imagined(WorldModel.from_pretrained(name), recorded)
        for name in models
        for parent, recorded in recordings.items()
    }
    assert min(difference(*pair) for pair in combinations(rollouts.values(), 2)) > 10
    probe, oracle = StateProbe.from_pretrained(models[0]), ToyOracle()
    figures = build.build(settings(tmp_path / "out", [folder], models))
    benchmark = Benchmark.open(tmp_path / "out")
    scores: dict[tuple[str, str], tuple[float, ...]] = {}
    for pair in benchmark.pairs:
        recorded, video = recordings[pair.parent], benchmark.episode(pair)
        assert np.abs(video.frames[0].astype(int) - recorded.frames[0]).mean() < 1
        np.testing.assert_array_equal(video.actions, recorded.actions)
        assert video.extras == {}
        if pair.origin is not Origin.GENERATED:
            assert pair.provenance == ""
            assert difference(video.frames, recorded.frames) < 1
            continue
        name = json.loads(pair.provenance)["model"]
        frames = rollouts[name, pair.parent]
        assert len(video) == len(frames)
        assert difference(video.frames, frames) < 1
        expected = oracle.score_states(
            oracle.as_seen(probe.read(frames), frames), recorded.actions, recorded.instruction, READ
        )
        np.testing.assert_allclose(pair.scores, expected, atol=0.02)
        assert (pair.labeller, pair.instruction, pair.degradations) == ("oracle", recorded.instruction, ())
        assert video.success is None
        scores[name, pair.parent] = pair.scores
    assert {name for name, _ in scores} == set(models)
    assert len(set(scores.values())) == len(scores) > 4
    assert figures["pairs_generated"] == sum(pair.origin is Origin.GENERATED for pair in benchmark.pairs) > 8


def test_their_provenance_says_how_they_were_imagined(tmp_path: Path, models: list[str]) -> None:
    shutil.copytree(models[0], tmp_path / "copy")
    probe, weights = StateProbe.from_pretrained(models[0]), []
    for name in (*models, str(tmp_path / "copy")):
        said = json.loads(Generator(name, probe).provenance)
        weights.append(said.pop("weights"))
        assert said == {"model": name, "mode": "swr", "window": 3, "order": "frame"}
    assert weights[0] == weights[2] != weights[1]


def test_only_what_an_oracle_can_judge_is_imagined(tmp_path: Path, models: list[str]) -> None:
    stores = [store_of(tmp_path / "toy"), store_of(tmp_path / "real", source="real")]
    build.build(settings(tmp_path / "out", stores, models[:1]))
    pairs = Benchmark.open(tmp_path / "out").pairs
    assert {pair.source for pair in pairs} == {"toy", "real"}
    assert {pair.source for pair in pairs if pair.origin is Origin.GENERATED} == {"toy"}


@pytest.mark.parametrize(
    ("store", "columns"),
    [({"source": "real"}, ("x", "y")), ({"width": 3}, ("x", "y")), ({}, ("x", "z"))],
    ids=["no oracle", "other actions", "other state"],
)
def test_models_that_fit_no_store_are_refused(
    tmp_path: Path, models: list[str], store: dict[str, object], columns: tuple[str, ...]
) -> None:
    save_probe(Path(models[0]), columns)
    folder = store_of(tmp_path / "store", **store)  # type: ignore[arg-type]
    with pytest.raises(RoboAlignError, match=r"models: expected actions and a state probe that fit one of the stores"):
        build.build(settings(tmp_path / "out", [folder], models))
