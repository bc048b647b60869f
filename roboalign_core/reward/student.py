"""The student's network (RoboAlign-R1, A3): text encoder, visual encoder under the instruction, linear heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roboalign_core.reward.config import RewardModelConfig
from roboalign_core.reward.text import TextEncoder
from roboalign_core.reward.vision import VideoEncoder
from roboalign_core.rubric import DIMENSIONS


class RewardNetwork(nn.Module):
    """Summaries of videos and ids of instructions → logits of the six scores, by every head.

    A score is ``highest · sigmoid(logit)``, so it never leaves its range.
    """

    def __init__(self, config: RewardModelConfig) -> None:
        super().__init__()
        self.text = TextEncoder(config.text)
        self.video = VideoEncoder(config)
        self.heads = nn.Linear(3 * config.vision.width, config.heads * len(DIMENSIONS))

    def forward(self, summaries: Tensor, ids: Tensor) -> Tensor:
        """(B, 2, F, H, W, 3) uint8 and (B, words, ids a word) → (heads, B, 6) float32."""
        return self.judge(summaries, self.text(ids))

    def judge(self, summaries: Tensor, text: Tensor) -> Tensor:
        """The same with the instructions encoded, (B, W)."""
        features = self.video(summaries, text)
        with torch.autocast(features.device.type, enabled=False):  # scores of alike videos differ in late digits
            logits = self.heads(features.to(self.heads.weight.dtype))
        return logits.unflatten(1, (-1, len(DIMENSIONS))).transpose(0, 1).float()
