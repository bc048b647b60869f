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
        return self.read(summaries, ids)[0]

    def read(self, summaries: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, and the standardised positions (B, F, K) float32 that the frames are read as."""
        features, positions = self.video(summaries, self.text(ids))
        return self._scored(features), positions

    def judge(self, summaries: Tensor, text: Tensor) -> Tensor:
        """As :meth:`forward` with the instructions encoded, (B, W)."""
        return self._scored(self.video(summaries, text)[0])

    def _scored(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):  # scores of alike videos differ in late digits
            logits = self.heads(features.to(self.heads.weight.dtype))
        return logits.unflatten(1, (-1, len(DIMENSIONS))).transpose(0, 1).float()
