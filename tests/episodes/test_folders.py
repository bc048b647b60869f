from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from roboalign_core.episodes import readers
from roboalign_core.episodes.convert import VERB, ConvertConfig
from roboalign_core.episodes.readers.folders import files_below
from roboalign_core.errors import RoboAlignError


def below(folder: Path, *patterns: str) -> list[str]:
    return [str(path.relative_to(folder)) for path in files_below(folder, *patterns)]


@pytest.fixture
def disks(tmp_path: Path) -> Path:
    """``data`` holds one folder and a link to another that lies elsewhere."""
    for name in ("data/here/a.npz", "data/here/notes.txt", "data/z.npz", "elsewhere/deep/b.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "data/linked").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "data"


def test_links_to_folders_are_followed(disks: Path) -> None:
    assert sorted(below(disks, "*.npz")) == ["here/a.npz", "linked/deep/b.npz", "z.npz"]
    assert sorted(below(disks, "*.npz", "*.txt")) == ["here/a.npz", "here/notes.txt", "linked/deep/b.npz", "z.npz"]
    assert below(disks / "z.npz", "*.npz") == []


def test_loops_end_and_nothing_is_found_twice(disks: Path) -> None:
    (disks / "here/up").symlink_to(disks)
    (disks.parent / "elsewhere/round").symlink_to(disks / "linked")
    (disks / "again").symlink_to(disks / "here")
    (disks / "self").symlink_to(disks / "self")
    found = below(disks, "*.npz")
    assert sorted(Path(path).name for path in found) == ["a.npz", "b.npz", "z.npz"]


def test_a_link_that_leads_nowhere_is_missed_and_not_overlooked(disks: Path) -> None:
    (disks / "gone.npz").symlink_to(disks / "absent")
    assert "gone.npz" in below(disks, "*.npz")


def test_no_reader_looks_for_files_in_a_way_of_its_own() -> None:
    modules = list(Path(readers.__file__).parent.rglob("*.py"))
    assert len(modules) > 8
    assert [path.name for path in modules if "glob(" in path.read_text(encoding="utf-8")] == []


def test_a_linked_data_set_is_converted(disks: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "elsewhere/deep/b.npz", image=np.zeros((3, 64, 64, 3), np.uint8))
    os.remove(disks / "z.npz")
    os.remove(disks / "here/a.npz")
    results = VERB.run(ConvertConfig(src=str(disks), out=str(tmp_path / "out")))
    assert (results["episodes"], results["detail"]["format"]) == (1, "rt1")
    (disks / "linked").unlink()
    with pytest.raises(RoboAlignError, match="found none of them"):
        VERB.run(ConvertConfig(src=str(disks), out=str(tmp_path / "out2")))
