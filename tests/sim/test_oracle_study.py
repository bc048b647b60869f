"""The oracle's own study."""

from __future__ import annotations

import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.study import load_study
from roboalign_sim.oracle_study import OracleConfig, study


def test_successes_are_ranked_above_failures() -> None:
    figures = study(OracleConfig(scenes=12, steps=26), "unused")
    assert figures["episodes"] == 48
    assert figures["ordered_share"] >= 0.95
    assert figures["ordered_share_ci_low"] <= figures["ordered_share"] <= figures["ordered_share_ci_high"]
    assert {figures[f"{name}_pairs"] for name in ("wrong_object", "no_contact", "incomplete")} <= {10, 11, 12}
    assert figures["physical_full_share"] >= 0.95
    assert figures["success_agreement"] == 1.0
    assert figures["detail"]["expert"]["total"] > figures["detail"]["incomplete"]["total"]
    assert figures["detail"]["incomplete"]["total"] > figures["detail"]["no_contact"]["total"]
    assert "missing" not in figures


def test_what_cannot_be_compared_is_named() -> None:
    figures = study(OracleConfig(scenes=2, steps=4, failures=["incomplete"]), "unused")
    assert figures["incomplete_pairs"] == 0
    assert "incomplete" in figures["missing"]
    assert "ordered_share" not in figures


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"env": "kitchen"}, "kitchen"),
        ({"scenes": 0}, "scenes"),
        ({"steps": 1}, "steps"),
        ({"failures": ["daydream"]}, "daydream"),
        ({"failures": []}, "failures"),
        ({"failures": ["expert"]}, "different"),
    ],
)
def test_bad_settings_are_refused(changes, said) -> None:
    with pytest.raises(RoboAlignError, match=said):
        study(OracleConfig(**changes), "unused")


def test_it_is_found_by_its_name() -> None:
    assert load_study("oracle").config is OracleConfig
