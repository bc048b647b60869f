"""Does the student score what a real camera recorded above the same recording after damage?"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from roboalign_core.evaluation.reward_figures import Figures, mean_of, wins
from roboalign_core.evaluation.reward_pairs import Scored, beside_clean
from roboalign_core.rubric import HIGHEST

_NAME = "real_above_degraded_win_rate"
_WHY = "needs damaged videos of real recordings (study.real), each beside its undamaged one"


def real_above_degraded(figures: Figures, data: Scored, real: Collection[str]) -> dict[str, list[dict[str, Any]]]:
    """How often the student's total of a real recording is above that of each of its degraded versions.

    Every degraded video of a real source counts that the benchmark scores lower than its recording, with one
    degradation or with several. Adds ``real_above_degraded_win_rate``, and one figure for each source.

    Args:
        figures: that this one is added to.
        data: scored pairs.
        real: sources that cameras recorded.

    Returns:
        Rates without intervals: by source, and by degradation (of videos with one alone).
    """
    compared, meant = beside_clean(data, lambda pair: pair.source in real and bool(pair.degradations))
    chosen = np.flatnonzero(meant @ HIGHEST > 0)
    won = wins(((compared.before - compared.after) @ HIGHEST)[chosen])
    pairs = [data.pairs[compared.rows[row]] for row in chosen]
    groups = [pair.parent for pair in pairs]
    figures.add(_NAME, groups, mean_of(won), _WHY)
    sources = [pair.source for pair in pairs]
    for source in sorted(set(sources)):
        here = np.array([each == source for each in sources])
        figures.add(
            f"{_NAME}_{source}", [pair.parent for pair in pairs if pair.source == source], mean_of(won[here]), _WHY
        )
    kinds = [pair.degradations[0].name if len(pair.degradations) == 1 else "several" for pair in pairs]
    return {
        "sources": [
            {**row, "recordings": _recordings(groups, sources, row["source"])} for row in _rates("source", sources, won)
        ],
        "degradations": _rates("degradation", kinds, won),
    }


def _rates(name: str, labels: list[str], won: Any) -> list[dict[str, Any]]:
    rows = []
    for label in sorted(set(labels)):
        here = won[[each == label for each in labels]]
        rows.append({name: label, "videos": len(here), "win_rate": float(here.mean())})
    return rows


def _recordings(groups: list[str], sources: list[str], source: str) -> int:
    return len({group for group, each in zip(groups, sources, strict=True) if each == source})
