"""The error type of the project, and the guard for optional packages."""

from __future__ import annotations

import importlib
from types import ModuleType


class RoboAlignError(Exception):
    """A problem that a user can act on. The message names what, where, expected and found."""


class MissingExtraError(RoboAlignError):
    """An optional package is absent; the message carries the line that installs it."""


def require(module: str, extra: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: dotted module name.
        extra: the extra of this package that brings it, as in ``pip install "roboalign[extra]"``.

    Raises:
        MissingExtraError: the module, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f'{module} is needed here and could not be imported ({error}). Install it: pip install "roboalign[{extra}]"'
        ) from error
