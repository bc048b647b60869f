"""What every test runs under. Set before torch, MuJoCo or rclpy are imported, because they read it once."""

from __future__ import annotations

import os

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
