"""Agreement of people, against published examples and against what follows from the definitions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roboalign_core.benchmark import Benchmark
from roboalign_core.benchmark.agreement import VERB
from roboalign_core.benchmark.opinions import read_opinions, with_labels
from roboalign_core.benchmark.reliability import Level, alpha, matches, spearman
from roboalign_core.benchmark.review.log import ReviewLog
from roboalign_core.cli import compose
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.statistics import bootstrap
from roboalign_core.rubric import KEYS

# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section E: four observers, twelve units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, 0, 0, 0],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, 0, 3],
    [0, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, 0],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, 0],
]
NONE = 0  # how the table above writes that an observer says nothing


def counts(ratings: Any, values: int) -> np.ndarray:
    """(N, V) of ratings (R, N) whose values begin at 1."""
    table = np.asarray(ratings)
    return np.stack([(table == value).sum(axis=0) for value in range(NONE + 1, values + 1)], axis=1)


@pytest.mark.parametrize(("level", "published"), [("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_the_published_example(level: Level, published: float) -> None:
    found = alpha(counts(OBSERVERS, 5), level)
    assert found.value == pytest.approx(published, abs=0.0005)
    assert found.low < found.value < found.high <= 1


def test_alpha_of_an_example_with_gaps() -> None:
    # Wikipedia, "Krippendorff's alpha": three coders, fifteen units; interval: 0.811
    coders = [
        [0, 0, 0, 0, 0, 3, 4, 1, 2, 1, 1, 3, 3, 0, 3],
        [1, 0, 2, 1, 3, 3, 4, 3, 0, 0, 0, 0, 0, 0, 0],
        [0, 0, 2, 1, 3, 4, 4, 0, 2, 1, 1, 3, 3, 0, 4],
    ]
    assert alpha(counts(coders, 4), "interval").value == pytest.approx(0.811, abs=0.0005)


def test_alpha_of_binary_data_by_hand() -> None:
    # two raters, ten units, one disagreement: coincidences 12, 6, 1, 1 of 20; alpha = 1 - 19 * 2 / (2 * 13 * 7)
    table = np.array([[2, 0]] * 6 + [[0, 2]] * 3 + [[1, 1]])
    for level in ("ordinal", "interval"):
        assert alpha(table, level).value == pytest.approx(1 - 19 * 2 / (2 * 13 * 7))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=2, max_size=12))
def test_alpha_and_what_must_not_change_it(rows: list[list[int]]) -> None:
    table = np.array(rows)
    if not (table.sum(axis=1) >= 2).any():
        with pytest.raises(RoboAlignError, match="at least one unit with two opinions"):
            alpha(table, "ordinal")
        return
    for level in ("ordinal", "interval"):
        found = alpha(table, level, resamples=20)
        same = [alpha(table[::-1], level, resamples=1), alpha(table[:, ::-1], level, resamples=1)]
        single = alpha(np.concatenate([table, np.eye(4, dtype=int)]), level, resamples=1)
        for other in [*same, single]:
            assert other.value == pytest.approx(found.value, nan_ok=True)
        assert np.isnan(found.value) or found.value <= 1 + 1e-12
    agreed = np.diag([3, 2, 4, 2])
    assert alpha(agreed, "ordinal", resamples=1).value == alpha(agreed, "interval", resamples=1).value == 1


def test_one_value_alone_tells_no_agreement() -> None:
    found = alpha(np.array([[2, 0], [3, 0]]), "ordinal")
    assert np.isnan([found.value, found.low, found.high]).all()


def test_ranks_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    generator = np.random.default_rng(0)
    for size in (3, 10, 50):
        first = generator.integers(0, 4, size) / 3
        second = generator.integers(0, 3, size) + first
        expected = stats.spearmanr(first, second).statistic
        assert spearman(first, second, resamples=1).value == pytest.approx(expected, nan_ok=True)
    found = spearman(np.arange(30), np.arange(30) ** 2)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))
    assert np.isnan(spearman([1.0, 1.0], [0.0, 1.0]).value)


def test_an_interval_needs_enough_resamples_that_define_it() -> None:
    def undefined_for(share: float) -> Any:
        def statistic(rows: np.ndarray) -> np.ndarray:
            found = rows.mean(axis=1)
            found[1 : round(share * len(found))] = np.nan
            return found

        return statistic

    narrow = bootstrap(20, undefined_for(0.04), resamples=1000)
    assert narrow.low < 9.5 == narrow.value < narrow.high
    wide = bootstrap(20, undefined_for(0.06), resamples=1000)
    assert wide.value == 9.5
    assert np.isnan([wide.low, wide.high]).all()
    with pytest.raises(RoboAlignError, match="at least one unit"):
        bootstrap(0, undefined_for(0))


def test_half_way_is_no_match() -> None:
    means, labels = [0.5, 1.5, 1.4, 1.0, 0.4, 2.0], [0.0, 2.0, 1.0, 1.4, 0.5, 2.0]
    assert matches(means, labels).tolist() == [False, False, True, True, False, True]


# --- over a benchmark -------------------------------------------------------------------------------------------------

LABEL = (2, 1, 1, 0, 1, 2)  # of every pair of the fixture


def judge(folder: Path, rater: str, opinions: dict[int, tuple[int, ...] | None]) -> None:
    log = ReviewLog.open(Benchmark.open(folder), rater)
    for pair, scores in opinions.items():
        log.append(pair, scores)
    log.close()


def test_labels_beside_the_mean_of_the_people(review_folder: Path) -> None:
    judge(review_folder, "anna", {0: LABEL, 1: LABEL, 2: None, 3: (3, 1, 1, 0, 1, 2)})
    judge(review_folder, "ben", {1: (0, 1, 1, 0, 1, 2), 2: None})
    benchmark = Benchmark.open(review_folder)
    opinions = read_opinions(benchmark)
    assert opinions.raters == ["anna", "ben"]
    assert opinions.numbers.tolist() == [0, 1, 3]
    assert (opinions.shared, opinions.skipped) == (1, [1, 1])
    labels = np.tile([*LABEL, sum(LABEL)], (3, 1)).astype(float)
    figures = with_labels(opinions, labels, np.arange(3))
    assert figures["instruction_following"]["mae"].value == pytest.approx((0 + 1 + 1) / 3)
    assert figures["total"]["mae"].value == pytest.approx((0 + 1 + 1) / 3)
    assert figures["instruction_following"]["exact"].value == pytest.approx(1 / 3)
    assert figures["contact_realism"]["mae"].value == 0
    assert np.isnan(figures["contact_realism"]["spearman"].value)


def test_the_command_writes_figures_and_a_report(review_folder: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for rater in ("anna", "ben"):
        scores = {n: tuple(int(v) for v in generator.integers(0, [4, 3, 2, 2, 2, 3])) for n in range(4)}
        judge(review_folder, rater, {**scores})
    out = tmp_path / "out"
    results = VERB.run(compose(VERB, [str(review_folder), f"out={out}", "resamples=50"]))
    assert {key: results[key] for key in ("raters", "pairs", "shared_pairs", "judgements", "cannot_judge")} == {
        "raters": 2,
        "pairs": 4,
        "shared_pairs": 4,
        "judgements": 8,
        "cannot_judge": 0,
    }
    assert results["rule_total_mae_ci_low"] <= results["rule_total_mae"] <= results["rule_total_mae_ci_high"]
    assert "oracle_total_mae" in results
    assert "total_alpha" in results
    detail = json.loads(json.dumps(results["detail"], allow_nan=False))
    assert detail["labels"] == {"oracle": 3, "rule": 1}
    assert set(detail["among_people"]) == {*KEYS, "total"}
    assert detail["with_labels"]["rule"]["total"]["spearman"]["value"] is None, "one pair has no ranks"
    page = (out / "report.html").read_text()
    assert "Krippendorff" in page
    assert "oracle" in page


def test_one_rater_has_nobody_to_agree_with(review_folder: Path) -> None:
    judge(review_folder, "anna", {0: LABEL, 1: None})
    results = VERB.run(compose(VERB, [str(review_folder), "resamples=10"]))
    assert "total_alpha" not in results
    assert results["detail"]["among_people"] == {}
    assert results["rule_total_mae"] == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["raters=[zoe]"], "raters: expected some of anna, found 'zoe'"),
        (["split=train"], "found none in 'train'"),
        (["resamples=0"], "resamples: expected at least 1, found 0"),
        ([], "expected judgements, found none"),
    ],
)
def test_bad_settings_are_refused(review_folder: Path, overrides: list[str], message: str) -> None:
    judge(review_folder, "anna", {0: None})
    with pytest.raises(RoboAlignError, match=message):
        VERB.run(compose(VERB, [str(review_folder), *overrides]))
