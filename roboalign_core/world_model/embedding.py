"""Token embeddings that know what a code means."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roboalign_core.world_model.config import WorldModelConfig
from roboalign_core.world_model.fsq import FSQ


class TokenEmbedding(nn.Module):
    """One vector a vocabulary entry: a free table plus a small network on the entry's meaning.

    Codes whose FSQ values are close look alike, and so do neighbouring action bins; a free table alone would have to
    learn that from data for thousands of entries. A dynamics code's vector is the sum of those of its parts
    (:class:`~roboalign_core.world_model.codes.CodeGroups`). :meth:`table` is the plain embedding matrix that a LLaMA
    checkpoint holds, as input and (tied) as output.
    """

    meaning: Tensor

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        self.groups, dim = config.code_groups, config.dynamics.dim
        self.register_buffer("meaning", _meanings(config), persistent=False)
        self.free = nn.Parameter(torch.randn(len(self.meaning), dim) * 0.01)
        first, last = nn.Linear(self.meaning.shape[1], dim), nn.Linear(dim, dim)
        self.network = nn.Sequential(first, nn.GELU(), last)
        nn.init.normal_(last.weight, std=0.02)
        nn.init.zeros_(last.bias)

    @torch.no_grad()
    def take(self, table: Tensor) -> None:
        """Become this embedding matrix (vocabulary, dim), whose codes are sums of parts, to learn on from there.

        The free rows then hold all of it, and the network begins at nothing.
        """
        codes = table[: math.prod(self.groups.sizes)]
        self.free.copy_(torch.cat([*self.groups.factors(codes), table[len(codes) :]]))
        for parameter in self.network[-1].parameters():
            parameter.zero_()

    def table(self) -> Tensor:
        """(vocabulary, dim)."""
        rows = self.free + self.network(self.meaning)
        *factors, rest = rows.split([*self.groups.sizes, len(rows) - sum(self.groups.sizes)])
        return torch.cat([self.groups.spread(factors), rest])

    def factors(self) -> list[Tensor]:
        """Vectors (size, dim) of the parts of dynamics codes, for each group."""
        count = sum(self.groups.sizes)
        rows = self.free[:count] + self.network(self.meaning[:count])
        return list(rows.split(self.groups.sizes))

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (…) → (…, dim)."""
        return F.embedding(ids, self.table())


class PositionEmbedding(nn.Module):
    """One vector a place in the sequence: of a context token, or of a frame plus of a place within each frame."""

    def __init__(self, config: WorldModelConfig) -> None:
        super().__init__()
        layout, dim = config.layout, config.dynamics.dim
        self.context_position = nn.Parameter(torch.randn(layout.context_tokens, dim) * 0.02)
        self.frame_position = nn.Parameter(torch.randn(config.dynamics.max_frames, 1, dim) * 0.02)
        self.place_position = nn.Parameter(torch.randn(1, layout.frame_tokens, dim) * 0.02)

    def table(self) -> Tensor:
        """(capacity, dim), of all places in order."""
        return torch.cat([self.context_position, (self.frame_position + self.place_position).flatten(0, 1)])


def _meanings(config: WorldModelConfig) -> Tensor:
    """(entries, features): kind of token, and sines of its FSQ values or of its action bin."""
    layout = config.layout
    parts = [
        *(_code_features(FSQ(levels)) for levels in config.code_groups.levels),
        _code_features(FSQ(config.tokenizer.context_levels)),
        _waves(torch.linspace(-1, 1, layout.action_bins).unsqueeze(-1)),
    ]
    width = max(part.shape[1] for part in parts)
    rows = []
    for kind, part in enumerate(parts):
        one_hot = torch.zeros(len(part), len(parts))
        one_hot[:, kind] = 1
        rows.append(torch.cat([one_hot, part, torch.zeros(len(part), width - part.shape[1])], dim=1))
    return torch.cat(rows)


def _code_features(fsq: FSQ) -> Tensor:
    return _waves(fsq.values(torch.arange(fsq.codes)))


def _waves(values: Tensor) -> Tensor:
    """(N, d) in [-1, 1] → (N, 7d): the value and three octaves of sine and cosine."""
    scaled = values.unsqueeze(-1) * torch.tensor([1.0, 2.0, 4.0]) * (torch.pi / 2)
    return torch.cat([values, scaled.sin().flatten(1), scaled.cos().flatten(1)], dim=1)
