"""ROS tests: real rclpy and Fast DDS, a domain of its own for every test, conditions instead of sleeps."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)  # for ros_support
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")]))  # for its processes, too


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
def loop(domain: int) -> Iterator[Any]:
    """An executor in a thread, with one plain node to talk to the nodes under test."""
    from ros_support import Loop

    with Loop(domain) as running:
        yield running
