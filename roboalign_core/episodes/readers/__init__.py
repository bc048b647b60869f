"""Readers of foreign formats."""

from __future__ import annotations

from pathlib import Path

from roboalign_core.episodes.readers.bair import BairReader
from roboalign_core.episodes.readers.base import ActionColumn, ActionKind, ActionMeaning, Reader, Recording
from roboalign_core.episodes.readers.bridge import BridgeReader
from roboalign_core.episodes.readers.calvin import CalvinReader
from roboalign_core.episodes.readers.droid import DroidReader
from roboalign_core.episodes.readers.hdf5 import Hdf5Reader
from roboalign_core.episodes.readers.language_table import LanguageTableReader
from roboalign_core.episodes.readers.lerobot import LerobotReader
from roboalign_core.episodes.readers.metaworld import MetaworldReader
from roboalign_core.episodes.readers.rlds import RldsReader
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
    Rt1Reader(),
)

__all__ = ["READERS", "ActionColumn", "ActionKind", "ActionMeaning", "Reader", "Recording", "choose_reader"]


def choose_reader(path: Path, name: str = "auto") -> Reader:
    """The reader for a path.

    Args:
        path: what is to be read.
        name: of the reader, or ``"auto"`` to look at the files.

    Raises:
        RoboAlignError: the path does not exist, there is no such reader, or none or more than one fits.
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
    return fitting[0]
