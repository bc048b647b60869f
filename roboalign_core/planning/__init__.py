"""Choosing actions by imagining what they lead to."""

from roboalign_core.planning.cem import CEM, CEMConfig, CEMResult
from roboalign_core.planning.imagination import ImaginationServer
from roboalign_core.planning.planner import CEMPlanner, Plan

__all__ = ["CEM", "CEMConfig", "CEMPlanner", "CEMResult", "ImaginationServer", "Plan"]
