"""What is installed is what the checkout holds, and it finds its configuration."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from email import message_from_string
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from roboalign_core import RoboAlignError, configs
from roboalign_core.verb import Verb

ROOT = Path(__file__).resolve().parents[2]
BUILD_INPUTS = ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "README.md", "LICENSE")
BUILD_FOLDERS = ("resource", "configs", "launch", "roboalign_core", "sim")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, because a build leaves folders beside setup.py."""
    source = tmp_path_factory.mktemp("source")
    for name in BUILD_INPUTS:
        shutil.copy(ROOT / name, source)
    for name in BUILD_FOLDERS:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(out), str(source))
    return next(out.glob("roboalign-*.whl"))


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def files(folder: Path, pattern: str = "*") -> Iterator[Path]:
    return (path for path in folder.rglob(pattern) if path.is_file() and "__pycache__" not in path.parts)


def test_wheel_holds_all_code_weights_and_configuration(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {path.relative_to(ROOT).as_posix() for path in files(ROOT / "roboalign_core", "*.py")}
    data = [path for folder in ("models", "assets") for path in files(ROOT / "roboalign_core" / folder)]
    expected |= {path.relative_to(ROOT).as_posix() for path in data}
    expected |= {path.relative_to(ROOT / "sim").as_posix() for path in files(ROOT / "sim" / "roboalign_sim", "*.py")}
    share = re.sub(r"-py3.*", "", wheel.name) + ".data/data/share"
    expected |= {f"{share}/roboalign/{path.relative_to(ROOT).as_posix()}" for path in files(ROOT / "configs", "*.yaml")}
    expected |= {f"{share}/roboalign/package.xml", f"{share}/ament_index/resource_index/packages/roboalign"}
    assert expected <= names, sorted(expected - names)


def test_wheel_claims_no_common_name(wheel: Path) -> None:
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.startswith("roboalign-")} == {"roboalign_core", "roboalign_sim"}


def test_installed_package_finds_its_configuration(wheel: Path, tmp_path: Path) -> None:
    pip("install", "--no-deps", "--no-index", "--ignore-installed", "--prefix", str(tmp_path), str(wheel))
    site = next(tmp_path.rglob("roboalign_core")).parent
    environment = {**os.environ, "PYTHONPATH": str(site), "AMENT_PREFIX_PATH": str(tmp_path)}
    program = "import roboalign_core.configs as c; print(c.__file__); print(c.config_dir())"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,  # not in the checkout, whose packages would come first
        timeout=280,
        check=True,
    )
    module, folder = done.stdout.split()[-2:]
    assert Path(module).is_relative_to(tmp_path)
    assert Path(folder) == tmp_path / "share" / "roboalign" / "configs"
    assert (Path(folder) / "doctor.yaml").is_file()


def test_checkout_uses_its_own_configuration() -> None:
    assert configs.config_dir() == ROOT / "configs"


def test_configuration_below_the_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "__file__", str(tmp_path / "site-packages" / "roboalign_core" / "configs.py"))
    monkeypatch.setattr(configs.sysconfig, "get_path", lambda name: str(tmp_path / name))
    monkeypatch.setattr(configs.site, "getuserbase", lambda: str(tmp_path / "user"))
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    (tmp_path / "site-packages" / "configs").mkdir(parents=True)  # some other package's
    with pytest.raises(RoboAlignError, match=r"found none at .*share/roboalign/configs"):
        configs.config_dir()
    expected = tmp_path / "data" / "share" / "roboalign" / "configs"
    expected.mkdir(parents=True)
    assert configs.config_dir() == expected


def test_every_command_loads_and_has_a_configuration() -> None:
    points = entry_points(group="roboalign.verbs")
    assert {"collect", "convert", "demo", "doctor", "evaluate", "rollout", "train"} <= {point.name for point in points}
    for point in points:
        verb = point.load()
        assert isinstance(verb, Verb)
        assert verb.name.replace(" ", ".") == point.name
        assert (configs.config_dir() / verb.yaml).is_file()


def test_every_study_loads_and_has_a_configuration() -> None:
    points = entry_points(group="roboalign.studies")
    assert {"closed_loop", "world_model"} <= {point.name for point in points}
    for point in points:
        assert point.load().name == point.name
        assert (configs.config_dir() / "study" / f"{point.name}.yaml").is_file()


def test_package_xml_agrees_with_the_wheel(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    text = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    about = message_from_string(text)
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert manifest.get("format") == "3"
    assert manifest.findtext("export/build_type") == "ament_python"
    for field, element in {"Name": "name", "Version": "version", "License": "license"}.items():
        assert about[field] == manifest.findtext(element)
