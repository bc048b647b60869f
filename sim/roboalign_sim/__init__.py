"""Simulated environments: a light table-top of our own, and robosuite's tasks. Importing this registers both."""

from roboalign_sim.registry import make_env

__all__ = ["make_env"]
