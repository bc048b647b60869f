"""The command ``evaluate``: the study by its name, with the settings of its yaml node."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import omegaconf
import pytest

from roboalign_core import cli
from roboalign_core.cli import compose
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation import verb
from roboalign_core.evaluation.study import GROUP, Study, load_study
from roboalign_core.evaluation.verb import VERB, EvaluateConfig, evaluate

POINTS = sorted(entry_points(group=GROUP), key=lambda point: point.name)
NEEDED = {
    "alignment": ["study.models={sft:[a],aligned:[b]}", "study.data=d"],
    "reward": ["study.benchmark=b"],
    "swr": ["study.data=d"],
    "world_model": ["study.data=d"],
}
OTHERWISE = {"world_model", "effector", "objects", "regions", "planner", "objective"}  # named in yaml alone


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_a_study_s_yaml_node_mirrors_its_dataclass(point: EntryPoint, monkeypatch: pytest.MonkeyPatch) -> None:
    if point.value.startswith("roboalign_sim"):
        pytest.importorskip("mujoco", reason="needs the extra sim")
    study, seen = load_study(point.name), []
    assert study.name == point.name
    config = compose(VERB, [f"study={point.name}", "out=o", *NEEDED.get(point.name, [])])
    fields = dataclasses.fields(study.config)
    assert config.study.keys() - {"name"} == {each.name for each in fields}

    def run(settings: Any, out: str) -> dict[str, Any]:
        seen.append((settings, out))
        return {"figure": 1}

    monkeypatch.setattr(verb, "load_study", lambda name: dataclasses.replace(study, run=run))
    assert evaluate(config) == {"figure": 1}
    ((settings, out),) = seen
    assert (type(settings), out) == (study.config, "o")
    for each in fields:
        default = each.default if each.default_factory is dataclasses.MISSING else each.default_factory()
        if each.name not in OTHERWISE and default not in (dataclasses.MISSING, omegaconf.MISSING):
            assert getattr(settings, each.name) == default, each.name


@dataclass
class ToyConfig:
    data: str = omegaconf.MISSING
    batch: int = 32
    horizons: list[int] = field(default_factory=lambda: [8])


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> list[ToyConfig]:
    """Settings that the only study was run with."""
    seen: list[ToyConfig] = []
    study = Study("toy", ToyConfig, lambda settings, out: seen.append(settings) or {"out": out})
    monkeypatch.setattr(verb, "load_study", lambda name: study)
    return seen


def test_a_study_gets_its_settings_and_its_folder(toy: list[ToyConfig]) -> None:
    config = EvaluateConfig("runs/out", {"name": "toy", "data": "d", "horizons": [1, 2]})
    assert evaluate(config) == {"out": "runs/out"}
    assert toy == [ToyConfig("d", 32, [1, 2])]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch": 8}, r"study toy: expected a value for study\.data, found none"),
        ({"data": "d", "colour": "red"}, "study toy: Key 'colour' not in 'ToyConfig'"),
        ({"data": "d", "batch": "many"}, "study toy: Value 'many' of type 'str' could not be converted to Integer"),
    ],
    ids=["missing", "unknown", "wrong type"],
)
def test_settings_that_do_not_fit_are_refused(toy: list[ToyConfig], given: dict[str, Any], message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        evaluate(EvaluateConfig("out", {"name": "toy", **given}))
    assert toy == []


@pytest.mark.parametrize("study", [{"name": "cooking"}, {"batch": 8}, "world_model", None], ids=str)
def test_an_unknown_study_is_refused(study: Any) -> None:
    known = ", ".join(point.name for point in POINTS)
    name = "cooking" if isinstance(study, dict) and "name" in study else "None"
    with pytest.raises(RoboAlignError, match=f"^study: expected one of {known}, found '{name}'$"):
        evaluate(EvaluateConfig("out", study))


def test_an_unknown_study_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "study.name=cooking", "study.data=d", f"out={tmp_path / 'out'}"]
    assert cli.main(arguments) == 2
    assert "error: study: expected one of alignment, " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
