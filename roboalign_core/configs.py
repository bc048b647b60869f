"""Where the yaml tree `configs/` lies: in a source checkout, below an installation prefix, or in a colcon workspace."""

from __future__ import annotations

import os
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from roboalign_core.errors import RoboAlignError

_SHARE = Path("share") / "roboalign" / "configs"


def config_dir() -> Path:
    """The folder with one yaml node per command.

    A source checkout (also one installed in editable mode) comes first, so that an edited file takes effect.

    Raises:
        RoboAlignError: none of the known places holds the folder.
    """
    candidates = list(_candidates())
    for path in candidates:
        if path.is_dir():
            return path
    tried = ", ".join(str(path) for path in candidates)
    raise RoboAlignError(
        f"configs: expected the folder of yaml files that ships with roboalign, found none at {tried}; "
        "reinstall roboalign"
    )


def _candidates() -> Iterator[Path]:
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "setup.py").is_file():  # without this, another package's site-packages/configs would be taken
        yield checkout / "configs"
    yield Path(sysconfig.get_path("data")) / _SHARE
    yield Path(site.getuserbase()) / _SHARE
    for prefix in filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)):
        yield Path(prefix) / _SHARE
