"""Imports run downhill: the core knows neither simulators nor ROS, the simulators do not know ROS."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROS = {"rclpy", "launch", "launch_ros", "roboalign_interfaces", "roboalign_nodes", "sensor_msgs", "std_msgs"}
SIMULATORS = {"mujoco", "robosuite", "gymnasium", "roboalign_sim"}
SOURCES = {ROOT / "roboalign_core": ROS | SIMULATORS, ROOT / "sim" / "roboalign_sim": ROS}

# Imports every module of the core where nothing of the forbidden can be imported.
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in {forbidden!r}:
    sys.modules[name] = None
import roboalign_core
modules = [m.name for m in pkgutil.walk_packages(roboalign_core.__path__, "roboalign_core.")]
for name in modules:
    importlib.import_module(name)
for name in roboalign_core.__all__:
    getattr(roboalign_core, name)
print(len(modules))
"""


def modules(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, f"{folder} holds no code"
    return found


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("folder", SOURCES, ids=lambda folder: folder.name)
def test_no_import_runs_uphill(folder: Path) -> None:
    uphill = {
        str(path.relative_to(ROOT)): sorted(names)
        for path in modules(folder)
        if (names := SOURCES[folder] & set(imported(path)))
    }
    assert not uphill


def test_the_whole_core_imports_without_simulators_and_ros() -> None:
    program = IMPORT_ALL.format(forbidden=sorted(ROS | SIMULATORS | {"matplotlib", "torchvision", "lpips"}))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 20


def test_an_absent_extra_is_an_extra_that_exists() -> None:
    named = {
        (str(path.relative_to(ROOT)), node.args[1].value)
        for folder in SOURCES
        for path in modules(folder)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "require"
        and isinstance(node.args[1], ast.Constant)
    }
    assert named
    extras = set(metadata("roboalign").get_all("Provides-Extra") or [])
    assert {extra for _, extra in named} <= extras, named


def test_every_package_folder_is_a_package() -> None:
    missing = {
        str(path.parent.relative_to(ROOT))
        for folder in SOURCES
        for path in modules(folder)
        if not (path.parent / "__init__.py").exists()
    }
    assert not missing, "without __init__.py a wheel leaves them out"


def test_no_folder_shadows_ros_launch() -> None:
    assert not (ROOT / "launch" / "__init__.py").exists()
