"""The yaml file that says what of a robot's recording becomes cameras, actions and states; docs/data.md explains it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from roboalign_core.episodes.readers.base import ActionColumn, ActionKind, ActionMeaning
from roboalign_core.episodes.readers.rosbag.fields import Field
from roboalign_core.episodes.readers.rosbag.sections import Section
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_yaml

_FILE_NAME = re.compile(r"\w[\w .\-]*")


class CommandKind(str, Enum):
    """How the commands between two frames become one action."""

    ABSOLUTE = "absolute"  # a target: the last one, held until the next
    DELTA = "delta"  # steps: their sum, 0 where there is none
    VELOCITY = "velocity"  # integrated over the time, each held until the next: the action is a change

    @property
    def action(self) -> ActionKind:
        """What the action is."""
        return ActionKind.ABSOLUTE if self is CommandKind.ABSOLUTE else ActionKind.DELTA


@dataclass(frozen=True)
class Source:
    """A field of the messages of a topic."""

    topic: str
    field: Field


@dataclass(frozen=True)
class Command:
    """One column of the actions."""

    source: Source
    name: str
    unit: str
    kind: CommandKind


@dataclass(frozen=True)
class Instruction:
    """Where the task in words comes from: one of the three."""

    text: str | None = None
    file: str | None = None
    source: Source | None = None


@dataclass(frozen=True)
class Topics:
    """What to read.

    Attributes:
        rate: frames per second.
        cameras: name to topic.
        commands: the columns of the actions.
        frames: the camera whose images are the frames; None: frames lie on a grid of ``rate``.
        state: column names and sources of ``observation.state``.
        instruction, success, episode: where they come from, if anywhere.
        gap: the longest time, in seconds, that a stream may be silent.
        hold: whether longer gaps are bridged instead of refused.
        unstamped: topics whose header stamps are not used.
    """

    rate: float
    cameras: Mapping[str, str]
    commands: tuple[Command, ...]
    frames: str | None = None
    state: Mapping[str, Source] = field(default_factory=dict)
    instruction: Instruction = Instruction()
    success: Source | None = None
    episode: Source | None = None
    gap: float = 0.5
    hold: bool = False
    unstamped: tuple[str, ...] = ()

    @property
    def action(self) -> ActionMeaning:
        """What the columns of the actions mean."""
        return ActionMeaning(tuple(ActionColumn(c.name, c.unit, c.kind.action) for c in self.commands))

    @property
    def period(self) -> float:
        """Seconds between two frames."""
        return 1 / self.rate


def read_topics(path: Path) -> Topics:
    """Read and check the file.

    Raises:
        RoboAlignError: no such file, no plain YAML, an unknown or missing key, or a value that makes no sense.
    """
    top = Section(str(path), read_yaml(path))
    instruction = top.section("instruction")
    success, episode = top.section("success"), top.section("episode")
    state = [(_name(item), _source(item)) for item in top.sections("state")]
    topics = Topics(
        rate=top.number("rate", 0.001, 1000),
        cameras={name: item.text("topic") for name, item in top.named("cameras").items()},
        commands=tuple(_command(item) for item in top.sections("actions")),
        frames=top.text("frames", None),
        state=dict(state),
        instruction=Instruction() if instruction is None else _instruction(instruction),
        success=None if success is None else _source(success, "data"),
        episode=None if episode is None else _source(episode, "data"),
        gap=top.number("gap", 0.001, 1e6, Topics.gap),
        hold=top.choice("gaps", ("refuse", "hold"), "refuse") == "hold",
        unstamped=top.texts("unstamped"),
    )
    top.finish()
    if len(topics.state) != len(state):
        raise RoboAlignError(f"{path}: state: expected each name once, found {', '.join(name for name, _ in state)}")
    _check(topics, str(path))
    return topics


def _check(topics: Topics, where: str) -> None:
    if not topics.cameras or not topics.commands:
        raise RoboAlignError(f"{where}: expected at least one camera and one action, found none")
    if topics.frames is not None and topics.frames not in topics.cameras:
        raise RoboAlignError(f"{where}: frames: expected one of {', '.join(topics.cameras)}, found {topics.frames}")
    if topics.gap < topics.period:
        raise RoboAlignError(f"{where}: gap: expected at least {topics.period:g} s, a frame, found {topics.gap:g}")
    try:
        topics.action  # noqa: B018 - checks the names
    except RoboAlignError as error:
        raise RoboAlignError(f"{where}: {error}") from error
    sources = [*(c.source for c in topics.commands), *topics.state.values(), topics.instruction.source]
    used = {source.topic for source in [*sources, topics.success, topics.episode] if source}
    strange = sorted(set(topics.unstamped) - used - set(topics.cameras.values()))
    if strange:
        raise RoboAlignError(f"{where}: unstamped: expected topics that are read, found {', '.join(strange)}")


def _command(item: Section) -> Command:
    kind = CommandKind(item.choice("kind", tuple(kind.value for kind in CommandKind)))
    return Command(_source(item), _name(item), item.text("unit"), kind)


def _name(item: Section) -> str:
    return item.text("name")


def _source(item: Section, usual_field: str | None = None) -> Source:
    path = item.text("field") if usual_field is None else item.text("field", usual_field)
    try:
        return Source(item.text("topic"), Field(path))
    except RoboAlignError as error:
        raise RoboAlignError(f"{item.where}: {error}") from error


def _instruction(item: Section) -> Instruction:
    given = [key for key in ("text", "file", "topic") if key in item.values]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise RoboAlignError(f"{item.where}: expected one of text, file and topic, found {found}")
    if given == ["topic"]:
        return Instruction(source=_source(item, "data"))
    if given == ["text"]:
        return Instruction(text=item.text("text"))
    name = item.text("file")
    if not _FILE_NAME.fullmatch(name):
        raise RoboAlignError(f"{item.where}: file: expected the name of a file in each bag's folder, found {name!r}")
    return Instruction(file=name)
