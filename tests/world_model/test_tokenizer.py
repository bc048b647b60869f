"""What a dynamics token says, and what the drawing takes from the context frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from roboalign_core.world_model import WorldModel, WorldModelConfig
from roboalign_core.world_model.tokenizer import ContextFeatures, DualBranchTokenizer, latest

CELL = 16  # pixels a side of a dynamics token


@pytest.fixture
def tokenizer(model: WorldModel) -> DualBranchTokenizer:
    return model.tokenizer


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 0.8 + 0.1


def features(tokenizer: DualBranchTokenizer, pixels: Tensor) -> ContextFeatures:
    """Of contexts whose older frames, where there are any, show something else."""
    context = latest(torch.stack([pixels.flip(0, 3), pixels], dim=1), tokenizer.config.context_frames)
    return tokenizer.context_features(tokenizer.encode_context(context)[0], context)


@torch.no_grad()
def test_a_frame_relative_to_itself_says_nothing(tokenizer: DualBranchTokenizer, pixels: Tensor) -> None:
    values, codes = tokenizer.encode_dynamics(pixels, features(tokenizer, pixels))
    assert (codes == tokenizer.still_code).all()
    assert not values.any()
    assert not tokenizer.dynamics_fsq.values(codes).any()


@torch.no_grad()
def test_only_tokens_of_changed_cells_speak(tokenizer: DualBranchTokenizer, pixels: Tensor) -> None:
    context = features(tokenizer, pixels)
    for cell in range(4):
        row, column = divmod(cell, 2)
        later = pixels.clone()
        later[1, :, row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] += 0.09
        values, _ = tokenizer.encode_dynamics(later, context)
        free, _ = tokenizer.dynamics_fsq(
            tokenizer.dynamics_in(tokenizer._gather(tokenizer.dynamics_encoder(later, context)))
        )
        assert torch.equal(values[1, cell], free[1, cell])
        assert free[0].any(), "without the rule the codes would vary"
        speaks = values.any(-1)
        assert not speaks[0].any()
        assert not speaks[1, [other for other in range(4) if other != cell]].any()


@torch.no_grad()
@pytest.mark.parametrize(("change", "speaks"), [(0.04, False), (0.06, True)])
def test_noise_below_the_threshold_is_no_change(
    tokenizer: DualBranchTokenizer, pixels: Tensor, change: float, speaks: bool
) -> None:
    later = pixels.clone()
    later[0, 1, 5, 5] += change
    changed = tokenizer._changed(later, pixels)
    assert changed[0].tolist() == [speaks, False, False, False]
    assert not changed[1].any()


@torch.no_grad()
def test_older_context_frames_are_seen_and_have_an_age(
    config: WorldModelConfig, make_model: Callable[[WorldModelConfig], WorldModel], pixels: Tensor
) -> None:
    """By both sides of the dynamics branch; what is copied, and what counts as unchanged, is the newest frame alone."""
    sizes = replace(config.tokenizer, context_frames=3)
    tokenizer = make_model(replace(config, tokenizer=sizes)).tokenizer
    older, old = pixels.flip(0, 3), pixels.flip(2)
    later = (pixels + 0.1).clamp(0, 1)

    def seen(*frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        context = torch.stack(frames, dim=1)
        found = tokenizer.context_features(tokenizer.encode_context(context)[0], context)
        assert torch.equal(found.newest, frames[-1])
        assert (tokenizer.encode_dynamics(frames[-1], found)[1] == tokenizer.still_code).all()
        return tokenizer.dynamics_encoder(later, found), tokenizer.latent(values, found), found.fine

    values = torch.ones(2, 4, tokenizer.dynamics_fsq.dim)
    encoded, drawn, fine = seen(older, old, pixels)
    swapped = seen(old, older, pixels)
    assert not torch.allclose(encoded, swapped[0], atol=1e-4)
    assert not torch.allclose(drawn, swapped[1], atol=1e-4)
    torch.testing.assert_close(swapped[2], fine)


@torch.no_grad()
def test_where_the_drawing_covers_nothing_the_context_s_own_pixels_stay(
    tokenizer: DualBranchTokenizer, pixels: Tensor
) -> None:
    context = features(tokenizer, pixels)
    codes = torch.randint(0, 24, (2, 4), generator=torch.Generator().manual_seed(0))
    out = tokenizer.dynamics_head.out[2]
    assert isinstance(out, nn.Conv2d)
    assert out.bias is not None
    before = out.bias.clone()
    try:
        area = tokenizer.config.patch**2
        out.bias[3 * area :] = -100.0  # the fourth channel is how far the drawing covers the context
        assert torch.equal(tokenizer.decode_dynamics(codes, context), pixels)
        out.bias[3 * area :] = 100.0
        out.bias[: 3 * area] += 5.0
        assert (tokenizer.decode_dynamics(codes, context) > 1).all()
    finally:
        out.bias.copy_(before)
