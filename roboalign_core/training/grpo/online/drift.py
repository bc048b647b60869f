"""How far the student is from its teacher."""

from __future__ import annotations

import numpy as np

from roboalign_core.evaluation.ranking import spearman
from roboalign_core.rubric import KEYS, Scores


def drift(student: Scores, teacher: Scores) -> dict[str, float]:
    """Figures of the gap between two opinions of the same B videos.

    Returns:
        ``drift_<dimension>`` and ``drift_total``: mean absolute differences, in scores; ``drift_bias``: the mean of the
        student's totals minus the teacher's, above 0 where the student is too kind; ``drift_spearman``: rank
        correlation of the totals, left out where one of the two gives all videos the same.
    """
    gaps = np.abs(student.raw.astype(np.float64) - teacher.raw).mean(axis=0)
    totals, theirs = student.total.astype(np.float64), teacher.total.astype(np.float64)
    figures = {f"drift_{key}": float(gap) for key, gap in zip(KEYS, gaps, strict=True)}
    figures |= {"drift_total": float(np.abs(totals - theirs).mean()), "drift_bias": float((totals - theirs).mean())}
    ranked = spearman(totals, theirs)
    return figures if np.isnan(ranked) else {**figures, "drift_spearman": ranked}
