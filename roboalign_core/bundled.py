"""Where weights come from: bundled with the package, a folder, or the hub."""

from __future__ import annotations

import os
from pathlib import Path

from roboalign_core.errors import RoboAlignError, require

MODELS = Path(__file__).parent / "models"


def bundled_models() -> list[str]:
    """Names of the models that are shipped with the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def resolve_model(name: str | os.PathLike[str], config: str = "config.json") -> Path:
    """Folder of a model.

    Args:
        name: a bundled name, a folder, or a hub id ``owner/name``.
        config: the file by which a folder is known to hold this kind of model.

    Raises:
        RoboAlignError: nothing by that name.
    """
    text = os.fspath(name)
    if text in bundled_models():
        return MODELS / text
    if (Path(text) / config).is_file():
        return Path(text)
    if text.count("/") == 1 and not text.startswith((".", "/")) and not Path(text).exists():
        return _download(text)
    raise RoboAlignError(
        f"model {text!r}: expected a bundled name ({', '.join(bundled_models()) or 'none is bundled'}), "
        f"a folder with {config}, or a hub id owner/name, found none of these"
    )


def _download(name: str) -> Path:
    hub = require("huggingface_hub", "judge")
    try:
        return Path(hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "README.md"]))
    except Exception as error:  # the hub's own error types differ between its releases
        raise RoboAlignError(f"model {name!r}: not on disk, and the hub did not give it: {error}") from error
