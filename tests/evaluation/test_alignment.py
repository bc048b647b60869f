"""The study of aligned models: exact where nothing differs, whatever is damaged is worse, nothing is left unsaid."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from toy_benchmark import toy_model
from toy_world import INSTRUCTIONS, make_store, save_world_model

from roboalign_core.benchmark import oracles as benchmark_oracles
from roboalign_core.benchmark.oracles import Tolerance
from roboalign_core.cli import compose
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation import alignment
from roboalign_core.evaluation.alignment import study
from roboalign_core.evaluation.alignment_config import AlignmentStudyConfig
from roboalign_core.evaluation.alignment_report import report_sections
from roboalign_core.evaluation.held_out import load_held_out
from roboalign_core.evaluation.probe import ProbeConfig, ProbeNetwork, StateProbe
from roboalign_core.evaluation.study import load_study
from roboalign_core.evaluation.verb import VERB
from roboalign_core.reward.model import RewardModel
from roboalign_core.reward.student import RewardNetwork
from roboalign_core.rubric import KEYS

pytest.importorskip("matplotlib", reason="matplotlib is not installed")


class ToyOracle:
    """Six scores of how the square moves: as its actions say, and without jumps."""

    source, columns, instructions = "toy", ("y", "x"), INSTRUCTIONS

    def as_seen(self, states: np.ndarray, frames: np.ndarray) -> np.ndarray:
        assert len(frames) == len(states)
        return states

    def score_states(
        self, states: np.ndarray, actions: np.ndarray, instruction: str, tolerance: Tolerance
    ) -> np.ndarray:
        assert states.shape == (len(actions) + 1, 2)
        assert tolerance.noise == 0.01
        moved = np.diff(states, axis=0)
        smooth = float(np.abs(moved).max() < 0.2)
        off = float(np.abs(moved[:, ::-1] - 3 / 32 * actions).mean())
        obeyed = float(off < 0.025)
        return np.array([3 * obeyed, 2 * obeyed, obeyed, smooth, 1, max(0, 2 - 20 * off)], np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, four models of other seeds, and two students."""
    root = tmp_path_factory.mktemp("alignment")
    make_store(root / "held_out", 8)
    for seed in range(4):
        save_world_model(root / f"seed_{seed}", seed)
    save_probe(root / "seed_0", root / "held_out")
    for name, seed in (("student", 0), ("taught", 1)):
        torch.manual_seed(seed)
        RewardModel(toy_model(), RewardNetwork(toy_model())).save_pretrained(root / name, torch.float32)
    return root


def save_probe(folder: Path, store: Path) -> None:
    """A probe that has learned where the square is, within a pixel or so."""
    data = load_held_out(str(store), (32, 32), 11, 0)
    frames = torch.from_numpy(data.frames.reshape(-1, 32, 32, 3)).permute(0, 3, 1, 2) / 255
    places = torch.from_numpy(data.state.reshape(-1, 2))
    config = ProbeConfig(["x", "y"], places.mean(0).tolist(), places.std(0).tolist(), 32, 32, 16)
    torch.manual_seed(0)
    network = ProbeNetwork(config)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    target = (places - places.mean(0)) / places.std(0)
    for _ in range(50):
        optimiser.zero_grad()
        (network(frames) - target).square().mean().backward()
        optimiser.step()
    StateProbe(config, network).save_pretrained(folder)


@pytest.fixture(autouse=True)
def judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's oracle. LPIPS stays out for speed, and so do plots and videos but where a test looks at them."""
    oracles = {"toy": ToyOracle()}
    monkeypatch.setattr(benchmark_oracles, "load_oracle", oracles.get)
    monkeypatch.setattr(alignment, "load_perceptual", lambda: (None, "too slow here"))
    monkeypatch.setattr(alignment, "report_sections", lambda *_: [])


def settings(folder: Path, variants: dict[str, list[int]], **changes: Any) -> AlignmentStudyConfig:
    config = AlignmentStudyConfig(
        models={name: [str(folder / f"seed_{seed}") for seed in seeds] for name, seeds in variants.items()},
        data=str(folder / "held_out"),
        horizons=[3, 8],
        noise=0.01,
        effector=["x", "y"],
        objects={"square": ["x", "y"]},
        regions={"object": ["square"]},
        resamples=200,
        batch=3,
        videos=1,
    )
    return dataclasses.replace(config, **changes)


