"""``roboalign evaluate study=…``: run one study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.study import load_study
from roboalign_core.verb import Verb


@dataclass
class EvaluateConfig:
    """One study.

    Attributes:
        out: folder of ``results.json`` and the report.
        study: the study's name and settings (``configs/study/``).
    """

    out: str = MISSING
    study: Any = MISSING


def evaluate(config: EvaluateConfig) -> Mapping[str, Any]:
    """Run a study; returns its figures."""
    name = config.study.get("name") if isinstance(config.study, dict) else None
    study = load_study(str(name))
    rest = {key: value for key, value in config.study.items() if key != "name"}
    try:
        merged = OmegaConf.merge(OmegaConf.structured(study.config), rest)
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise RoboAlignError(f"study {name}: expected a value for study.{missing[0]}, found none")
        settings = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise RoboAlignError(f"study {name}: {' '.join(str(error).split())}") from error
    return study.run(settings, config.out)


VERB = Verb("evaluate", "studies with seeds and intervals", EvaluateConfig, evaluate)
