"""A discriminator of drawn and real frames, so that drawings keep their edges (hinge GAN, as in iVideoGPT)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


class PatchDiscriminator(nn.Module):
    """One logit a patch (PatchGAN, Isola et al. 2017).

    Args:
        width: channels of the first layer, a multiple of 4.
        layers: halvings of the resolution.
    """

    def __init__(self, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        widths = [3, *(width * 2**index for index in range(layers))]
        steps: list[nn.Module] = []
        for index, (before, after) in enumerate(pairwise(widths)):
            steps.append(nn.Conv2d(before, after, 4, stride=2, padding=1))
            if index:
                steps.append(nn.GroupNorm(8, after))
            steps.append(nn.LeakyReLU(0.2))
        self.network = nn.Sequential(*steps, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] → logits (B, 1, H / 2^layers, W / 2^layers)."""
        logits: Tensor = self.network(pixels * 2 - 1)
        return logits

    def generator_loss(self, drawn: Tensor) -> Tensor:
        """The drawer's loss on its frames; the discriminator itself gets no gradient from it."""
        fixed = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return -functional_call(self, fixed, (drawn,)).float().mean()

    def discriminator_loss(self, drawn: Tensor, real: Tensor) -> Tensor:
        """The discriminator's hinge loss; the drawer gets no gradient from it."""
        logits = self(torch.cat([drawn.detach(), real])).float()
        fake, true = logits.split(len(drawn))
        return 0.5 * (F.relu(1 + fake).mean() + F.relu(1 - true).mean())
