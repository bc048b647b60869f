"""From settings to a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.oracle import OracleJudge
from roboalign_core.judge.protocol import Judge
from roboalign_core.judge.qwen import QwenConfig, QwenJudge
from roboalign_core.judge.server import ServerConfig, ServerJudge


@dataclass
class OracleConfig:
    """An oracle has no settings: which one is asked follows from where an episode was recorded."""


JUDGES: dict[str, tuple[type, Callable[[Any], Judge]]] = {
    "server": (ServerConfig, ServerJudge),
    "qwen": (QwenConfig, QwenJudge),
    "oracle": (OracleConfig, lambda config: OracleJudge()),
}


def judge_settings(settings: Any, **defaults: Any) -> tuple[str, Any]:
    """Name and checked settings of a judge.

    Args:
        settings: a mapping as in ``configs/judge/``: the name, and settings of that judge's configuration.
        defaults: of settings that are left out or empty, where the judge has them.

    Raises:
        RoboAlignError: an unknown name or setting, or a value of the wrong type or range.
    """
    name = settings.get("name") if isinstance(settings, Mapping) else None
    if not isinstance(name, str) or name not in JUDGES:
        raise RoboAlignError(f"judge: expected one of {', '.join(JUDGES)}, found {name!r}")
    kind = JUDGES[name][0]
    filled = {key: value for key, value in settings.items() if key != "name"}
    for key, value in defaults.items():
        if key in {each.name for each in fields(kind)} and filled.get(key) in (None, ""):
            filled[key] = value
    try:
        return name, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(kind), filled))
    except OmegaConfBaseException as error:
        raise RoboAlignError(f"judge {name}: {' '.join(str(error).split())}") from error


def make_judge(settings: Any, **defaults: Any) -> Judge:
    """The judge that settings name, see :func:`judge_settings`; weights are loaded, nothing is asked yet."""
    name, config = judge_settings(settings, **defaults)
    return JUDGES[name][1](config)
