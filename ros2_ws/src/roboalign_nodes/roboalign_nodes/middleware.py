"""Fast DDS: the profile that we ship, the variables that select it, and what killed processes leave behind."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
_TRACING = "lttng-ust-wait-*"
_UNMAP_LIMIT = 10.0  # seconds for a process to let go of segments; Fast DDS has a thread look about once a second
_NAME = re.compile(r"^(?:sem\.)?(?P<segment>fast(?:rtps|dds)_(?:port\d+|[0-9a-f]{16}))(?:_el|_sl|_mutex)?$")


def profile_path() -> Path:
    """The profile for camera streams on one machine."""
    return Path(str(files("roboalign_nodes") / "data" / "fastdds.xml"))


def environment(domain_id: int) -> dict[str, str]:
    """Variables for processes that talk to each other on this machine only, in a domain of their own."""
    profile = str(profile_path())
    return {
        "ROS_DOMAIN_ID": str(domain_id),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,  # Fast DDS 2.14 and older
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
    }


@contextmanager
def tidy_shared_memory(folder: Path = SHARED_MEMORY) -> Iterator[None]:
    """Leave shared memory as it was found, less what earlier processes left; enter before rclpy is imported.

    Besides Fast DDS, the tracing library that rclpy loads puts files there that it never removes.
    """
    clean_shared_memory(folder)
    before, ours = set(folder.glob(_TRACING)), mapped_here(folder)
    try:
        yield
    finally:
        wait_until_unmapped(folder, ours)  # what is still mapped would stay
        clean_shared_memory(folder)
        mapped = _mapped(folder, others_only=True)
        _remove(path for path in set(folder.glob(_TRACING)) - before if f"{path}\n" not in mapped)


def clean_shared_memory(folder: Path = SHARED_MEMORY) -> list[str]:
    """Remove the segments and ports that no process uses any more.

    A living owner keeps a lock on the file ``<segment>_el`` (or ``_sl``). A killed process leaves it unlocked, which is
    what ``fastdds shm clean`` looks for; it also leaves the ports of others counted as used, so that they stay when
    their owners end and take their lock files away. Those are recognised by nobody having them mapped.

    Returns:
        Names of the segments that were removed.
    """
    groups: dict[str, list[Path]] = {}
    for path in folder.glob("*fast*"):
        match = _NAME.match(path.name)
        if match is not None:
            groups.setdefault(match["segment"], []).append(path)
    unused = {name: paths for name, paths in groups.items() if not any(_is_held(path) for path in _locks(paths))}
    mapped = _mapped(folder) if unused else ""
    idle = [name for name in sorted(unused) if f"{folder}/{name}\n" not in mapped]
    return [name for name in idle if _remove(unused[name])]


def mapped_here(folder: Path = SHARED_MEMORY) -> set[str]:
    """Files of Fast DDS in the folder that this process has mapped, removed or not."""
    lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    return {line.split(maxsplit=5)[-1].removesuffix(" (deleted)") for line in lines if f"{folder}/fast" in line}


def wait_until_unmapped(folder: Path = SHARED_MEMORY, known: Set[str] = frozenset()) -> set[str]:
    """Wait some seconds until this process has nothing mapped but the known files; returns what is mapped besides."""
    deadline = time.monotonic() + _UNMAP_LIMIT
    while (mapped := mapped_here(folder) - known) and time.monotonic() < deadline:
        time.sleep(0.05)
    return mapped


def _locks(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.name.endswith(("_el", "_sl"))]


def _remove(paths: Iterable[Path]) -> bool:
    """Whether all of the files are gone now; somebody else's stay."""
    gone = True
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except PermissionError:  # the folder is sticky: only its owner may remove a file
            gone = False
    return gone


def _is_held(lock: Path) -> bool:
    try:
        with lock.open("rb+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, gone in the meantime, or somebody else's
        return True
    return False


def _mapped(folder: Path, others_only: bool = False) -> str:
    """The lines of all readable memory maps, or of all but our own, that mention the folder."""
    lines = []
    for maps in Path("/proc").glob("[0-9]*/maps"):
        if others_only and maps.parent.name == str(os.getpid()):
            continue
        try:
            lines += [line for line in maps.read_text(errors="replace").splitlines(True) if str(folder) in line]
        except OSError:  # ended in the meantime, or somebody else's
            continue
    return "".join(lines)
