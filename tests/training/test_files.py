"""Files that are whole or absent."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import atomic_path, read_json, remove_leftovers, write_json, write_text
from roboalign_core.tensors import load_tensors, save_tensors


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.json"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".json"
        temporary.write_text("half")
        assert not target.exists()
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert names(target.parent) == ["file.json"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["disk", "ctrl-c"])
def test_a_failing_writer_leaves_nothing(tmp_path: Path, before: str | None, error: BaseException) -> None:
    target = tmp_path / "file.txt"
    if before is not None:
        target.write_text(before)

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert names(tmp_path) == ([] if before is None else ["file.txt"])
    assert before is None or target.read_text() == before


def test_a_killed_writer_leaves_the_old_file_and_its_rest_can_be_removed(tmp_path: Path) -> None:
    target = tmp_path / "below" / "file.txt"
    write_text(target, "old")
    program = (
        "import os, signal, sys\nfrom roboalign_core.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    assert len(names(target.parent)) == 2
    remove_leftovers(tmp_path)
    assert names(target.parent) == ["file.txt"]


def test_folders_that_were_being_built_go_too(tmp_path: Path) -> None:
    half = tmp_path / "run" / ".adapter.tmpab12"
    write_text(half / "file.txt", "half")
    (half / ".other.tmp.txt").write_text("half of it")
    (tmp_path / ".link.tmp").symlink_to(tmp_path / "elsewhere")
    write_text(tmp_path / "elsewhere" / "kept.txt", "kept")
    remove_leftovers(tmp_path, below=False)
    assert names(tmp_path) == ["elsewhere", "run"]
    assert half.is_dir()
    remove_leftovers(tmp_path)
    assert names(tmp_path / "run") == []
    assert names(tmp_path / "elsewhere") == ["kept.txt"]


def test_json_is_strict(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, 2.5, "ü"]})
    assert read_json(tmp_path / "a.json") == {"x": [1, 2.5, "ü"]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"x": float("nan")})
    assert names(tmp_path) == ["a.json"]


def test_json_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(RoboAlignError, match=f"{tmp_path / 'absent.json'}: expected a JSON file, found nothing"):
        read_json(tmp_path / "absent.json")
    for content in (b"", b"{", b"\xff\xfe{}", json.dumps({}).encode()[:1], b"[" * 100_000, b"1" * 5000):
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(RoboAlignError, match=r"bad\.json: expected valid UTF-8 JSON"):
            read_json(tmp_path / "bad.json")


def test_tensors_survive(tmp_path: Path) -> None:
    base = torch.arange(12.0).view(3, 4)
    tensors = {"a": base, "view": base.T, "count": torch.tensor(7), "half": base.bfloat16()}
    save_tensors(tmp_path / "t.safetensors", tensors)
    found = load_tensors(tmp_path / "t.safetensors")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    save_tensors(tmp_path / "t.safetensors", tensors, torch.bfloat16)
    found = load_tensors(tmp_path / "t.safetensors")
    assert found["a"].dtype == torch.bfloat16
    assert found["count"].dtype == torch.int64


def test_a_folder_in_the_place_of_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(RoboAlignError, match="expected weights"):
        load_tensors(tmp_path)


def test_weights_without_permission_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.zeros(1)})
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(RoboAlignError, match="expected a whole safetensors file"):
        load_tensors(path)