def test_identical_models_differ_by_exactly_nothing(folder: Path, tmp_path: Path) -> None:
    config = settings(folder, {"sft": [0, 1], "aligned": [0, 1]}, training_reward={"aligned": "brightness"})
    figures = study(config, str(tmp_path))
    differences = {name: value for name, value in figures.items() if "aligned_minus_sft" in name or "_pct" in name}
    assert len(differences) > 60
    assert set(differences.values()) == {0.0}
    assert figures["aligned_h8_reward_hacking_sd"] == 0
    assert figures["sft_seeds"] == figures["aligned_seeds"] == 2
    assert not [name for name in figures["missing"] if "seed" in name]
    assert figures["detail"]["seeds"]["aligned"]["paired"]
    json.dumps(figures, allow_nan=False)


def test_seeds_are_counted_and_one_alone_is_said(folder: Path, tmp_path: Path) -> None:
    config = settings(folder, {"sft": [0], "aligned": [1, 2, 3]}, judges=["pixels"])
    several = study(config, str(tmp_path / "several"))
    assert several["aligned_seeds"] == 3
    assert "over episodes alone" in several["missing"]["sft_seed_variation"]
    assert "aligned_seed_variation" not in several["missing"]
    assert several["episodes"] == 8
    apart = settings(folder, {"sft": [0], "a": [1], "b": [2], "c": [3]}, judges=["pixels"])
    single = study(apart, str(tmp_path / "single"))
    each = [single[f"{name}_minus_sft_h8_psnr_db"] for name in "abc"]
    assert several["aligned_minus_sft_h8_psnr_db"] == pytest.approx(np.mean(each))
    assert "a_seed_variation" in single["missing"]


@pytest.mark.usefixtures("judges")
def test_models_are_drawn_from_with_the_same_noise(folder: Path, tmp_path: Path) -> None:
    found = {}
    for temperature in (0.0, 1.0):
        config = settings(folder, {"sft": [0], "same": [0]}, judges=["pixels"], temperature=temperature)
        figures = found[temperature] = study(config, str(tmp_path / str(temperature)))
        assert figures["same_minus_sft_h8_psnr_db"] == 0
        assert study(config, str(tmp_path / "again"))["sft_h8_psnr_db"] == figures["sft_h8_psnr_db"]
    assert found[1.0]["sft_h8_psnr_db"] != found[0.0]["sft_h8_psnr_db"]


def frozen_after(frames: np.ndarray, step: int) -> np.ndarray:
    result = frames.copy()
    result[:, step:] = result[:, step - 1 : step]
    return result


