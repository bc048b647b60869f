"""What a reader of a foreign format offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Protocol, runtime_checkable

from roboalign_core.episodes.episode import Episode
from roboalign_core.errors import RoboAlignError

MOST_BYTES = 4 << 30
"""Of one array of a foreign file, unpacked: what claims to be larger is refused."""
UNDECLARED = "not declared by the source"
"""The unit of an action column of which the source does not name one."""


class ActionKind(str, Enum):
    """What the number in an action column is."""

    DELTA = "delta"  # change from one frame to the next
    ABSOLUTE = "absolute"  # target value
    UNUSED = "unused"  # always zero; kept so that the columns are those of the source
    UNKNOWN = "unknown"  # the source does not say


@dataclass(frozen=True)
class ActionColumn:
    """One column of the actions: its name, its unit, and what kind of number it is."""

    name: str
    unit: str
    kind: ActionKind

    @property
    def label(self) -> str:
        """Unit and kind, as stores note them."""
        return f"{self.unit} ({self.kind.value})"


@dataclass(frozen=True)
class ActionMeaning:
    """What the columns of the actions mean.

    Raises:
        RoboAlignError: two columns have one name.
    """

    columns: tuple[ActionColumn, ...]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise RoboAlignError(f"action columns: expected each name once, found {', '.join(self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each column."""
        return tuple(column.name for column in self.columns)

    @property
    def units(self) -> tuple[str, ...]:
        """Unit and kind of each column."""
        return tuple(column.label for column in self.columns)


@dataclass(frozen=True)
class Recording:
    """One episode of one camera that was found and is not read yet.

    Attributes:
        name: where it lies, for messages.
        camera: the name of its camera; None where the file is too damaged to tell.
        action: what the columns of its actions mean.
        load: reads it; raises RoboAlignError if it is damaged or contradicts itself.
        has_rate: whether the source tells frames per second; otherwise they must be given to the conversion.
        notes: what whoever uses it should know, e.g. that gaps were bridged; complete once it is loaded.
        extras: a name for each column of ``Episode.extras``; those that are not here are numbered.
    """

    name: str
    camera: str | None
    action: ActionMeaning
    load: Callable[[], Episode]
    has_rate: bool = True
    notes: list[str] = field(default_factory=list)
    extras: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Reader(Protocol):
    """A foreign format."""

    @property
    def name(self) -> str:
        """The word for ``format=``, and the ``source`` of the episodes."""

    def detect(self, path: Path) -> bool:
        """Whether ``path`` holds this format; looks at names only."""

    def recordings(self, path: Path) -> Iterator[Recording]:
        """What ``path`` holds, in a fixed order."""


@runtime_checkable
class Configurable(Protocol):
    """A format whose files do not say what they hold."""

    def with_options(self, path: Path) -> Reader:
        """The reader with what a yaml file says.

        Raises:
            RoboAlignError: the file is absent, or says something that makes no sense.
        """
