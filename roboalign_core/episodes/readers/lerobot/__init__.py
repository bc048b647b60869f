"""LeRobotDataset, versions 2.0, 2.1 (a file an episode) and 3.0 (many episodes a file)."""

from __future__ import annotations

from roboalign_core.episodes.readers.lerobot.reader import LerobotReader

__all__ = ["LerobotReader"]
