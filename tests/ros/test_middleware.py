"""The profile, and what is cleaned away in shared memory."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

middleware = pytest.importorskip("roboalign_nodes.middleware", reason="needs roboalign_nodes")

SEGMENT = "fastrtps_0123456789abcdef"


def test_profile_is_what_the_variables_name() -> None:
    variables = middleware.environment(7)
    assert variables["ROS_DOMAIN_ID"] == "7"
    assert variables["FASTRTPS_DEFAULT_PROFILES_FILE"] == variables["FASTDDS_DEFAULT_PROFILES_FILE"]
    root = ElementTree.parse(variables["FASTRTPS_DEFAULT_PROFILES_FILE"]).getroot()
    space = {"d": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}
    assert [node.text for node in root.findall(".//d:transport_descriptor/d:type", space)] == ["SHM", "UDPv4"]
    assert [node.text for node in root.findall(".//d:segment_size", space)] == [str(32 * 1024 * 1024)]
    assert [node.text for node in root.findall(".//d:leaseAnnouncement/d:nanosec", space)] == ["200000000"]


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"x")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    fill(tmp_path, SEGMENT, f"{SEGMENT}_el", "fastrtps_port7413", "fastrtps_port7413_sl", "sem.fastrtps_port7413_mutex")
    assert middleware.clean_shared_memory(tmp_path) == [SEGMENT, "fastrtps_port7413"]
    assert list(tmp_path.iterdir()) == []


def test_a_port_without_lock_file_is_removed(tmp_path: Path) -> None:
    fill(tmp_path, "fastrtps_port7003", "sem.fastrtps_port7003_mutex")
    assert middleware.clean_shared_memory(tmp_path) == ["fastrtps_port7003"]
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_use_or_somebody_elses_stays(tmp_path: Path) -> None:
    fill(tmp_path, SEGMENT, f"{SEGMENT}_el", "fastrtps_port7003", "sem.mp-abc", "breakfast", "fastrtps_notes.txt")
    before = sorted(tmp_path.iterdir())
    with (tmp_path / f"{SEGMENT}_el").open("rb+") as lock, (tmp_path / "fastrtps_port7003").open("rb+") as port:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with mmap.mmap(port.fileno(), 0):
            assert middleware.clean_shared_memory(tmp_path) == []
    assert sorted(tmp_path.iterdir()) == before


def test_tidy_removes_what_the_tracing_library_adds(tmp_path: Path) -> None:
    fill(tmp_path, "lttng-ust-wait-6", SEGMENT)
    with middleware.tidy_shared_memory(tmp_path):
        assert not (tmp_path / SEGMENT).exists()
        fill(tmp_path, "lttng-ust-wait-6-0", SEGMENT)
    assert [path.name for path in tmp_path.iterdir()] == ["lttng-ust-wait-6"]


def test_what_another_user_left_stays_and_is_not_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:  # as a sticky folder does, though not to root
        if "7003" in path.name or path.name == "lttng-ust-wait-6":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    theirs = ["fastrtps_port7003", "lttng-ust-wait-6", "sem.fastrtps_port7003_mutex"]
    fill(tmp_path, "fastrtps_port7003", "sem.fastrtps_port7003_mutex", "fastrtps_port7413")
    assert middleware.clean_shared_memory(tmp_path) == ["fastrtps_port7413"]
    with middleware.tidy_shared_memory(tmp_path):
        fill(tmp_path, "lttng-ust-wait-6", "lttng-ust-wait-6-0")
    assert sorted(path.name for path in tmp_path.iterdir()) == theirs
