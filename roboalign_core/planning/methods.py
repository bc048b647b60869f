"""Which searches there are, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning.cem import CEM, ICEM, CEMConfig, ICEMConfig
from roboalign_core.planning.mppi import MPPI, MPPIConfig
from roboalign_core.planning.search import Search, SearchConfig

METHODS: dict[str, type[SearchConfig]] = {"cem": CEMConfig, "icem": ICEMConfig, "mppi": MPPIConfig}


def make_search(config: SearchConfig, action_dim: int) -> Search:
    """The search that a configuration is of.

    Raises:
        RoboAlignError: it is none of :data:`METHODS`.
    """
    if isinstance(config, CEMConfig):
        return CEM(config, action_dim)
    if isinstance(config, ICEMConfig):
        return ICEM(config, action_dim)
    if isinstance(config, MPPIConfig):
        return MPPI(config, action_dim)
    raise RoboAlignError(f"planner: expected a configuration of {', '.join(METHODS)}, found {type(config).__name__}")


def search_config(settings: Mapping[str, Any]) -> SearchConfig:
    """From a node of ``configs/planner/``: ``name`` and the settings of that method.

    Raises:
        RoboAlignError: unknown names, or values of the wrong type.
    """
    name = settings.get("name") if isinstance(settings, Mapping) else settings
    if name not in METHODS or not isinstance(settings, Mapping):
        raise RoboAlignError(
            f"planner: expected a node of configs/planner/ ({', '.join(METHODS)}), found {name!r}; choose one with "
            "planner=NAME, in a study with planner@study.planner=NAME"
        )
    rest = {key: value for key, value in settings.items() if key != "name"}
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(METHODS[name]), rest))
    except OmegaConfBaseException as error:
        raise RoboAlignError(f"planner {name}: {' '.join(str(error).split())}") from error
    assert isinstance(config, SearchConfig)
    return config
