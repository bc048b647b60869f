"""What a command of ``roboalign`` is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verb:
    """One command: ``roboalign <name> [key=value ...]``.

    Attributes:
        name: the one or two words on the command line; an entry point has a dot between two.
        help: one line.
        config: the dataclass that the yaml node and the overrides fill.
        run: takes an instance of ``config`` and returns a flat mapping of results.
        positional: the field of ``config`` that an argument without ``=`` fills, or several do where it is a list.
    """

    name: str
    help: str
    config: type
    run: Callable[[Any], Mapping[str, Any]]
    positional: str | None = None

    @property
    def yaml(self) -> str:
        """The name of its node below ``configs/``."""
        return f"{self.name.replace(' ', '_')}.yaml"
