"""What makes a video good: the student reward model, and the planner's objective on imagined futures."""

from roboalign_core.reward.config import RewardModelConfig
from roboalign_core.reward.model import RewardModel
from roboalign_core.reward.progress import ProgressModel

__all__ = ["ProgressModel", "RewardModel", "RewardModelConfig"]
