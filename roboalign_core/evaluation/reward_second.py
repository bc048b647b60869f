"""Does a judge that the student never learned from agree with it, and with the labels that it learned from?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from roboalign_core.benchmark import Benchmark
from roboalign_core.evaluation.ranking import spearman
from roboalign_core.evaluation.reward_figures import Figures, mean_of
from roboalign_core.evaluation.reward_pairs import Scored
from roboalign_core.reward.data import read_judgements
from roboalign_core.rubric import KEYS

_WHY = "needs study.second_judge with scores of pairs of this split, not all the same"


def second_judge(figures: Figures, data: Scored, table: str | None, benchmark: Benchmark) -> int:
    """Compare the student's scores, and the labels, with those of another judge on the pairs that it has judged.

    Adds ``second_judge_spearman`` and ``second_judge_mae`` (student against judge, totals), ``…_<dimension>_mae``, and
    ``labels_second_judge_spearman`` and ``…_mae`` (labels against judge): a student cannot be expected to agree with
    the judge more than the labels do.

    Args:
        figures: that these are added to.
        data: scored pairs.
        table: of judgements, see :func:`~roboalign_core.reward.data.read_judgements`; None: there is none.
        benchmark: whose pairs were scored.

    Returns:
        How many of the scored pairs the judge has judged.

    Raises:
        RoboAlignError: the table is absent or damaged, or of another benchmark.
    """
    judged = read_judgements(Path(table), benchmark) if table else {}
    rows = [row for row, pair in enumerate(data.pairs) if pair.number in judged]
    theirs = np.array([judged[data.pairs[row].number] for row in rows], np.float64).reshape(-1, len(KEYS))
    groups = [data.pairs[row].parent for row in rows]
    for prefix, scores in (("", data.predicted), ("labels_", data.labels)):
        found = scores.raw[rows].astype(np.float64)
        first, second = theirs.sum(1), found.sum(1)
        figures.add(
            f"{prefix}second_judge_spearman",
            groups,
            lambda drawn, first=first, second=second: spearman(first[drawn], second[drawn]),
            _WHY,
        )
        figures.add(f"{prefix}second_judge_mae", groups, mean_of(np.abs(first - second)), _WHY)
        if not prefix:
            for index, key in enumerate(KEYS):
                error = np.abs(theirs[:, index] - found[:, index])
                figures.add(f"second_judge_{key}_mae", groups, mean_of(error), _WHY)
    return len(rows)
