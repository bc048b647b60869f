"""Readers of foreign formats."""

from __future__ import annotations

from pathlib import Path

from roboalign_core.episodes.readers.bair import BairReader
from roboalign_core.episodes.readers.base import (
    ActionColumn,
    ActionKind,
    ActionMeaning,
    Configurable,
    Reader,
    Recording,
)
from roboalign_core.episodes.readers.bridge import BridgeReader
from roboalign_core.episodes.readers.calvin import CalvinReader
from roboalign_core.episodes.readers.droid import DroidReader
from roboalign_core.episodes.readers.hdf5 import Hdf5Reader
from roboalign_core.episodes.readers.language_table import LanguageTableReader
from roboalign_core.episodes.readers.lerobot import LerobotReader
from roboalign_core.episodes.readers.metaworld import MetaworldReader
from roboalign_core.episodes.readers.rlds import RldsReader
from roboalign_core.episodes.readers.rosbag import RosbagReader
from roboalign_core.episodes.readers.rt1 import Rt1Reader
from roboalign_core.errors import RoboAlignError

READERS: tuple[Reader, ...] = (
    BairReader(),
    BridgeReader(),
    CalvinReader(),
    DroidReader(),
    Hdf5Reader(),
    LanguageTableReader(),
    LerobotReader(),
    MetaworldReader(),
    RldsReader(),
    RosbagReader(),
    Rt1Reader(),
)

__all__ = ["READERS", "ActionColumn", "ActionKind", "ActionMeaning", "Reader", "Recording", "choose_reader"]


def choose_reader(path: Path, name: str = "auto", options: Path | None = None) -> Reader:
    """The reader for a path.

    Args:
        path: what is to be read.
        name: of the reader, or ``"auto"`` to look at the files.
        options: a yaml file with what the format needs to know, if it needs anything.

    Raises:
        RoboAlignError: the path does not exist, there is no such reader, none or more than one fits, or the options
            are not for it.
    """
    names = [reader.name for reader in READERS]
    if not path.exists():
        raise RoboAlignError(f"{path}: expected data to read, found nothing there")
    if name != "auto" and name not in names:
        raise RoboAlignError(f"format: expected auto or one of {', '.join(names)}, found {name!r}")
    fitting = [reader for reader in READERS if name in ("auto", reader.name) and reader.detect(path)]
    if len(fitting) != 1:
        found = ", ".join(reader.name for reader in fitting) or "none of them"
        raise RoboAlignError(f"{path}: expected the files of one of: {', '.join(names)}; found {found}")
    reader = fitting[0]
    if options is None:
        return reader
    if not isinstance(reader, Configurable):
        raise RoboAlignError(f"options: expected none, for format {reader.name} takes none, found {options}")
    return reader.with_options(options)
