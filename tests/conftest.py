"""What every test runs under. Set before torch, MuJoCo or rclpy are imported, because they read it once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for toy_benchmark

_DEFAULTS = {
    "OMP_NUM_THREADS": "2",
    "MUJOCO_GL": "egl",
    "MPLBACKEND": "Agg",
    "ROS_PYTHON_CHECK_FIELDS": "1",  # rclpy then refuses values of a wrong type instead of sending something else
    "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    "HF_HUB_OFFLINE": "1",  # no test may depend on the network
}

for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums in one order, so that runs can be compared bit by bit; networks this small are not slower for it."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small benchmark, see ``toy_benchmark``; tests do not change it."""
    from toy_benchmark import make_benchmark

    return make_benchmark(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="session")
def toy_student(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a student that learned the toy benchmark; tests do not change it."""
    from toy_benchmark import train_toy

    return train_toy(toy.path, tmp_path_factory.mktemp("student"), steps=200)