@pytest.fixture
def report(judges: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole report."""
    monkeypatch.setattr(alignment, "report_sections", report_sections)


def give(monkeypatch: pytest.MonkeyPatch, futures: dict[str, Any]) -> None:
    """Models, by the names of their folders, that imagine what a function makes of the recorded frames."""

    def imagine(model: Any, trial: Any, config: AlignmentStudyConfig, name: str) -> Iterator[np.ndarray]:
        for batch, _ in trial.batches:
            yield futures[Path(name).name](batch.frames)

    monkeypatch.setattr(alignment, "_imagine", imagine)


@pytest.mark.usefixtures("report")
def test_what_is_damaged_on_purpose_is_worse(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference imagines what was recorded, the other one stands still and grows brighter."""

    def damaged(frames: np.ndarray) -> np.ndarray:
        still = frozen_after(frames, 2).astype(int)
        still[:, 1:] += 40
        return still.clip(0, 255).astype(np.uint8)

    give(monkeypatch, {"seed_0": np.copy, "seed_1": damaged})
    config = settings(folder, {"sft": [0], "aligned": [1]}, training_reward={"aligned": ["brightness"]})
    figures = study(config, str(tmp_path))
    for name in ("psnr_db", "ssim", "object_psnr_db", "oracle_total", "oracle_action_outcome_consistency"):
        assert figures[f"aligned_minus_sft_h8_{name}_ci_high"] < 0, name
    for name in ("effector_error_cm", "moved_object_error_cm", "repetition_rate", "oracle_error"):
        assert figures[f"aligned_minus_sft_h8_{name}_ci_low"] > 0, name
    for name in ("total", *KEYS):
        assert figures[f"sft_h8_oracle_{name}"] == figures[f"real_h8_oracle_{name}"]
    assert figures["sft_h8_psnr_db"] == 100
    assert figures["sft_h8_repetition_rate"] == figures["sft_h8_oracle_error"] == 0
    assert figures["aligned_h3_repetition_rate"] == pytest.approx(2 / 3)
    change = 100 * (figures["aligned_h8_oracle_total"] / figures["sft_h8_oracle_total"] - 1)
    assert figures["aligned_over_sft_h8_oracle_total_pct"] == pytest.approx(change)
    assert figures["aligned_minus_sft_h8_training_reward_ci_low"] > 0.1, "it is brighter, as it was taught"
    gap = figures["aligned_h8_training_gain_sd"] - figures["aligned_h8_total_gain_sd"]
    assert figures["aligned_h8_reward_hacking_sd"] == pytest.approx(gap)
    assert figures["aligned_h8_reward_hacking_sd_ci_low"] > 0
    page = (tmp_path / "report.html").read_text()
    assert "aligned is worse than sft" in page
    assert page.count("<video") == 1
    assert page.count("<img") == 2


@pytest.mark.usefixtures("report")
def test_strips_show_the_highest_training_reward(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bright(frames: np.ndarray) -> np.ndarray:
        result = frames.copy()
        result[5, 1:] = 255
        return result

    give(monkeypatch, {"seed_0": np.copy, "seed_1": bright})
    config = settings(folder, {"sft": [0], "aligned": [1]}, training_reward={"aligned": "brightness"}, batch=8)
    study(config, str(tmp_path))
    assert "aligned, episode 5: “go right”" in (tmp_path / "report.html").read_text()


def test_students_judge_too_unless_they_taught(folder: Path, tmp_path: Path) -> None:
    models = {"sft": [0], "aligned": [1]}
    taught, student = str(folder / "taught"), str(folder / "student")
    config = settings(folder, models, judges=[], students=[student], training_reward={"aligned": taught})
    figures = study(config, str(tmp_path))
    assert figures["sft_h8_student_1_total"] == figures["sft_h8_students_total"]
    six = sum(figures[f"aligned_h8_student_1_{key}"] for key in KEYS)
    assert figures["aligned_h8_students_total"] == pytest.approx(six)
    points = figures["aligned_minus_sft_h8_training_reward"] - figures["aligned_minus_sft_h8_students_total"]
    assert figures["aligned_h8_reward_hacking_points"] == pytest.approx(points)
    assert figures["missing"]["oracle"] == "not among study.judges"
    assert "sft_h8_psnr_db" not in figures
    with pytest.raises(RoboAlignError, match=r"study\.students: .*found .*taught, the training reward of aligned"):
        study(dataclasses.replace(config, students=[student, taught]), str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_what_cannot_be_measured_is_missing_with_the_reason(folder: Path, tmp_path: Path) -> None:
    config = settings(folder, {"sft": [0], "aligned": [1]}, judges=["pixels", "positions"], effector=[], objects={})
    missing = study(config, str(tmp_path))["missing"]
    assert missing["oracle"] == missing["repetition"] == "not among study.judges"
    assert missing["positions"] == "study.effector and study.objects name no state columns"
    assert missing["total"] == "neither an oracle nor a student among the judges"
    assert missing["aligned_h8_reward_hacking"] == "no study.training_reward.aligned given"


def test_bad_settings_are_refused(folder: Path) -> None:
    models = {"sft": [0], "aligned": [1]}
    for changes, said in (
        ({"reference": "base"}, r"study\.reference: expected one of study\.models \(sft, aligned\), found 'base'"),
        ({"judges": ["taste"]}, r"study\.judges: .*found 'taste'"),
        ({"judges": []}, r"study\.judges: expected at least one"),
        ({"horizons": [0]}, r"study\.horizons"),
        ({"order": "sideways"}, r"study\.order"),
        ({"mode": "sideways"}, r"study\.mode"),
        ({"temperature": float("inf")}, r"study\.temperature: expected a finite number of 0 or more, found inf"),
        ({"resamples": 0}, r"study\.resamples"),
        ({"training_reward": {"sft": "mae"}}, r"study\.training_reward: .*\(aligned\), found 'sft'"),
        ({"training_reward": {"aligned": []}}, r"study\.training_reward\.aligned: expected a reward's name"),
        (
            {"training_reward": {"aligned": "mae"}, "training_weights": {"aligned": {"mae": "much"}}},
            r"study\.training_weights\.aligned: expected dimension: number",
        ),
        ({"training_weights": {"aligned": {"mae": 2.0}}}, r"study\.training_weights: .*\(none\), found 'aligned'"),
    ):
        with pytest.raises(RoboAlignError, match=said):
            settings(folder, models, **changes)
    for models, said in (
        ({"sft": [0]}, "two variants or more"),
        ({"sft": [0], "aligned": []}, r"study\.models\.aligned: expected one model or more"),
        ({"sft": [0], "aligned": [1, 1]}, r"study\.models\.aligned: .*each once"),
        ({"sft": [0], "real": [1]}, "found 'real'"),
        ({"sft": [0], "a-b": [1]}, "found 'a-b'"),
    ):
        with pytest.raises(RoboAlignError, match=said):
            settings(folder, models)


def test_what_does_not_fit_together_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, out = {"sft": [0], "aligned": [1]}, tmp_path / "out"
    wide = {"action_dim": 3, "action_low": [-1.0] * 3, "action_high": [1.0] * 3}
    save_world_model(tmp_path / "wide", **wide)
    other = {"sft": [str(folder / "seed_0")], "aligned": [str(tmp_path / "wide")]}
    for changes, said in (
        ({"models": other}, r"study\.models\.aligned: .*wide: expected actions of width 2 .*found 3"),
        ({"horizons": [50]}, "longer than 50 frames, found 0"),
        ({"probe": str(folder / "seed_1")}, r"study\.probe: .*leave oracle and positions out"),
        ({"effector": ["z"]}, "columns among x, y, found 'z'"),
        ({"regions": {"robot": ["hand"]}}, "expected one of square, found 'hand'"),
        ({"training_reward": {"aligned": "nonsense"}}, r"study\.training_reward\.aligned: expected some of mae, .*"),
        ({"students": [str(folder / "seed_0")]}, "expected a reward model"),
    ):
        with pytest.raises(RoboAlignError, match=said):
            study(settings(folder, models, **changes), str(out))
    monkeypatch.setattr(benchmark_oracles, "load_oracle", {}.get)
    with pytest.raises(RoboAlignError, match=r"oracle: expected one for episodes of 'toy' .*found none"):
        study(settings(folder, models), str(out))
    assert not out.exists()


def test_an_oracle_that_cannot_judge_these_episodes_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(folder, {"sft": [0], "aligned": [1]})
    for name, value, said in (
        ("instructions", ("go left",), r"study\.data: expected instructions .*found 'go right'"),
        ("columns", ("x", "z"), r"study\.judges: oracle of 'toy': expected a probe that reads 'z'"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(ToyOracle, name, value)
            with pytest.raises(RoboAlignError, match=said):
                study(config, str(tmp_path / "out"))


def test_it_is_found_by_its_name() -> None:
    assert load_study("alignment").config is AlignmentStudyConfig


def test_the_yaml_node_mirrors_the_dataclass() -> None:
    models, reward = "study.models={sft:[a],aligned:[b,c]}", "study.training_reward={aligned:[mae,lpips]}"
    weights = "study.training_weights={aligned:{mae:2}}"
    given = compose(VERB, ["study=alignment", models, reward, weights, "study.data=d", "out=o"]).study
    del given["name"]
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(AlignmentStudyConfig), given))
    assert isinstance(config, AlignmentStudyConfig)
    assert config.rewards == {"aligned": ["mae", "lpips"]}
    assert config.weights_of("aligned") == {"mae": 2}
    named = ("models", "data", "effector", "objects", "regions", "training_reward", "training_weights")
    assert config == AlignmentStudyConfig(**{name: given[name] for name in named})
    assert given.keys() == {field.name for field in dataclasses.fields(config)}
