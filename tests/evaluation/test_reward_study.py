"""The study of the student: figures that are exact where the truth is known, and a whole run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_benchmark import toy_scores

from roboalign_core.benchmark import Applied, Benchmark, Origin, Pair, Split
from roboalign_core.benchmark.benchmark import finish
from roboalign_core.benchmark.pairs import scores_of
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.reward import REAL, RewardStudyConfig, _degradations, _quality, _sources, study
from roboalign_core.evaluation.reward_figures import Figures
from roboalign_core.evaluation.reward_pairs import Compared, Scored, beside_clean
from roboalign_core.evaluation.reward_real import real_above_degraded
from roboalign_core.evaluation.reward_second import second_judge
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


def figures() -> Figures:
    return Figures(resamples=200, seed=0)


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
    compared, meant = beside_clean(data, lambda each: len(each.degradations) == 1)
    assert compared.rows == list(range(20, 40))
    np.testing.assert_allclose(meant.mean(0), [0, 0, 0, 1, 0, 0.5])
    found = figures()
    rows = _degradations(found, data)
    assert found.values["degradation_flicker_drop"] == pytest.approx(0.8 * 15 / 20 / 2)
    assert found.values["degradation_win_rate"] == pytest.approx((15 + 5 * 0.5) / 20)
    assert rows[0]["videos"] == 20
    assert rows[0]["instruction_following_drop"] == pytest.approx(1 / 3)
    assert rows[0]["temporal_consistency_drop_ci_low"] > 0.4
    assert rows[0]["physics_adherence_drop_ci_low"] == 0  # the benchmark lowers it, too; this student does not
    assert "instruction_following_drop_ci_low" not in rows[0]
    assert found.values["degradation_dimensions_lowered"] == 0.5
    assert found.values["degradation_main_dimension_lowered"] == 1


def test_every_camera_is_compared_with_itself() -> None:
    cameras = [pair(number, store=store, parent="droid:1") for number, store in enumerate(("front", "wrist"))]
    flicker = (Applied("flicker", 1.0, 0),)
    lower = (3.0, 2.0, 1.0, 0.0, 1.0, 2.0)
    bad = [
        replace(each, number=2 + each.number, origin=Origin.DEGRADED, degradations=flicker, scores=lower)
        for each in cameras
    ]
    values = scores_of([*cameras, *bad]).raw.copy()
    values[0], values[2] = 0.5, 0.25  # the front camera's videos are scored low, damaged or not
    compared, _ = beside_clean(scored([*cameras, *bad], values), lambda each: bool(each.degradations))
    assert compared.rows == [2, 3]
    np.testing.assert_allclose(compared.before @ HIGHEST, [6 * 0.5, 10])


def recordings() -> tuple[list[Pair], np.ndarray]:
    """Four of bridge, two of droid, one of rt1 and one that was simulated; three degraded versions of each."""
    sources = [*["bridge"] * 4, *["droid"] * 2, "rt1", "metaworld"]
    clean = [pair(number, source=source, parent=f"{source}:{number}") for number, source in enumerate(sources)]
    kinds = (("flicker",), ("freeze",), ("flicker", "freeze"))
    bad = [
        replace(
            each,
            number=len(clean) + len(kinds) * each.number + number,
            origin=Origin.DEGRADED,
            degradations=tuple(Applied(name, 0.5, 0) for name in names),
            scores=(2.0, 2.0, 1.0, 0.5, 1.0, 2.0),
        )
        for each in clean
        for number, names in enumerate(kinds)
    ]
    pairs = [*clean, *bad]
    values = scores_of(pairs).raw.copy()
    for row, each in enumerate(pairs):
        if each.source == "droid" and len(each.degradations) == 2:
            values[row] = HIGHEST  # as much as the recording: half a win
        if each.source == "metaworld" and each.degradations:
            values[row] = HIGHEST
    return pairs, values


def test_real_recordings_above_their_degraded_versions() -> None:
    pairs, values = recordings()
    found = figures()
    detail = real_above_degraded(found, scored(pairs, values), REAL)
    name = "real_above_degraded_win_rate"
    assert found.values[name] == pytest.approx((21 - 2 * 0.5) / 21)
    assert found.values[f"{name}_ci_low"] < found.values[name] < found.values[f"{name}_ci_high"]
    assert (found.values[f"{name}_bridge"], found.values[f"{name}_droid"]) == (1, pytest.approx(5 / 6))
    assert "fewer than 2 recorded episodes" in found.missing[f"{name}_rt1"]
    assert not any("metaworld" in key for key in (*found.values, *found.missing))
    rows = {row["source"]: (row["recordings"], row["videos"], row["win_rate"]) for row in detail["sources"]}
    assert rows == {"bridge": (4, 12, 1.0), "droid": (2, 6, pytest.approx(5 / 6)), "rt1": (1, 3, 1.0)}
    kinds = {row["degradation"]: row["videos"] for row in detail["degradations"]}
    assert kinds == {"flicker": 7, "freeze": 7, "several": 7}


def test_a_degraded_version_that_costs_nothing_does_not_count() -> None:
    pairs, values = recordings()
    harmless = [replace(each, scores=pairs[0].scores) if each.source == "bridge" else each for each in pairs]
    detail = real_above_degraded(figures(), scored(harmless, values), REAL)
    assert [row["source"] for row in detail["sources"]] == ["droid", "rt1"]


def test_without_real_recordings_the_figure_is_missing() -> None:
    pairs, values = recordings()
    found = figures()
    assert real_above_degraded(found, scored(pairs, values), ["rosbag"]) == {"sources": [], "degradations": []}
    assert "study.real" in found.missing["real_above_degraded_win_rate"]
    assert found.values == {}


def test_without_a_training_split_there_is_no_mean_to_beat() -> None:
    pairs = varied()
    found = figures()
    _quality(found, scored(pairs, scores_of(pairs).raw), None)
    assert found.values["total_mae"] == 0
    for key in (*KEYS, "total"):
        assert "study.trained_on" in found.missing[f"{key}_gain_over_mean_pct"]
        assert f"{key}_gain_over_mean_pct" not in found.values


def test_what_cannot_be_measured_is_left_out_with_a_reason() -> None:
    found = figures()
    assert _degradations(found, scored(varied(), scores_of(varied()).raw)) == []
    assert "no damaged videos" in found.missing["degradation_win_rate"]
    assert found.values == {}


def test_sources_stand_apart() -> None:
    pairs = [replace(each, source="a" if index < 10 else "b") for index, each in enumerate(varied(30))]
    values = scores_of(pairs).raw.copy()
    values[10:] = HIGHEST - values[10:]
    first, second = _sources(scored(pairs, values), 200, 0)
    assert (first["source"], first["pairs"], first["total_mae"]) == ("a", 10, 0)
    assert first["total_spearman"] == pytest.approx(1)
    assert second["total_spearman"] == pytest.approx(-1)
    assert second["total_mae_ci_low"] < second["total_mae"] < second["total_mae_ci_high"]
    assert second["contact_realism_mae"] == pytest.approx(
        np.abs(values[10:, 4] - scores_of(pairs).raw[10:, 4]).mean(), abs=1e-6
    )
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


def of_split(toy: Benchmark, folder: Path, split: Split) -> Path:
    """The pairs of one split as a benchmark of their own."""
    folder.mkdir(parents=True)
    (folder / "stores").symlink_to(toy.path / "stores")
    finish(folder, [replace(each, number=number) for number, each in enumerate(toy.subset(split))], {})
    return folder


def test_a_benchmark_of_test_pairs_alone(
    toy: Benchmark, toy_student: Path, results: tuple[dict, Path], tmp_path: Path
) -> None:
    held_out = of_split(toy, tmp_path / "held_out", Split.TEST)
    config = RewardStudyConfig(
        reward=str(toy_student / "model"), benchmark=str(held_out), resamples=200, batch=16, videos=0
    )
    alone = study(config, str(tmp_path / "alone"))
    assert "study.trained_on" in alone["missing"]["total_gain_over_mean_pct"]
    assert alone["total_mae"] == pytest.approx(results[0]["total_mae"])
    config.trained_on = str(toy.path)
    beside = study(config, str(tmp_path / "beside"))
    assert beside["total_gain_over_mean_pct"] == pytest.approx(results[0]["total_gain_over_mean_pct"])
    config.trained_on = str(held_out)
    with pytest.raises(RoboAlignError, match=r"study\.trained_on: expected pairs of the split train, found none"):
        study(config, str(tmp_path / "none"))


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


def judged_by(path: Path, rows: dict[int, np.ndarray]) -> str:
    """A table of judgements."""
    columns = {key: [float(scores[k]) for scores in rows.values()] for k, key in enumerate(KEYS)}
    pq.write_table(pa.table({"number": list(rows), **columns}), path)
    return str(path)


def test_a_second_judge_is_compared_on_the_pairs_that_it_has_judged(tmp_path: Path) -> None:
    pairs = varied()
    labels = scores_of(pairs).raw
    theirs = {number: labels[number] for number in range(0, 40, 2)}
    student = labels.copy()
    student[:, 5] = np.where(labels[:, 5] > 0, labels[:, 5] - 1, 1)  # one point off everywhere
    found = figures()
    table = judged_by(tmp_path / "judge.parquet", theirs)
    count = second_judge(found, scored(pairs, student), table, Benchmark(tmp_path, {}, pairs))
    assert count == 20
    assert found.values["labels_second_judge_spearman"] == pytest.approx(1)
    assert found.values["labels_second_judge_mae"] == 0
    assert found.values["second_judge_mae"] == pytest.approx(1)
    assert found.values["second_judge_physics_adherence_mae"] == pytest.approx(1)
    assert found.values["second_judge_contact_realism_mae"] == 0
    assert found.values["second_judge_spearman"] < 1


def test_without_a_second_judge_its_figures_are_missing(tmp_path: Path) -> None:
    found, pairs = figures(), varied()
    data, benchmark = scored(pairs, scores_of(pairs).raw), Benchmark(tmp_path, {}, pairs)
    assert second_judge(found, data, None, benchmark) == 0
    assert not found.values
    assert "second_judge" in found.missing["second_judge_spearman"]
    with pytest.raises(RoboAlignError, match="judgements"):
        second_judge(found, data, str(tmp_path / "none.parquet"), benchmark)
