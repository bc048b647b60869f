"""What a study is, and where studies are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from roboalign_core.errors import RoboAlignError

GROUP = "roboalign.studies"


@dataclass(frozen=True)
class Study:
    """One evaluation: ``roboalign evaluate study=<name>``.

    Attributes:
        name: its yaml node is ``configs/study/<name>.yaml``.
        config: the dataclass of its settings.
        run: takes the settings and the output folder; returns flat figures, with nested detail under ``detail``.
    """

    name: str
    config: type
    run: Callable[[Any, str], Mapping[str, Any]]


def load_study(name: str) -> Study:
    """The study by that name, from whichever floor brings it.

    Raises:
        RoboAlignError: unknown name, or its packages are absent.
    """
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise RoboAlignError(f"study: expected one of {', '.join(sorted(found))}, found {name!r}")
    try:
        study: Study = found[name].load()
    except ImportError as error:
        raise RoboAlignError(f"study {name!r}: could not be loaded: {error}; see `roboalign doctor`") from error
    return study
