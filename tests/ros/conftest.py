"""ROS tests: real rclpy and Fast DDS, a domain of its own for every test, conditions instead of sleeps."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

NEEDED = ("rclpy", "roboalign_interfaces", "roboalign_nodes")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)  # for ros_support
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))  # for its processes, too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if MISSING:
        reason = f"needs {', '.join(MISSING)}: install ROS 2, then ros2_ws/src/roboalign_interfaces and roboalign_nodes"
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def domain() -> Iterator[int]:
    """A ROS domain that nobody else on this machine uses while the test runs."""
    from domain_coordinator import domain_id
    from roboalign_nodes.middleware import environment

    with domain_id() as found:
        before = dict(os.environ)
        os.environ.update(environment(found))
        try:
            yield found
        finally:
            os.environ.clear()
            os.environ.update(before)


@pytest.fixture
def loop(domain: int) -> Iterator[Loop]:
    """An executor in a thread, with one plain node to talk to the nodes under test."""
    with Loop(domain) as running:
        yield running


if not MISSING:
    from ros_support import Loop
