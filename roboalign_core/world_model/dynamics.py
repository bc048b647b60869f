"""Next-token prediction over context, dynamics and action tokens, and a one-pass head for whole frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from roboalign_core.world_model.codes import CodeLogits
from roboalign_core.world_model.config import WorldModelConfig
from roboalign_core.world_model.embedding import PositionEmbedding, TokenEmbedding
from roboalign_core.world_model.layers import Block
from roboalign_core.world_model.layout import TokenLayout
from roboalign_core.world_model.transformer import LlamaBackbone


class FrameHead(nn.Module):
    """All dynamics tokens of the next frame at once, from the hidden states of this frame and its action.

    Input (B, frame_tokens, dim), output logits (B, dynamics_tokens, …). Token by token remains the papers' order; this
    one trades the dependence of a frame's tokens on each other for speed.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        layout, dynamics = config.layout, config.dynamics
        self.outputs, self.groups = layout.dynamics_tokens, config.code_groups
        self.position = nn.Parameter(torch.randn(1, layout.frame_tokens, dynamics.dim) * 0.02)
        self.blocks = nn.ModuleList(
            Block(dynamics.dim, dynamics.heads, expansion=2) for _ in range(dynamics.frame_head_layers)
        )
        self.norm = nn.LayerNorm(dynamics.dim)
        self.out = nn.Linear(dynamics.dim, sum(self.groups.sizes), bias=False)

    def forward(self, hidden: Tensor) -> CodeLogits:
        """(B, frame_tokens, dim) → logits (B, dynamics_tokens, …)."""
        x = hidden + self.position
        for block in self.blocks:
            x = block(x)
        return CodeLogits.of(self.groups, self.out(self.norm(x[:, : self.outputs])))


class Dynamics(nn.Module):
    """The causal transformer with its embeddings and its two heads.

    Output weights are the embeddings (tied), and only dynamics codes are scored: nothing else is ever predicted.
    """

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.layout: TokenLayout = config.layout
        self.groups = config.code_groups
        self.max_frames = config.dynamics.max_frames
        self.embedding: TokenEmbedding | nn.Embedding = TokenEmbedding(config)
        self.positions = PositionEmbedding(config) if config.dynamics.positions else None
        self.backbone = LlamaBackbone(config.dynamics, self.layout.length(self.max_frames))
        self.frame_head = FrameHead(config)
        self._init(config.dynamics.layers)

    def _init(self, layers: int) -> None:
        for name, parameter in self.backbone.named_parameters():
            if parameter.ndim == 2:
                deep = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5 if deep else 0.02)
        nn.init.normal_(self.frame_head.out.weight, std=0.02)

    def hidden(self, ids: Tensor) -> Tensor:
        """Ids (B, L) of whole sequences → hidden states (B, L, dim)."""
        return self.backbone(self.embedding(ids), None if self.positions is None else self.positions.table())

    def table(self) -> Tensor:
        """Embeddings (vocabulary, dim)."""
        return self.embedding.table() if isinstance(self.embedding, TokenEmbedding) else self.embedding.weight

    def factors(self) -> Tensor:
        """Embeddings of the parts of dynamics codes, group after group: what the next token is scored with."""
        if isinstance(self.embedding, TokenEmbedding):
            return torch.cat(self.embedding.factors())
        return torch.cat(self.groups.factors(self.embedding.weight[: self.layout.dynamics_codes]))

    def head(self, hidden: Tensor) -> CodeLogits:
        """Hidden states (…, dim) → logits (…) of the next token."""
        return CodeLogits.of(self.groups, hidden @ self.factors().to(hidden.dtype).T)

    def token_logits(self, hidden: Tensor, frames: int) -> CodeLogits:
        """Hidden states of a whole sequence → logits (B, frames − 1, dynamics_tokens, …) of frames 1…T−1.

        A token is predicted from the position before it; the first frame is given (no loss).
        """
        positions = self.layout.dynamics_positions(frames)[1:] - 1
        return self.head(hidden[:, positions.flatten()].unflatten(1, positions.shape))

    def frame_logits(self, hidden: Tensor, frames: int) -> CodeLogits:
        """The same shape from the one-pass head: frame t and its action → frame t + 1."""
        positions = self.layout.step_positions(frames)[:-1]
        steps = hidden[:, positions.flatten()].unflatten(1, positions.shape)
        logits = self.frame_head(steps.flatten(0, 1))
        return CodeLogits(self.groups, tuple(part.unflatten(0, steps.shape[:2]) for part in logits.parts))
