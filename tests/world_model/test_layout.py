"""The token layout and the geometry that follows from a configuration alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model import (
    DualBranchTokenizer,
    DynamicsConfig,
    TokenizerConfig,
    TokenLayout,
    WorldModelConfig,
)
from roboalign_core.world_model.tokenizer import to_frames, to_pixels

TINY = {"fine_width": 8, "latent_width": 8, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2}
LAYOUT = TokenLayout(
    dynamics_codes=100, context_codes=50, action_bins=10, context_tokens=4, dynamics_tokens=3, action_tokens=2
)


def codes(*shape: int, below: int) -> torch.Tensor:
    return torch.randint(0, below, shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_ranges_follow_each_other_without_overlap() -> None:
    assert (LAYOUT.context_offset, LAYOUT.action_offset, LAYOUT.vocabulary) == (100, 150, 160)
    assert LAYOUT.context_ids(torch.tensor([0, 49])).tolist() == [100, 149]
    assert LAYOUT.action_ids(torch.tensor([0, 9])).tolist() == [150, 159]


def test_sequence_is_context_then_dynamics_and_action_of_each_frame() -> None:
    context = torch.tensor([[1, 2, 3, 4]])
    dynamics = torch.tensor([[[10, 11, 12], [20, 21, 22]]])
    actions = torch.tensor([[[5, 6], [7, 8]]])
    ids = LAYOUT.sequence(context, dynamics, actions)
    assert ids.tolist() == [[101, 102, 103, 104, 10, 11, 12, 155, 156, 20, 21, 22, 157, 158]]
    assert ids.shape == (1, LAYOUT.length(2))


def test_positions_find_the_tokens_again() -> None:
    context, dynamics = codes(3, 4, below=50), codes(3, 5, 3, below=100)
    actions = codes(3, 5, 2, below=10)
    ids = LAYOUT.sequence(context, dynamics, actions)
    assert torch.equal(ids[:, LAYOUT.dynamics_positions(5)], dynamics)
    steps = ids[:, LAYOUT.step_positions(5)]
    assert torch.equal(steps[..., :3], dynamics)
    assert torch.equal(steps[..., 3:], LAYOUT.action_ids(actions))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("context", (2, 5)),
        ("context", (3, 4)),
        ("dynamics", (2, 5, 4)),
        ("dynamics", (2, 3)),
        ("dynamics", (3,)),
        ("actions", (2, 5, 3)),
        ("actions", (2, 4, 2)),
    ],
)
def test_wrong_shapes_are_refused(name: str, shape: tuple[int, ...]) -> None:
    good = {"context": (2, 4), "dynamics": (2, 5, 3), "actions": (2, 5, 2)} | {name: shape}
    with pytest.raises(RoboAlignError, match="token layout"):
        LAYOUT.sequence(**{key: torch.zeros(value, dtype=torch.int64) for key, value in good.items()})


@pytest.mark.parametrize(
    ("size", "strides", "levels", "tokens"),
    [
        ((64, 64), (4, 8, 16), ([5] * 5, [8, 8, 6, 5]), (64, 16)),
        ((64, 64), (4, 4, 16), ([5] * 5, [8, 8, 6, 5]), (256, 16)),
        ((256, 256), (8, 16, 32), ([8, 8, 8], [8, 8, 8]), (256, 64)),
        ((256, 320), (4, 8, 32), ([8, 5, 5, 5], [8, 8, 6, 5]), (1280, 80)),
    ],
    ids=["64x64", "64x64 of iVideoGPT", "256x256", "256x320"],
)
def test_tokenizer_geometry_comes_from_the_configuration(
    size: tuple[int, int],
    strides: tuple[int, int, int],
    levels: tuple[list[int], list[int]],
    tokens: tuple[int, int],
) -> None:
    patch, context_stride, dynamics_stride = strides
    tokenizer = TokenizerConfig(
        *size, patch, context_stride, dynamics_stride, context_levels=levels[0], dynamics_levels=levels[1], **TINY
    )
    layout = WorldModelConfig(tokenizer=tokenizer, action_dim=7).layout
    assert (layout.context_tokens, layout.dynamics_tokens) == tokens
    network = DualBranchTokenizer(tokenizer).eval()
    frames = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    with torch.no_grad():
        pixels = to_pixels(frames, size)
        seen = pixels.unsqueeze(1)
        values, context = network.encode_context(seen)
        features = network.context_features(values, seen)
        _, later = network.encode_dynamics(pixels.flip(0), features)
        drawn = network.decode_dynamics(later, features)
        again = network.context_features_of(context, seen)
        torch.testing.assert_close(again.latent, features.latent, atol=1e-4, rtol=1e-4)
        assert network.decode_context(features).shape == pixels.shape
    assert context.shape == (2, tokens[0])
    assert context.max() < layout.context_codes
    assert later.shape == (2, tokens[1])
    assert later.max() < layout.dynamics_codes
    assert drawn.shape == (2, 3, *size)
    assert to_frames(drawn).shape == (2, *size, 3)
    layout.sequence(context, later[:, None], torch.zeros(2, 1, 7, dtype=torch.int64))


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (32, 48)], ids=["64x64", "32x48"])
def test_a_context_of_several_frames_has_the_tokens_of_each(size: tuple[int, int]) -> None:
    """Coded each by itself, as it would be alone."""
    one, two = (TokenizerConfig(*size, context_frames=frames, **TINY) for frames in (1, 2))
    layout, single = (WorldModelConfig(tokenizer=config).layout for config in (two, one))
    assert layout.context_tokens == 2 * single.context_tokens
    assert layout.length(3) - single.length(3) == single.context_tokens
    network, alone = DualBranchTokenizer(two).eval(), DualBranchTokenizer(one).eval()
    extra = alone.load_state_dict(network.state_dict(), strict=False)
    assert (extra.missing_keys, extra.unexpected_keys) == ([], ["context_ages.0"])
    pixels = torch.rand(3, 2, 3, *size, generator=torch.Generator().manual_seed(0))
    values, codes = network.encode_context(pixels)
    assert codes.shape == (3, layout.context_tokens)
    each = [alone.encode_context(frame.unsqueeze(1))[1] for frame in pixels.unbind(1)]
    assert torch.equal(codes, torch.cat(each, dim=1))
    features = network.context_features(values, pixels)
    again = network.context_features_of(codes, pixels)
    torch.testing.assert_close(again.latent, features.latent, atol=1e-4, rtol=1e-4)
    assert network.decode_context(features).shape == (3, 3, *size)
    later = network.encode_dynamics(pixels.flip(0)[:, 0], features)[1]
    assert later.shape == (3, layout.dynamics_tokens)
    assert network.decode_dynamics(later, features).shape == (3, 3, *size)
    layout.sequence(codes, later[:, None], torch.zeros(3, 1, 3, dtype=torch.int64))
    for wrong in (pixels[:, :1], pixels[:, 0]):
        with pytest.raises(RoboAlignError, match=r"context: expected pixels \(B, 2, 3, H, W\), found \(3, "):
            network.encode_context(wrong)


def test_the_papers_geometry() -> None:
    """256×320: 1280 context tokens, 80 dynamics tokens, 13 action tokens; 8 frames are 2024 tokens."""
    tokenizer = TokenizerConfig(256, 320, patch=4, context_stride=8, dynamics_stride=32)
    layout = WorldModelConfig(tokenizer=tokenizer, action_dim=13).layout
    assert (layout.context_tokens, layout.dynamics_tokens, layout.frame_tokens) == (1280, 80, 93)
    assert layout.length(8) == 2024


def test_gather_and_spread_are_inverse() -> None:
    tokenizer = DualBranchTokenizer(TokenizerConfig(64, 96, patch=4, context_stride=8, dynamics_stride=32, **TINY))
    x = torch.randn(2, 8 * 12, 8)
    gathered = tokenizer._gather(x)
    assert gathered.shape == (2, 2 * 3, 4 * 4 * 8)
    assert torch.equal(tokenizer._spread(gathered), x)
    grid = torch.arange(8 * 12).view(1, 8 * 12, 1).float()
    corner = tokenizer._gather(grid)[0, 1]  # the second token: rows 0 to 3, columns 4 to 7
    assert corner.tolist() == [row * 12 + column for row in range(4) for column in range(4, 8)]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"height": 60}, "height"),
        ({"width": 40}, "width"),
        ({"context_stride": 6}, "context_stride"),
        ({"dynamics_stride": 4}, "dynamics_stride"),
        ({"heads": 3}, "latent_width"),
        ({"fine_width": 12}, "fine_width"),
        ({"latent_width": 12, "heads": 2}, "latent_width"),
        ({"context_frames": 0}, "context_frames"),
    ],
)
def test_impossible_tokenizers_are_refused(wrong: dict[str, int], named: str) -> None:
    with pytest.raises(RoboAlignError, match=f"tokenizer {named}"):
        TokenizerConfig(**(TINY | wrong))


def test_impossible_transformers_are_refused() -> None:
    with pytest.raises(RoboAlignError, match="dynamics dim: expected a multiple of 6"):
        DynamicsConfig(dim=32, heads=3)
    with pytest.raises(RoboAlignError, match="max_frames"):
        DynamicsConfig(max_frames=1)
    with pytest.raises(RoboAlignError, match="window: expected 1 to 5"):
        WorldModelConfig(dynamics=DynamicsConfig(max_frames=6), window=6)


def test_configuration_survives_json() -> None:
    config = WorldModelConfig(action_low=[-1.0, 0.0, 0.5], action_high=[1.0, 2.0, 3.0], fps=3.0)
    assert WorldModelConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value.pop("tokenizer"),
        lambda value: value.update(colour="red"),
        lambda value: value["tokenizer"].update(heads="two"),
        lambda value: value.update(tokenizer=[1, 2]),
        lambda value: value.pop("fps"),
    ],
    ids=["missing", "unknown", "type", "list", "rate"],
)
def test_damaged_configuration_is_refused(damage) -> None:
    value = WorldModelConfig().to_dict()
    damage(value)
    with pytest.raises(RoboAlignError, match="world model config"):
        WorldModelConfig.from_dict(value)


def test_replacing_a_part_checks_the_whole() -> None:
    with pytest.raises(RoboAlignError, match="window"):
        replace(WorldModelConfig(), window=17)


@pytest.mark.parametrize("changes", [{"heads": 0}, {"patch": 0}, {"latent_width": 0}, {"context_frames": 0}])
def test_sizes_of_nothing_are_refused(changes: dict[str, int]) -> None:
    name = next(iter(changes))
    with pytest.raises(RoboAlignError, match=f"tokenizer {name}: expected at least 1, found 0"):
        TokenizerConfig(**changes)
    if name == "heads":
        with pytest.raises(RoboAlignError, match="dynamics heads: expected at least 1, found 0"):
            DynamicsConfig(**changes)
