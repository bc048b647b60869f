"""requirements/system.sh on machines that lack things, played by a PATH with little on it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "requirements" / "system.sh"
COMPILERS = ("g++", "cmake", "make")
BASH = shutil.which("bash") or "/bin/bash"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of commands: an ordinary user, no apt-get, compilers that do nothing, no Python."""
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    for name in COMPILERS:
        (tmp_path / name).write_text("#!/bin/sh\n")
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    return tmp_path


def interpreter(machine: Path, name: str, program: str) -> None:
    path = machine / name
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)


def check(machine: Path, python: str = "") -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(machine), "PYTHON": python, "HOME": str(machine)}
    command = [BASH, str(SCRIPT)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_complete_machine_gives_its_python(machine: Path) -> None:
    done = check(machine, sys.executable)
    if "lib" in done.stderr:
        pytest.skip(f"this machine lacks OpenGL libraries: {done.stderr.strip()}")
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, sys.executable, "")


def test_missing_compilers_are_named_with_the_line_that_installs_them(machine: Path) -> None:
    for name in ("g++", "cmake"):
        (machine / name).unlink()
    done = check(machine, sys.executable)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "apt-get install -y g++ cmake" in done.stderr


def test_no_python_at_all(machine: Path) -> None:
    done = check(machine)
    assert done.returncode == 1
    assert "apt-get install -y python3 python3-venv python3-dev" in done.stderr


def test_a_python_that_is_too_old_is_refused(machine: Path) -> None:
    interpreter(machine, "old", "exit 1")
    done = check(machine, "old")
    assert done.returncode == 1
    assert "PYTHON=old: expected Python 3.10 to 3.13" in done.stderr


def test_a_broken_python_is_passed_over(machine: Path) -> None:
    interpreter(machine, "python3.12", "echo 'version not set' >&2; exit 127")
    (machine / "python3.11").symlink_to(sys.executable)
    (machine / "g++").unlink()
    done = check(machine)
    assert done.returncode == 1
    assert "apt-get install -y" in done.stderr
    assert "g++" in done.stderr
    assert "python3" not in done.stderr, "the second interpreter was taken"
