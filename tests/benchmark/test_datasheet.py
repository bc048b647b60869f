"""What a benchmark says of itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from roboalign_core.benchmark import datasheet
from roboalign_core.benchmark.datasheet import StatsConfig, stats
from roboalign_core.errors import MissingExtraError


def test_figures_are_counts_of_the_pairs(folder: Path) -> None:
    figures = stats(StatsConfig(str(folder), videos=2))
    assert (figures["pairs"], figures["recordings"], figures["mean_total"]) == (3, 3, 7.0)
    detail = figures["detail"]
    assert detail["split"] == {"test": 1, "train": 2}
    assert detail["degradation"] == {"freeze": 3}
    assert detail["scores"]["instruction_following"] == {"0": 0, "1": 0, "2": 3, "3": 0}
    assert detail["scores"]["temporal_consistency"] == {"0": 3, "1": 0}


def test_the_page_holds_tables_a_plot_and_videos(folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    page = Path(stats(StatsConfig(str(folder), videos=2))["datasheet"]).read_text()
    assert page.count("<video") == 2
    assert page.count("data:image/png") == 1
    assert "Instruction Following" in page
    assert re.search(r"<h2>Degradations</h2>.*freeze", page, flags=re.DOTALL)


def test_without_matplotlib_the_page_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(module: str, extra: str) -> None:
        raise MissingExtraError(f"{module} is needed; pip install roboalign[{extra}]")

    monkeypatch.setattr(datasheet, "require", absent)
    page = Path(stats(StatsConfig(str(folder)))["datasheet"]).read_text()
    assert "data:image/png" not in page
    assert "pip install roboalign[viz]" in page
