"""Choosing actions by imagining what they lead to."""

from roboalign_core.planning.cem import CEM, ICEM, CEMConfig, ICEMConfig
from roboalign_core.planning.imagination import ImaginationServer
from roboalign_core.planning.methods import METHODS, make_search, search_config
from roboalign_core.planning.mppi import MPPI, MPPIConfig
from roboalign_core.planning.objective import JointObjective, Objective, ProgressObjective, StudentObjective
from roboalign_core.planning.objectives import OBJECTIVES, ObjectiveConfig, load_objective, objective_config
from roboalign_core.planning.planner import CEMPlanner, Plan, Planner
from roboalign_core.planning.search import Search, SearchConfig, SearchResult

__all__ = [
    "CEM",
    "ICEM",
    "METHODS",
    "MPPI",
    "OBJECTIVES",
    "CEMConfig",
    "CEMPlanner",
    "ICEMConfig",
    "ImaginationServer",
    "JointObjective",
    "MPPIConfig",
    "Objective",
    "ObjectiveConfig",
    "Plan",
    "Planner",
    "ProgressObjective",
    "Search",
    "SearchConfig",
    "SearchResult",
    "StudentObjective",
    "load_objective",
    "make_search",
    "objective_config",
    "search_config",
]
