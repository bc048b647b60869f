"""Token by token, several at a time: one pass over guesses keeps those that are right and corrects the next.

The tokens of a frame that are picked one by one are the fixed point of picking all at once from what is before them
(Jacobi decoding, Santilli et al. 2023, arXiv 2305.10427; with guesses as drafts, Leviathan et al. 2023, arXiv
2211.17192). A pass that is given right tokens up to some place finds the right token of the place after it, so every
pass settles one more at least; where frames resemble each other it settles most. What comes out is what one by one
comes out, up to how sums are rounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from roboalign_core.world_model.codes import CodeGroups, CodeLogits
from roboalign_core.world_model.decoding import Decoder, KeyValueCache

Choose = Callable[[CodeLogits, int], Tensor]
"""Logits (N, L, …) of the tokens from a place of the frame on → codes (N, L); the same logits give the same codes."""


def decode_frame(
    decoder: Decoder, cache: KeyValueCache, hidden: Tensor, guess: Tensor, choose: Choose, window: int
) -> Tensor:
    """The tokens of a frame, chosen one after the other by what came before.

    Args:
        decoder: the transformer.
        cache: what came before; afterwards it holds the frame's tokens, too, all but the last.
        hidden: (N, 1, dim), the state that the first token is chosen from.
        guess: codes (N, m); the better, the faster.
        choose: picks codes.
        window: guesses that are tried in one pass; 1 is one by one.

    Returns:
        codes (N, m).
    """
    tokens, start, last = guess.clone(), cache.length, guess.shape[1] - 1
    tokens[:, :1] = choose(decoder.logits(hidden), 0)
    settled = 0  # tokens that are right and in the cache; the one after them is right, too
    while settled < last:
        end = min(settled + window, last)
        chosen = choose(decoder.logits(decoder.hidden(tokens[:, settled:end], cache)), settled + 1)
        right = _right(chosen, tokens[:, settled + 1 : end + 1])
        tokens[:, settled + 1 : end + 1] = chosen
        settled = min(settled + 1 + right, end)
        cache.length = start + settled
    return tokens


@dataclass(frozen=True, slots=True)
class FixedNoise:
    """:data:`Choose` at a temperature above 0: exact samples, by noise that is drawn once for each place.

    The likeliest code of logits / temperature + Gumbel noise is a sample. With the noise of a place fixed it is a
    function of the logits, and a guess is right or wrong.

    Attributes:
        temperature: above 0.
        noise: (N, m, size) for each group of FSQ channels.
    """

    temperature: float
    noise: tuple[Tensor, ...]

    @classmethod
    def draw(
        cls,
        groups: CodeGroups,
        guess: Tensor,
        temperature: float,
        generator: torch.Generator | None = None,
    ) -> FixedNoise:
        """Noise for frames of the shape and on the device of ``guess`` (N, m)."""
        noise = (
            torch.empty(*guess.shape, size, device=guess.device).exponential_(generator=generator).log_().neg_()
            for size in groups.sizes
        )
        return cls(temperature, tuple(noise))

    def __call__(self, logits: CodeLogits, place: int) -> Tensor:
        """See :data:`Choose`."""
        parts = [
            part.float() / self.temperature + noise[:, place : place + part.shape[1]]
            for part, noise in zip(logits.parts, self.noise, strict=True)
        ]
        return CodeLogits(logits.groups, tuple(parts)).likeliest()


def _right(chosen: Tensor, guess: Tensor) -> int:
    """Places (N, L) from the first on that every sequence guessed right."""
    return int((chosen == guess).all(0).long().cumprod(0).sum())
