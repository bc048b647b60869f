"""The command: what it shows, what it keeps, and one clear line for everything that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from omegaconf import MISSING

from roboalign_core import cli
from roboalign_core.errors import RoboAlignError, require
from roboalign_core.verb import Verb

YAML = """\
# roboalign toy SRC: a command for tests.
src: ???
out: null
count: 3
rate: 0.5
names: [a, b]
extra: {}
loop:
  seed: 7
"""


@dataclass
class ToyLoop:
    seed: int = 0


@dataclass
class ToyConfig:
    src: str = MISSING
    out: str | None = None
    count: int = 1
    rate: float = 0.0
    names: list[str] = field(default_factory=list)
    loop: ToyLoop = field(default_factory=ToyLoop)
    extra: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.count < 0:
            raise RoboAlignError(f"count: expected 0 or more, found {self.count}")


class Point:
    """An entry point."""

    name = "toy"

    def __init__(self, run: Callable[[Any], Mapping[str, Any]]) -> None:
        self.run = run

    def load(self) -> Verb:
        return Verb("toy", "a command for tests", ToyConfig, self.run, positional="src")


class TwoWords:
    name = "play.toy"

    def __init__(self, run: Callable[[Any], Mapping[str, Any]]) -> None:
        self.run = run

    def load(self) -> Verb:
        return Verb("play toy", "a command of two words", ToyConfig, self.run, positional="src")


class Absent:
    name = "absent"

    def load(self) -> Verb:
        raise ModuleNotFoundError("No module named 'simulator'")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[ToyConfig]:
    """The only commands are ``toy``, which notes its configurations, and ``absent``, whose package is not there."""
    seen: list[ToyConfig] = []

    def run(config: ToyConfig) -> Mapping[str, Any]:
        seen.append(config)
        return {"score": 0.123456, "count": config.count, "detail": {"long": [1, 2]}}

    use(monkeypatch, tmp_path, run)
    return seen


def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Callable[[Any], Mapping[str, Any]]) -> None:
    configs = tmp_path / "configs"
    configs.mkdir(exist_ok=True)
    (configs / "toy.yaml").write_text(YAML)
    (configs / "play_toy.yaml").write_text(YAML)
    monkeypatch.setattr(cli, "config_dir", lambda: configs)
    monkeypatch.setattr(cli, "entry_points", lambda group: [Point(run), TwoWords(run), Absent()])
    monkeypatch.chdir(tmp_path)


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("roboalign: error: ")
    assert shown.err.count("\n") == 1
    assert shown.err.endswith("\n")
    return shown.err


# -- what it shows and keeps ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]], ids=str)
def test_usage_lists_the_commands(
    toy: list[ToyConfig], capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert "usage: roboalign VERB" in shown
    assert "toy" in shown
    assert "a command for tests" in shown
    assert "not available: No module named 'simulator'" in shown


def test_a_command_may_have_two_words(toy: list[ToyConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["play", "toy", "here", "count=5"]) == 0
    assert (toy[0].src, toy[0].count) == ("here", 5)
    capsys.readouterr()
    assert cli.main(["play", "toy", "--help"]) == 0
    assert YAML in capsys.readouterr().out
    assert cli.main(["play"]) == 2
    assert "command 'play': expected one of absent, play toy, toy" in error_line(capsys)


def test_help_of_a_command_is_its_configuration(toy: list[ToyConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["toy", "--help"]) == 0
    assert YAML in capsys.readouterr().out
    assert not toy


def test_defaults_come_from_the_yaml_and_arguments_override_them(toy: list[ToyConfig]) -> None:
    assert cli.main(["toy", "data/a b", "rate=2", "names=[x]"]) == 0
    assert toy == [ToyConfig("data/a b", None, 3, 2.0, ["x"], ToyLoop(7))]
    assert cli.main(["toy", "src=here", "loop.seed=9"]) == 0
    assert toy[1].src == "here"
    assert toy[1].loop.seed == 9


def test_a_mapping_may_bring_keys_of_its_own_but_none_that_make_no_sense(
    toy: list[ToyConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["toy", "src=here", "extra={weight: 2.5}", "loop={seed: 9}"]) == 0
    assert toy[0].extra == {"weight": 2.5}
    assert toy[0].loop.seed == 9
    assert cli.main(["toy", "src=here", "loop={sed: 9}"]) == 2
    assert "loop.sed: there is no such setting" in capsys.readouterr().err


def test_results_are_shown_and_kept_with_their_origin(
    toy: list[ToyConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["toy", "my data", f"out={tmp_path / 'new' / 'run'}"]) == 0
    results = json.loads((tmp_path / "new" / "run" / "results.json").read_text())
    assert results["score"] == 0.123456
    assert results["detail"] == {"long": [1, 2]}
    assert results["command"] == f"roboalign toy 'my data' out={tmp_path / 'new' / 'run'}"
    assert results["seed"] == 7
    assert results["versions"].keys() >= {"python", "roboalign", "torch", "numpy"}
    assert "cores" in results["machine"]
    assert results["git"]
    shown = capsys.readouterr().out
    assert "0.1235" in shown
    assert "long" not in shown


def test_without_out_nothing_is_written(toy: list[ToyConfig], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["toy", "x"]) == 0
    assert sorted(tmp_path.rglob("*")) == before


def test_results_do_not_depend_on_git(toy: list[ToyConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no git there
    assert cli.main(["toy", "x", f"out={tmp_path}"]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["git"] in ("unknown", "not a checkout")


# -- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dance"], "command 'dance': expected one of absent, play toy, toy"),
        (["absent"], "command 'absent': could not be loaded: No module named 'simulator'; see `roboalign doctor`"),
        (["toy"], "expected a value for src, found none"),
        (["toy", "x", "colour=red"], "configuration: colour: there is no such setting"),
        (["toy", "x", "+colour=red"], "configuration: colour: there is no such setting"),
        (["toy", "x", "loop.colour=red"], "loop.colour: there is no such setting"),
        (["toy", "x", "count=many"], "count: Value 'many'"),
        (["toy", "x", "count=1.5"], "count: Value '1.5'"),
        (["toy", "x", "loop=5"], "int is not a subclass of ToyLoop. value: 5"),
        (["toy", "x", "names=[a"], "names=[a: "),
        (["toy", "x", "y"], "expected key=value arguments, found 'y'"),
        (["toy", "x", "--verbose"], "expected key=value arguments, found '--verbose'"),
        (["toy", "x", "count=-1"], "count: expected 0 or more, found -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_one_line(
    toy: list[ToyConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(arguments if arguments[0] != "toy" else [*arguments, f"out={tmp_path / 'out'}"]) == 2
    assert message in error_line(capsys)
    assert not toy
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "error",
    [
        RoboAlignError("store x: expected\n  12 files,\n  found 11"),
        OSError(28, "No space left on device", "runs/x"),
        PermissionError(13, "Permission denied", "/root"),
    ],
    ids=["ours", "disk", "permission"],
)
def test_a_problem_while_running_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def run(config: ToyConfig) -> Mapping[str, Any]:
        raise error

    use(monkeypatch, tmp_path, run)
    assert cli.main(["toy", "x", f"out={tmp_path / 'out'}"]) == 2
    assert " ".join(str(error).split()) in error_line(capsys)
    assert not (tmp_path / "out").exists()


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(config: ToyConfig) -> Mapping[str, Any]:
        raise ZeroDivisionError

    use(monkeypatch, tmp_path, run)
    with pytest.raises(ZeroDivisionError):
        cli.main(["toy", "x"])


def test_interruption(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: ToyConfig) -> Mapping[str, Any]:
        raise KeyboardInterrupt

    use(monkeypatch, tmp_path, run)
    assert cli.main(["toy", "x", f"out={tmp_path / 'out'}"]) == 130
    assert capsys.readouterr().err == "roboalign: interrupted\n"
    assert not (tmp_path / "out").exists()


# -- the real commands ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "data: expected at least one folder of episodes, found none"),
        (["train", "data=[x]", "loop.steps=many"], "loop.steps: Value 'many'"),
        (["train", "data=[x]", "loop.colour=1"], "loop.colour: there is no such setting"),
        (["train", "data=[x]", "stage.colour=1"], "stage.colour: there is no such setting"),
        (["train", "data=[x]", "stage=cooking"], "Could not find 'stage/cooking' Available options"),
        (["train", "data=[x]", "loop.steps=0"], "loop.steps: expected at least 1, found 0"),
        (["train", "data=[x]", "loop.device=abacus"], "device: expected one that torch can use here, found 'abacus'"),
        (["train", "data=[x]", "model.dynamics.heads=7"], "dynamics dim: expected a multiple of 14"),
        (["train", "data=[x]", "augmentation.hue=2"], "augmentation.hue"),
        (["train", "data=[x]"], "x/meta/info.json: expected a JSON file, found nothing there"),
        (["train", "stage=dynamics", "data=[x]", "world_model=./nowhere"], "model './nowhere'"),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, list) else "",
)
def test_train_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([*arguments, f"out={tmp_path / 'out'}"]) == 2
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_the_installed_command(tmp_path: Path) -> None:
    """As a process: exit code, one line, nothing on the other stream, nothing written."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "roboalign_core.cli",
            "train",
            "data=[nowhere]",
            f"out={tmp_path / 'out'}",
            "loop.seeds=1",
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=250,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("roboalign: error: roboalign train: configuration: ")
    assert "seeds" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


BLOCKED = """
import sys

class Block:
    names = {"rclpy", "mujoco", "robosuite", "gymnasium", "roboalign_sim", "roboalign_nodes", "roboalign_interfaces"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())
from roboalign_core import CEMConfig, CEMPlanner, Episode, EpisodeStore, ProgressModel, RoboAlignError, WorldModel
from roboalign_core.cli import main
assert not Block.names & set(sys.modules), Block.names & set(sys.modules)
sys.exit(main(["--help"]))
"""


def test_the_core_needs_neither_ros_nor_a_simulator() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, env=dict(os.environ), timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "train one stage of a model" in done.stdout
    assert "collect" in done.stdout
    assert "not available: " in done.stdout


def test_an_absent_extra_says_how_to_install_it() -> None:
    with pytest.raises(RoboAlignError, match=r'no_such_module is needed here .* pip install "roboalign\[viz\]"'):
        require("no_such_module", "viz")
