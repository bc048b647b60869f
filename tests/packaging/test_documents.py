"""What the documents say exists, and the README's program runs."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from roboalign_core.bundled import bundled_models

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = ROOT / "README.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [link for link in links if not link.startswith(("http://", "https://", "mailto:"))]
    assert [link for link in local if not (document.parent / link).exists()] == []


def test_readme_lists_the_commands_that_exist() -> None:
    section = README.read_text(encoding="utf-8").split("## Commands")[1].split("\n## ")[0]
    listed = set(re.findall(r"^\| `([a-z_]+(?: [a-z_]+)?)", section, flags=re.MULTILINE))
    assert listed == {point.name.replace(".", " ") for point in entry_points(group="roboalign.verbs")}


def test_make_help_lists_the_targets() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE).group(1).split())  # type: ignore[union-attr]
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert set(re.findall(r"^make (\S+)", done.stdout, flags=re.MULTILINE)) == targets - {"help"}


@pytest.mark.skipif("tabletop" not in bundled_models(), reason="no model is bundled yet: make train-tabletop")
def test_readme_program_runs() -> None:
    pytest.importorskip("mujoco", reason="MuJoCo is not installed")
    program = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert program
    check = "\nassert imagined.shape == plan.frames[0].shape\nassert plan.actions.shape[1:] == env.action_space.shape\n"
    command = [sys.executable, "-c", program.group(1) + check]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
