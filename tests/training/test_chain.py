"""All stages in a row, bundled, and every command that uses a model on the result."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roboalign_core.benchmarks import session
from roboalign_core.benchmarks.verb import BenchConfig
from roboalign_core.benchmarks.verb import run as bench
from roboalign_core.episodes import EpisodeStore
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.metrics import psnr
from roboalign_core.evaluation.rollout import RolloutConfig
from roboalign_core.evaluation.rollout import run as rollout
from roboalign_core.evaluation.swr import SwrStudyConfig
from roboalign_core.evaluation.swr import study as swr_study
from roboalign_core.evaluation.world_model import WorldModelStudyConfig, _derangement, study
from roboalign_core.files import read_json, write_json
from roboalign_core.images import read_image
from roboalign_core.planning import Plan, Planner, search_config
from roboalign_core.planning.verb import PlanConfig
from roboalign_core.planning.verb import run as plan
from roboalign_core.reward import ProgressModel
from roboalign_core.reward.progress import ProgressConfig, ProgressHead
from roboalign_core.training.bundle import BundleConfig, _check_order, bundle
from roboalign_core.training.verb import TrainConfig, train
from roboalign_core.world_model import WorldModel
from roboalign_core.world_model.rollout import Mode, Order

PROVENANCE = {"command": "roboalign train …", "seed": 0, "git": "x", "machine": "a machine", "versions": {}}


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, settings: Callable[..., TrainConfig], store: Path
) -> dict[str, Path]:
    """Finished run folders by stage."""
    root = tmp_path_factory.mktemp("runs")
    folders = {stage: root / stage for stage in ("tokenizer", "dynamics", "progress", "probe")}
    needs = {"dynamics": folders["tokenizer"] / "model", "progress": folders["dynamics"] / "model"}
    for stage, folder in folders.items():
        figures = train(settings(stage, folder, steps=4, world_model=needs.get(stage, "")))
        write_json(folder / "results.json", {**figures, **PROVENANCE})
    write_json(store / "results.json", {"episodes": 16, **PROVENANCE})
    return folders


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, runs: dict[str, Path], store: Path) -> Path:
    """The bundled model folder."""
    out = tmp_path_factory.mktemp("models") / "toy"
    parts = [str(runs[stage]) for stage in ("dynamics", "progress", "probe")]
    figures = bundle(BundleConfig(parts, data=str(store), title="Toy", out=str(out)))
    assert figures["parts"] == 3
    assert figures["size_mb"] > 0
    return out


@pytest.fixture(scope="module")
def two_frames(tmp_path_factory: pytest.TempPathFactory, new_world_model: Callable[..., Path]) -> Path:
    """Random weights, with a context of two frames, so that what was seen before matters, and a head."""
    folder = new_world_model(tmp_path_factory.mktemp("two_frames"), seed=1, context_frames=2)
    sizes = {"cells": 32, "channels": 32, "dim": 32, "width": 16, "slots": 2, "hidden": 16}
    config = ProgressConfig(["go left", "go right"], ["x", "y"], **sizes)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        head = ProgressHead(config)
        for parameter in head.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)  # otherwise what the frames show would hardly matter
    ProgressModel(config, head).save_pretrained(folder)
    return folder


def study_config(model: Path, store: Path) -> WorldModelStudyConfig:
    return WorldModelStudyConfig(
        world_model=str(model),
        data=str(store),
        horizons=[1, 8],
        order="frame",
        effector=["x", "y"],
        objects={"square": ["x", "y"]},
        regions={"object": ["square"]},
        videos=1,
    )


def test_bundle_holds_a_whole_model_and_a_card(model: Path) -> None:
    WorldModel.from_pretrained(model)
    ProgressModel.from_pretrained(model)
    card = (model / "README.md").read_text()
    for text in ("| dynamics |", "a machine", "license: apache-2.0"):
        assert text in card


def test_a_card_carries_the_figures_that_are_named(runs: dict[str, Path], store: Path, tmp_path: Path) -> None:
    figures = {f"{name}{end}": 1.5 for name in ("a_db", "b_db") for end in ("", "_ci_low", "_ci_high")}
    write_json(tmp_path / "held_out" / "results.json", {**figures, "plain": 3, "episodes": 8, **PROVENANCE})
    config = BundleConfig(
        [str(runs["dynamics"])],
        studies=[str(tmp_path / "held_out" / "results.json")],
        data=str(store),
        title="Toy",
        out=str(tmp_path / "model"),
    )
    bundle(config)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "## Figures: held_out" in card
    assert "| a_db | 1.5 | 1.5 … 1.5 |" in card
    assert "| b_db |" in card
    assert "plain" not in card, "no interval, no figure"
    bundle(dataclasses.replace(config, figures=["b_db"]))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "| b_db |" in card
    assert "| a_db |" not in card


def test_bundle_sets_the_window_that_a_study_found(runs: dict[str, Path], store: Path, tmp_path: Path) -> None:
    parts = [str(runs[name]) for name in ("tokenizer", "dynamics")]
    config = BundleConfig(parts, data=str(store), title="Toy", out=str(tmp_path / "model"), window=2)
    bundle(config)
    assert WorldModel.from_pretrained(tmp_path / "model").config.window == 2
    with pytest.raises(RoboAlignError, match=r"world model window: expected 1 to 5 frames"):
        bundle(dataclasses.replace(config, window=6, out=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


def test_a_run_that_would_undo_another_is_refused(runs: dict[str, Path], store: Path, tmp_path: Path) -> None:
    wrong = [str(runs[name]) for name in ("dynamics", "tokenizer", "progress")]
    config = BundleConfig(wrong, data=str(store), title="Toy", out=str(tmp_path / "model"))
    with pytest.raises(RoboAlignError, match=r"runs: expected .*tokenizer before .*dynamics .* both hold config\.json"):
        bundle(config)
    assert not (tmp_path / "model").exists()


def test_a_run_may_replace_all_that_it_started_from(tmp_path: Path) -> None:
    runs = [tmp_path / name for name in ("first", "second", "third")]
    for run, start in zip(runs, ([], [], runs[:2]), strict=True):
        (run / "model").mkdir(parents=True)
        (run / "model" / "weights").write_text("")
        write_json(run / "run.json", {"identity": {"stage": {"start": [str(each) for each in start]}}})
    _check_order([runs[0], runs[2]])
    _check_order([runs[1], runs[2]])
    with pytest.raises(RoboAlignError, match=r"second before .*third or built on it"):
        _check_order([runs[2], runs[1]])


def test_the_card_names_the_benchmark_of_a_student(runs: dict[str, Path], store: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs").mkdir()
    write_json(tmp_path / "pairs/results.json", {"command": "roboalign benchmark build …", "pairs": 7, "seed": 3})
    parts, pairs = [str(runs["tokenizer"])], str(tmp_path / "pairs")
    bundle(BundleConfig(parts, data=str(store), benchmark=pairs, title="Toy", out=str(tmp_path / "model")))
    assert "`roboalign benchmark build …`: 7 pairs, seed 3." in (tmp_path / "model/README.md").read_text()


def test_two_runs_of_one_name_are_refused(runs: dict[str, Path], store: Path, tmp_path: Path) -> None:
    (tmp_path / "later").mkdir()
    (tmp_path / "later/dynamics").symlink_to(runs["dynamics"])
    twice = [str(runs["tokenizer"]), str(runs["dynamics"]), str(tmp_path / "later/dynamics")]
    with pytest.raises(
        RoboAlignError, match=r"runs: expected folders with names of their own, found .*dynamics, .*later"
    ):
        bundle(BundleConfig(twice, data=str(store), title="Toy", out=str(tmp_path / "model")))
    assert not (tmp_path / "model").exists()


def test_bundle_without_results_writes_nothing(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "unfinished").mkdir()
    config = BundleConfig([str(tmp_path / "unfinished")], data=str(tmp_path), title="x", out=str(tmp_path / "out"))
    with pytest.raises(RoboAlignError, match="unfinished"):
        bundle(config)
    assert not (tmp_path / "out").exists()


def test_world_model_study_measures_what_it_says(model: Path, store: Path, tmp_path: Path) -> None:
    figures = study(study_config(model, store), str(tmp_path))
    assert figures["episodes"] == 16
    for key in (
        "rollout_h8_psnr_db",
        "copy_h8_psnr_db",
        "tokenizer_d8_psnr_db",
        "action_gap_h8_db",
        "idle_gap_h8_db",
        "tokenizer_d8_object_psnr_db",
        "tokenizer_d8_object_lost",
        "rollout_h8_roi_psnr_db",
        "repetition_rate",
        "imagined_state_cm",
    ):
        assert figures[f"{key}_ci_low"] <= figures[key] <= figures[f"{key}_ci_high"]
    assert figures["over_copy_h8_db"] == pytest.approx(
        figures["rollout_h8_psnr_db"] - figures["copy_h8_psnr_db"], abs=1e-6
    )
    assert 0 < figures["codebook_used"] <= figures["codebook_size"] == 24
    assert figures["rollout_h8_moved_object_error_cm"] > 0
    assert figures["copy_h8_effector_error_cm"] > figures["copy_h1_effector_error_cm"], "the square wanders off"
    assert figures["copy_h8_object_lost"] > 0.5
    assert figures["copy_h8_object_psnr_db"] < figures["copy_h8_psnr_db"]
    assert figures["imagined_state_cm"] == figures["rollout_h8_state_error_cm"]
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_gaps_are_what_the_actions_of_another_episode_and_none_at_all_cost(
    world_model: Path, store: Path, tmp_path: Path
) -> None:
    config = WorldModelStudyConfig(
        world_model=str(world_model), data=str(store), episodes=4, horizons=[5], order="frame", batch=1, videos=1
    )
    figures = study(config, str(tmp_path))
    model, episodes = WorldModel.from_pretrained(world_model), [EpisodeStore.open(store)[index] for index in range(4)]

    def psnr_db(actions: list[np.ndarray]) -> float:
        imagined = [
            model.rollout(episode.frames[0], each[None, :5], "plain", order="frame").frames[0, -1]
            for episode, each in zip(episodes, actions, strict=True)
        ]
        return float(psnr(np.stack(imagined), np.stack([episode.frames[5] for episode in episodes])).mean())

    own = [episode.actions for episode in episodes]
    for name, actions in (
        ("action_gap", [own[index] for index in _derangement(4, 0)]),
        ("idle_gap", [np.zeros_like(each) for each in own]),
    ):
        gap = psnr_db(own) - psnr_db(actions)
        assert figures[f"{name}_h5_db"] == pytest.approx(gap, abs=1e-6)
        assert abs(gap) > 1e-3, "actions matter to this model"


@pytest.mark.parametrize("count", [2, 3, 16])
def test_each_episode_gets_the_actions_of_another(count: int) -> None:
    for seed in range(20):
        other = _derangement(count, seed)
        assert sorted(other) == list(range(count))
        assert (other != np.arange(count)).all()
    if count == 16:
        assert len({tuple(_derangement(count, seed)) for seed in range(20)}) == 20


def test_world_model_study_compares_with_a_baseline(model: Path, store: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(study_config(model, store), baseline=str(model), baseline_order="frame")
    same = study(config, str(tmp_path))
    differences = {key: value for key, value in same.items() if key.startswith("minus_baseline_")}
    assert "minus_baseline_rollout_h8_roi_psnr_db" in differences
    assert set(differences.values()) == {0.0}
    other = study(dataclasses.replace(config, baseline_order="token"), str(tmp_path))
    assert other["minus_baseline_rollout_h8_psnr_db"] != 0


def test_world_model_study_refuses_what_it_cannot_measure(model: Path, store: Path, tmp_path: Path) -> None:
    config = study_config(model, store)
    with pytest.raises(RoboAlignError, match="longer than 50 frames, found 0"):
        study(dataclasses.replace(config, horizons=[50]), str(tmp_path / "out"))
    with pytest.raises(RoboAlignError, match="columns among x, y, found 'z'"):
        study(dataclasses.replace(config, effector=["z"]), str(tmp_path / "out"))
    with pytest.raises(RoboAlignError, match="expected one of square, found 'hand'"):
        study(dataclasses.replace(config, regions={"robot": ["hand"]}), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def swr_config(model: Path, store: Path) -> SwrStudyConfig:
    return SwrStudyConfig(
        world_model=str(model),
        data=str(store),
        windows=[2, 4],
        horizons=[4, 11],
        effector=["x", "y"],
        objects={"square": ["x", "y"]},
        videos=1,
    )


def test_swr_study_compares_on_the_same_episodes(model: Path, store: Path, tmp_path: Path) -> None:
    figures = swr_study(swr_config(model, store), str(tmp_path))
    assert figures["episodes"] == 16
    for key in ("psnr_db", "ssim", "effector_error_cm", "moved_object_error_cm"):
        for baseline in ("plain", "frozen"):
            difference = figures[f"swr_w2_minus_{baseline}_h11_{key}"]
            if key != "moved_object_error_cm":  # known for some episodes only
                means = figures[f"swr_w2_h11_{key}"] - figures[f"{baseline}_h11_{key}"]
                assert difference == pytest.approx(means, abs=1e-6)
    # 16 context tokens, then 4 of a frame and 2 of its action: a window of two frames holds no more than two steps.
    assert figures["swr_w2_peak_tokens"] == 16 + 2 * 6
    assert figures["swr_w4_peak_tokens"] == 16 + 4 * 6
    assert figures["frozen_peak_tokens"] == 16 + 3 * 6
    assert figures["plain_peak_tokens"] == 16 + 5 * 6
    assert all(figures[f"{name}_frame_ms"] > 0 for name in ("plain", "frozen", "swr_w2", "swr_w4"))
    window = int(figures["window"])
    assert figures["peak_memory_ratio"] == figures[f"swr_w{window}_peak_cache_mb"] / figures["plain_peak_cache_mb"]
    # The cache grows in whole tiles: 28 tokens take one, 40 and 46 take two.
    assert figures["swr_w2_peak_cache_mb"] < figures["swr_w4_peak_cache_mb"] == figures["plain_peak_cache_mb"]
    for baseline in ("plain", "frozen"):
        gain = figures[f"swr_vs_{baseline}_h11_ssim_gain_pct"]
        ours, theirs = figures[f"swr_w{window}_h11_ssim"], figures[f"{baseline}_h11_ssim"]
        assert gain == pytest.approx(100 * (ours - theirs) / theirs, abs=1e-6)
        name = figures["detail"]["perceptual"]  # what stands for LPIPS here
        if name is None:
            assert "lpips" in figures["missing"]
            continue
        ours, theirs = figures[f"swr_w{window}_h11_{name}"], figures[f"{baseline}_h11_{name}"]
        gain = figures[f"swr_vs_{baseline}_h11_perceptual_gain_pct"]
        assert gain == pytest.approx(100 * (theirs - ours) / theirs, abs=1e-6)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_swr_study_rolls_each_variant_out_in_its_own_way(world_model: Path, store: Path, tmp_path: Path) -> None:
    config = SwrStudyConfig(
        world_model=str(world_model), data=str(store), episodes=2, windows=[2], horizons=[4, 11], batch=1, videos=1
    )
    figures = swr_study(config, str(tmp_path))
    model, episodes = WorldModel.from_pretrained(world_model), [EpisodeStore.open(store)[index] for index in range(2)]
    variants: list[tuple[str, Mode, int]] = [
        ("plain", "plain", 5),
        ("frozen", "frozen", 3),
        ("swr_w2", "swr", 2),
        ("swr_w3", "swr", 3),
    ]
    values: dict[str, np.ndarray] = {}
    for name, mode, window in variants:
        pairs = [
            (model.rollout(each.frames[0], each.actions[None, :11], mode, window, "frame").frames[0], each.frames[1:])
            for each in episodes
        ]
        for horizon in (4, 11):
            found = values[name] = np.array(
                [psnr(imagined[horizon - 1], real[horizon - 1]) for imagined, real in pairs]
            )
            assert figures[f"{name}_h{horizon}_psnr_db"] == pytest.approx(found.mean(), abs=1e-6)
    means = sorted(found.mean() for found in values.values())
    assert np.diff(means).min() > 1e-3, "no variant is another one on this model"
    for name in ("swr_w2", "swr_w3"):
        for baseline in ("plain", "frozen"):
            difference = (values[name] - values[baseline]).mean()
            assert figures[f"{name}_minus_{baseline}_h11_psnr_db"] == pytest.approx(difference, abs=1e-6)


def test_figures_do_not_depend_on_how_finely_curves_are_drawn(model: Path, store: Path, tmp_path: Path) -> None:
    coarse, fine = (
        swr_study(dataclasses.replace(swr_config(model, store), every=every), str(tmp_path)) for every in (5, 1)
    )
    assert coarse["detail"]["steps"] == [1, 4, 5, 10, 11]
    assert fine["detail"]["steps"] == list(range(1, 12))
    for key in (
        "swr_w2_h11_psnr_db",
        "plain_h4_effector_error_cm",
        "swr_w4_minus_frozen_h11_ssim",
        "swr_w4_h11_moved_object_error_cm",
    ):
        assert coarse[key] == fine[key]
    curves = [figures["detail"]["per_horizon"]["swr_w2"]["psnr_db"] for figures in (coarse, fine)]
    assert curves[0] == [curves[1][step - 1] for step in coarse["detail"]["steps"]]


def test_within_the_first_window_re_encoding_changes_nothing(model: Path, store: Path, tmp_path: Path) -> None:
    """Up to the trained length the plain rollout and one long window are the same computation."""
    figures = swr_study(dataclasses.replace(swr_config(model, store), windows=[5], horizons=[5, 10]), str(tmp_path))
    assert figures["swr_w5_minus_plain_h5_psnr_db"] == 0
    assert figures["swr_w5_minus_plain_h10_psnr_db"] != 0


def test_swr_study_refuses_what_it_cannot_measure(model: Path, store: Path, tmp_path: Path) -> None:
    config = swr_config(model, store)
    for changes, message in (
        ({"windows": [6]}, "study.windows: expected 1 to 5 frames, as trained, found 6"),
        ({"horizons": [12]}, "longer than 12 frames, found 0"),
        ({"effector": ["z"]}, "columns among x, y, found 'z'"),
        ({"frozen_window": 9}, "study.frozen_window: expected 1 to 5 frames"),
        ({"horizons": [0]}, "study.horizons: expected numbers of at least 1"),
        ({"batch": 0}, "study.batch: expected at least 1"),
        ({"every": 0}, "study.every: expected at least 1"),
        ({"order": "backwards"}, "study.order: expected one of"),
    ):
        with pytest.raises(RoboAlignError, match=message):
            swr_study(dataclasses.replace(config, **changes), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suite", ["decode", "planner"])
def test_bench_times_what_it_says(model: Path, tmp_path: Path, suite: str) -> None:
    planner = {"name": "cem", "candidates": 4, "horizon": 3, "iterations": 2, "elites": 2}
    config = BenchConfig(
        str(tmp_path), suite, world_model=str(model), candidates=[1, 3], frames=2, repeats=2, planner=planner
    )
    figures = bench(config)
    if suite == "planner":
        assert 0 < figures["replan_ms_q25"] <= figures["replan_ms_median"] <= figures["replan_ms_q75"]
        assert figures["objective"] == "progress"
        with pytest.raises(RoboAlignError, match=r"objective student: .*expected a reward model"):
            bench(dataclasses.replace(config, objective={"name": "student"}))
        return
    for way in ("ancestor", "static", "token", "frame"):
        assert figures[f"{way}_b3_frames_per_s"] > 0
    for label, first, second in (("ours_over_ancestor", "token", "ancestor"), ("onepass_over_ours", "frame", "token")):
        ratio = figures[f"{first}_b1_frames_per_s"] / figures[f"{second}_b1_frames_per_s"]
        assert figures[f"{label}_b1"] == pytest.approx(ratio)
    assert 0 < figures["token_agreement_with_ancestor"] <= 1
    assert figures["tokens_identical"]
    rows = figures["detail"]["rows"]
    assert len(rows) == 8
    assert all(row["q25_s"] <= row["median_s"] <= row["q75_s"] for row in rows)
    assert all(row["peak_memory_mb"] >= 0 and 0 < row["matmul_share"] < 1 for row in rows)
    assert (tmp_path / "decode.png").read_bytes().startswith(b"\x89PNG")


def test_bench_compares_the_end_of_a_stream_with_its_beginning(model: Path, tmp_path: Path) -> None:
    window = WorldModel.from_pretrained(model).config.window
    config = BenchConfig(str(tmp_path), "session", world_model=str(model), session_frames=45 * window + 1)
    figures = bench(config)
    assert figures["frames"] == 45 * window
    assert figures["frame_ms_growth_pct_ci_low"] <= figures["frame_ms_growth_pct"]
    assert figures["memory_mb_last"] > 0
    held, imagined = iter(range(100 * 2**20, 200 * 2**20, 2**20)), list[int]()

    def seconds(stream: Any, actions: np.ndarray) -> float:
        imagined.append(id(stream))
        return 0.022 if id(stream) == imagined[0] else 0.02

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "_held", lambda device: next(held))
        patch.setattr(session, "_imagine", seconds)
        figures = bench(config)
    # Windows 3 to 22 against the last twenty of 45, by their medians; each held 1 MiB more than the one before.
    assert figures["memory_growth_pct"] == pytest.approx(100 * (134.5 / 111.5 - 1))
    assert figures["frame_ms_growth_pct"] == pytest.approx(10)
    assert figures["frame_ms_last"] == pytest.approx(22 / window)
    assert len(imagined) == 45 + 2 + 2 * 20
    assert {(*map(imagined[0].__eq__, imagined[at : at + 2]),) for at in range(47, 87, 2)} == {
        (True, False),
        (False, True),
    }
    with pytest.raises(RoboAlignError, match=r"session_frames: expected at least \d+ with windows of"):
        bench(dataclasses.replace(config, session_frames=43 * window))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"suite": "cooking"}, "suite: expected one of decode, planner, session, reward, found 'cooking'"),
        ({"ways": ["magic"]}, "ways: expected some of ancestor, .*found 'magic'"),
        ({"candidates": [0]}, "candidates: expected"),
        ({"repeats": 0}, "repeats: expected"),
    ],
)
def test_bench_refuses_what_makes_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        BenchConfig("out", **changes)


def test_rollout_along_recorded_actions_writes_a_video(model: Path, store: Path, tmp_path: Path) -> None:
    modes = ["plain", "frozen", "swr"]
    figures = rollout(
        RolloutConfig(data=str(store), out=str(tmp_path), world_model=str(model), episodes=[2], modes=modes)
    )
    assert {f"{mode}_psnr_db" for mode in modes} <= figures.keys()
    assert (tmp_path / "episode_00002.mp4").stat().st_size > 1000


def test_rollout_begins_where_it_is_told_and_knows_what_was_seen_before(
    two_frames: Path, store: Path, tmp_path: Path
) -> None:
    config = RolloutConfig(str(store), out=str(tmp_path), world_model=str(two_frames), episodes=[2], start=3, horizon=4)
    figures = rollout(dataclasses.replace(config, modes=["swr"], window=2, order="frame"))
    model, episode = WorldModel.from_pretrained(two_frames), EpisodeStore.open(store)[2]
    frame, actions, later = episode.frames[3], episode.actions[None, 3:7], episode.frames[4:8]

    def psnr_db(window: int = 2, order: Order = "frame", first: int = 0) -> float:
        seen = list(episode.frames[first:3])
        return float(psnr(model.rollout(frame, actions, "swr", window, order, seen=seen).frames[0], later).mean())

    assert figures["swr_psnr_db"] == pytest.approx(psnr_db(), abs=1e-6)
    assert figures["copy_psnr_db"] == pytest.approx(psnr(np.broadcast_to(frame, later.shape), later).mean(), abs=1e-6)
    for other in (psnr_db(window=3), psnr_db(order="token"), psnr_db(first=3)):
        assert abs(other - figures["swr_psnr_db"]) > 1e-3, "each of the settings matters to this model"


def test_plan_knows_the_reference_and_what_was_seen_since(two_frames: Path, store: Path, tmp_path: Path) -> None:
    frames, paths = EpisodeStore.open(store)[2].frames[:4], [str(tmp_path / f"{index}.png") for index in range(4)]
    for frame, path in zip(frames, paths, strict=True):
        Image.fromarray(frame).save(path)
    search = {"name": "cem", "candidates": 6, "horizon": 3, "iterations": 2, "elites": 2}
    settings = PlanConfig(
        paths[3],
        "go left",
        reference=paths[0],
        seen=paths[1:3],
        world_model=str(two_frames),
        out=str(tmp_path / "plan"),
        planner=search,
    )
    figures = plan(settings)
    model, head = WorldModel.from_pretrained(two_frames), ProgressModel.from_pretrained(two_frames)

    def planned(reference: int | None, *seen: int) -> Plan:
        start = None if reference is None else frames[reference]
        return Planner(model, head, search_config(search)).plan(
            frames[3], "go left", start, seen=[frames[index] for index in seen]
        )

    expected = planned(0, 1, 2)
    assert figures["score"] == pytest.approx(expected.score, abs=1e-6)
    np.testing.assert_allclose(figures["detail"]["actions"], expected.actions, atol=1e-6)
    for other in (planned(None), planned(0), planned(1, 1, 2), planned(0, 2, 1)):
        assert abs(other.score - expected.score) > 1e-3, "the reference and the frames seen matter to this model"


def test_rollout_and_plan_from_one_image(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (48, 40), "gray").save(tmp_path / "frame.png")
    np.save(tmp_path / "actions.npy", np.zeros((5, 2)))
    own = RolloutConfig(
        image=str(tmp_path / "frame.png"),
        actions=str(tmp_path / "actions.npy"),
        out=str(tmp_path / "own"),
        world_model=str(model),
    )
    assert rollout(own)["frames"] == 5
    assert (tmp_path / "own" / "imagined.mp4").is_file()
    search = {"name": "icem", "candidates": 6, "horizon": 3, "iterations": 2, "elites": 2}
    settings = PlanConfig(
        str(tmp_path / "frame.png"), "go left", world_model=str(model), out=str(tmp_path / "plan"), planner=search
    )
    figures = plan(settings)
    assert np.shape(figures["detail"]["actions"]) == (3, 2)
    assert (tmp_path / "plan" / "imagined.mp4").is_file()
    frame = np.full((40, 48, 3), 128, np.uint8)
    planner = Planner(WorldModel.from_pretrained(model), ProgressModel.from_pretrained(model), search_config(search))
    assert planner.plan(frame, "go left").frames.shape == (3, 32, 32, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": [16]}, "episodes: expected numbers from 0 to 15, .* found 16"),
        ({"episodes": [0, -1]}, "episodes: expected numbers from 0 to 15, .* found -1"),
        ({"episodes": []}, "found none"),
        ({"horizon": 0}, "horizon: expected at least 1 frame, found 0"),
    ],
)
def test_rollout_refuses_what_is_not_there(
    model: Path, store: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = RolloutConfig(data=str(store), out=str(tmp_path / "out"), world_model=str(model), **changes)
    with pytest.raises(RoboAlignError, match=message):
        rollout(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.full((4, 2), np.nan), "finite actions"),
        (np.zeros((4, 3)), r"\(frames, 2\), found \(4, 3\)"),
        (np.zeros(4), r"\(frames, 2\)"),
        (np.array([["a", "b"]]), "expected numbers"),
    ],
)
def test_rollout_refuses_bad_actions(model: Path, tmp_path: Path, actions: np.ndarray, message: str) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "frame.png")
    np.save(tmp_path / "actions.npy", actions)
    config = RolloutConfig(
        image=str(tmp_path / "frame.png"),
        actions=str(tmp_path / "actions.npy"),
        out=str(tmp_path / "out"),
        world_model=str(model),
    )
    with pytest.raises(RoboAlignError, match=message):
        rollout(config)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16", "P"])
def test_plan_refuses_images_of_another_kind(model: Path, tmp_path: Path, mode: str) -> None:
    Image.new(mode, (32, 32)).save(tmp_path / "frame.png")
    with pytest.raises(RoboAlignError, match="8-bit RGB"):
        plan(PlanConfig(str(tmp_path / "frame.png"), "go left", world_model=str(model), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    noise = np.random.default_rng(0).integers(256, size=(256, 256, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    np.testing.assert_array_equal(read_image(path), noise)
    whole = path.read_bytes()
    assert whole.count(b"IDAT") > 1
    second = whole.rindex(b"IDAT")
    for damaged in (whole[:-1000], whole[:second] + bytes(4) + whole[second + 4 :], whole[:20], b""):
        path.write_bytes(damaged)
        with pytest.raises(RoboAlignError, match=r"frame\.png: expected a whole image file, found"):
            read_image(path)


@pytest.mark.parametrize("instruction", ["", "  ", "fold the laundry"])
def test_plan_refuses_instructions_it_does_not_know(model: Path, tmp_path: Path, instruction: str) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "frame.png")
    with pytest.raises(RoboAlignError, match="instruction: expected"):
        plan(PlanConfig(str(tmp_path / "frame.png"), instruction, world_model=str(model), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_results_of_a_run_are_json(runs: dict[str, Path]) -> None:
    assert read_json(runs["tokenizer"] / "results.json")["steps"] == 4
