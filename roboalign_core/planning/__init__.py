"""Choosing actions by imagining what they lead to."""

from roboalign_core.planning.cem import CEM, ICEM, CEMConfig, ICEMConfig
from roboalign_core.planning.imagination import ImaginationServer
from roboalign_core.planning.methods import METHODS, make_search, search_config
from roboalign_core.planning.mppi import MPPI, MPPIConfig
from roboalign_core.planning.planner import CEMPlanner, Plan, Planner
from roboalign_core.planning.search import Search, SearchConfig, SearchResult

__all__ = [
    "CEM",
    "ICEM",
    "METHODS",
    "MPPI",
    "CEMConfig",
    "CEMPlanner",
    "ICEMConfig",
    "ImaginationServer",
    "MPPIConfig",
    "Plan",
    "Planner",
    "Search",
    "SearchConfig",
    "SearchResult",
    "make_search",
    "search_config",
]
