"""What makes an imagined future good."""

from roboalign_core.reward.progress import ProgressModel

__all__ = ["ProgressModel"]
