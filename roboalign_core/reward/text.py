"""Instructions: to ids, and to one embedding each.

An instruction is cut into words and punctuation marks, without regard to case. A word becomes the ids of itself and of
its letter n-grams (Bojanowski et al. 2017, fastText), all hashed into one table. There is no vocabulary: a word that
was never seen still shares letters with words that were, and nothing has to be stored beside the weights.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from roboalign_core.errors import RoboAlignError
from roboalign_core.reward.config import TextConfig

_WORD = re.compile(r"\w+|[^\w\s]")
_GRAMS = (3, 4)  # letters; a word is taken with a mark at either end
_PADDING = 0  # id of nothing


def words(instruction: str) -> list[str]:
    """``"Push the Red-cube!"`` → ``["push", "the", "red", "-", "cube", "!"]``.

    Raises:
        RoboAlignError: not a text, or one without a word.
    """
    found = _WORD.findall(unicodedata.normalize("NFKC", instruction).casefold()) if isinstance(instruction, str) else []
    if not found:
        raise RoboAlignError(f"instruction: expected a sentence, found {instruction!r}")
    return found


def tokenise(instructions: Sequence[str], config: TextConfig) -> Tensor:
    """Ids (B, words, ids a word) of instructions, 0 where there is nothing; the first id of a word is the word's own.

    Raises:
        RoboAlignError: an instruction is no sentence, or has more words than the model takes.
    """
    split = [words(instruction) for instruction in instructions]
    for text, found in zip(instructions, split, strict=True):
        if len(found) > config.words:
            raise RoboAlignError(f"instruction: expected at most {config.words} words, found {len(found)} in {text!r}")
    bags = [[word_ids(word, config.buckets) for word in found] for found in split]
    longest = max((len(bag) for bag in bags), default=0)
    deepest = max((len(ids) for bag in bags for ids in bag), default=0)
    result = torch.zeros(len(bags), longest, deepest, dtype=torch.long)
    for row, bag in zip(result, bags, strict=True):
        for place, ids in zip(row, bag, strict=False):
            place[: len(ids)] = torch.tensor(ids)
    return result


def word_ids(word: str, buckets: int) -> list[int]:
    """Ids, 1 to ``buckets``: of the word, then of its n-grams."""
    marked = f"<{word}>"
    grams = [marked[start : start + size] for size in _GRAMS for start in range(len(marked) - size + 1)]
    return [1 + zlib.crc32(part.encode()) % buckets for part in (word, *grams)]


class TextEncoder(nn.Module):
    """Ids (B, words, ids a word) → instruction embeddings (B, width): the output at a learned [CLS]."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(config.buckets + 1, config.width, padding_idx=_PADDING)
        self.start = nn.Parameter(torch.randn(config.width) * 0.02)
        self.position = nn.Parameter(torch.randn(config.words + 1, config.width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            config.width,
            config.heads,
            config.expansion * config.width,
            config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        norm = nn.LayerNorm(config.width)
        self.layers = nn.TransformerEncoder(layer, config.layers, norm, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        """See the class."""
        known = ids != _PADDING
        there = known.any(-1)
        count = known.sum(-1, keepdim=True).clamp(min=1)
        tokens = self.table(ids).sum(2) / count.to(self.table.weight.dtype).sqrt()
        tokens = torch.cat([self.start.expand(len(ids), 1, -1), tokens], dim=1) + self.position[: tokens.shape[1] + 1]
        absent = torch.cat([torch.zeros_like(there[:, :1]), ~there], dim=1)
        return self.layers(tokens, src_key_padding_mask=absent)[:, 0]
