"""The study of the student: figures that are exact where the truth is known, and a whole run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_benchmark import toy_scores

from roboalign_core.benchmark import Applied, Benchmark, Origin, Pair, Split
from roboalign_core.benchmark.benchmark import finish
from roboalign_core.benchmark.pairs import scores_of
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.reward import RewardStudyConfig, _degradations, _Figures, _quality, _sources, study
from roboalign_core.evaluation.reward_pairs import Compared, Scored, beside_clean
from roboalign_core.reward.model import Predicted
from roboalign_core.rubric import HIGHEST, KEYS


def pair(number: int, **changes: object) -> Pair:
    settled = Pair(
        number=number,
        split=Split.TEST,
        instruction="move the red square left",
        store="toy",
        episode=number,
        source="toy",
        parent=f"toy:{number}",
        origin=Origin.RECORDED,
        degradations=(),
        scores=(3.0, 2.0, 1.0, 1.0, 1.0, 2.0),
        labeller="rule",
    )
    return replace(settled, **changes)  # type: ignore[arg-type]


def scored(pairs: list[Pair], found: np.ndarray, success: list[float] | None = None) -> Scored:
    predicted = Predicted(found.astype(np.float32), np.abs(found).astype(np.float32) * 0 + 0.1)
    told = [each.instruction for each in pairs]
    known = np.array(success if success is not None else [np.nan] * len(pairs))
    return Scored(pairs, scores_of(pairs), predicted, told, known, 1.0)


def varied(count: int = 40) -> list[Pair]:
    random = np.random.default_rng(0)
    return [pair(index, scores=tuple(random.integers(0, HIGHEST + 1).astype(float))) for index in range(count)]


def figures() -> _Figures:
    return _Figures(RewardStudyConfig(benchmark="", resamples=200))


def test_a_student_that_repeats_the_labels_is_perfect() -> None:
    pairs = varied()
    labels = scores_of(pairs).raw
    found = figures()
    _quality(found, scored(pairs, labels, [float(row[1] > 1) for row in labels]), labels.mean(0))
    for key in (*KEYS, "total"):
        assert found.values[f"{key}_mae"] == 0
        assert found.values[f"{key}_gain_over_mean_pct"] == 100
        assert found.values[f"{key}_spearman"] == pytest.approx(1)
    assert found.values["pairwise_accuracy"] == 1
    assert found.values["success_auc"] == 1
    assert found.missing == {"uncertainty_spearman": "the uncertainty or the error is constant"}


def test_a_student_that_says_the_mean_gains_nothing() -> None:
    pairs = varied()
    labels = scores_of(pairs).raw
    found = figures()
    _quality(found, scored(pairs, np.tile(labels.mean(0), (len(pairs), 1))), labels.mean(0))
    assert found.values["total_gain_over_mean_pct"] == pytest.approx(0, abs=1e-4)
    assert found.values["pairwise_accuracy"] == 0.5
    assert "total_spearman" in found.missing
    assert "some of successes and some of failures" in found.missing["success_auc"]


def test_errors_are_in_scores() -> None:
    pairs = varied()
    labels = scores_of(pairs).raw
    off = np.clip(labels + np.array([-1, 0, 0, 0, 0, 1]), 0, HIGHEST)
    found = figures()
    _quality(found, scored(pairs, off), labels.mean(0))
    assert found.values["instruction_following_mae"] == pytest.approx(np.mean(labels[:, 0] > 0))
    assert found.values["physics_adherence_mae"] == pytest.approx(np.mean(labels[:, 5] < 2))
    assert found.values["instruction_following_mae_ci_low"] < found.values["instruction_following_mae_ci_high"]


def damaged() -> list[Pair]:
    clean = [pair(index) for index in range(20)]
    bad = [
        pair(
            20 + index,
            parent=f"toy:{index}",
            origin=Origin.DEGRADED,
            degradations=(Applied("flicker", 1.0, index),),
            scores=(3.0, 2.0, 1.0, 0.0, 1.0, 1.0),
        )
        for index in range(20)
    ]
    lonely = pair(40, parent="toy:99", origin=Origin.DEGRADED, degradations=(Applied("flicker", 1.0, 0),))
    twice = pair(41, parent="toy:0", origin=Origin.DEGRADED, degradations=(Applied("flicker", 1.0, 0),) * 2)
    return [*clean, *bad, lonely, twice]


def test_damage_is_measured_beside_the_same_video_without_it() -> None:
    pairs = damaged()
    values = scores_of(pairs).raw.copy()
    values[20:40] = values[:20]
    values[20:35, 3] -= 0.8  # sees it in 15 of 20 videos
    values[20:40, 0] -= 1.0  # not what this damage is about
    data = scored(pairs, values)
    compared, meant = beside_clean(data, "flicker")
    assert compared.rows == list(range(20, 40))
    np.testing.assert_allclose(meant.mean(0), [0, 0, 0, 1, 0, 0.5])
    found = figures()
    rows = _degradations(found, data)
    assert found.values["degradation_flicker_drop"] == pytest.approx(0.8 * 15 / 20 / 2)
    assert found.values["degradation_win_rate"] == pytest.approx((15 + 5 * 0.5) / 20)
    assert rows[0]["videos"] == 20
    assert rows[0]["instruction_following_drop"] == pytest.approx(1 / 3)


def test_what_cannot_be_measured_is_left_out_with_a_reason() -> None:
    found = figures()
    assert _degradations(found, scored(varied(), scores_of(varied()).raw)) == []
    assert "no damaged videos" in found.missing["degradation_win_rate"]
    assert found.values == {}


def test_sources_stand_apart() -> None:
    pairs = [replace(each, source="a" if index < 10 else "b") for index, each in enumerate(varied(30))]
    values = scores_of(pairs).raw.copy()
    values[10:] = HIGHEST - values[10:]
    first, second = _sources(scored(pairs, values))
    assert (first["source"], first["pairs"], first["total_mae"]) == ("a", 10, 0)
    assert first["total_spearman"] == pytest.approx(1)
    assert second["total_spearman"] == pytest.approx(-1)
    assert "success_auc" not in first


def test_changes_keep_the_groups_of_their_rows() -> None:
    assert Compared([1], np.zeros((1, 6)), np.zeros((1, 6)), ["toy:1"]).groups == ["toy:1"]


@pytest.fixture(scope="module")
def results(toy: Benchmark, toy_student: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    out = tmp_path_factory.mktemp("study")
    config = RewardStudyConfig(
        reward=str(toy_student / "model"), benchmark=str(toy.path), resamples=200, batch=16, videos=2
    )
    return dict(study(config, str(out))), out


def test_a_student_that_learned_looks_at_video_and_instruction(results: tuple[dict, Path]) -> None:
    figures, _ = results
    assert figures["pairs"] == 36
    assert figures["episodes"] == 12
    assert figures["success_auc"] > 0.8
    assert figures["total_spearman"] > 0.7
    assert figures["instruction_swap_win_rate"] > 0.8
    assert figures["degradation_flicker_drop"] > 0.3
    assert figures["degradation_win_rate"] > 0.9
    assert figures["temporal_consistency_gain_over_mean_pct"] > 50
    assert figures["student_videos_per_s"] > 1


def test_every_headline_has_its_interval(results: tuple[dict, Path]) -> None:
    figures, out = results
    for key in ("success_auc", "total_spearman", "instruction_swap_win_rate", "pairwise_accuracy", "shuffle_win_rate"):
        assert figures[f"{key}_ci_low"] <= figures[key] <= figures[f"{key}_ci_high"]
    assert "student_over_teacher" in figures["missing"]
    page = (out / "report.html").read_text()
    assert page.count("<video") == 2
    assert "Instruction Following" in page
    assert "flicker" in page


def test_another_split_needs_pairs(toy: Benchmark, toy_student: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    (tmp_path / "stores").symlink_to(toy.path / "stores")
    kept = [each for each in toy.pairs if each.split is not Split.TEST]
    finish(tmp_path, [replace(each, number=number) for number, each in enumerate(kept)], {})
    config = RewardStudyConfig(reward=str(toy_student / "model"), benchmark=str(tmp_path))
    with pytest.raises(RoboAlignError, match="expected pairs of the split test, found none"):
        study(config, str(tmp_path / "out"))
    with pytest.raises(RoboAlignError, match=r"study\.split: expected one of train, validation, test, found 'dev'"):
        RewardStudyConfig(benchmark="", split="dev")


def test_the_toy_s_labels_are_what_they_say() -> None:
    assert toy_scores("red", "left", True, "move the red square left")[:2] == (3, 2)
    assert toy_scores("red", "left", False, "move the red square left")[:2] == (2, 1)
    assert toy_scores("red", "left", True, "move the blue square left")[:2] == (1, 0)
    assert toy_scores("red", "left", True, "move the blue square right")[:2] == (0, 0)
