"""Tokens, dynamics and imagination."""

from roboalign_core.world_model.config import DynamicsConfig, TokenizerConfig, WorldModelConfig
from roboalign_core.world_model.layout import TokenLayout
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Rollout
from roboalign_core.world_model.session import Session
from roboalign_core.world_model.tokenizer import DualBranchTokenizer

__all__ = [
    "DualBranchTokenizer",
    "DynamicsConfig",
    "Rollout",
    "Session",
    "TokenLayout",
    "TokenizerConfig",
    "WorldModel",
    "WorldModelConfig",
]
