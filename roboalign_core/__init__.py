"""RoboAlign: robot video world models that a robot can trust."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roboalign_core.errors import RoboAlignError

if TYPE_CHECKING:
    from roboalign_core.benchmark import Benchmark
    from roboalign_core.episodes import Episode, EpisodeStore
    from roboalign_core.judge import Judge
    from roboalign_core.planning import CEMConfig, CEMPlanner
    from roboalign_core.reward import ProgressModel, RewardModel
    from roboalign_core.rubric import DIMENSIONS, Scores
    from roboalign_core.world_model import WorldModel

_HOMES = {
    "Benchmark": "roboalign_core.benchmark",
    "DIMENSIONS": "roboalign_core.rubric",
    "Scores": "roboalign_core.rubric",
    "Episode": "roboalign_core.episodes",
    "EpisodeStore": "roboalign_core.episodes",
    "Judge": "roboalign_core.judge",
    "WorldModel": "roboalign_core.world_model",
    "ProgressModel": "roboalign_core.reward",
    "RewardModel": "roboalign_core.reward",
    "CEMPlanner": "roboalign_core.planning",
    "CEMConfig": "roboalign_core.planning",
}

__all__ = [
    "DIMENSIONS",
    "Benchmark",
    "CEMConfig",
    "CEMPlanner",
    "Episode",
    "EpisodeStore",
    "Judge",
    "ProgressModel",
    "RewardModel",
    "RoboAlignError",
    "Scores",
    "WorldModel",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that ``import roboalign_core`` stays cheap."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
