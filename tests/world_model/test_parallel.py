"""Guessing tokens changes how many passes a frame takes, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from roboalign_core.world_model import WorldModel, WorldModelConfig, rollout
from roboalign_core.world_model.codes import CodeLogits
from roboalign_core.world_model.decoding import KeyValueCache
from roboalign_core.world_model.parallel import Choose, FixedNoise, decode_frame

WINDOWS = (1, 2, 3, 100)


@pytest.fixture(scope="module")
def model(config: WorldModelConfig, make_model: Callable[[WorldModelConfig], WorldModel]) -> WorldModel:
    """What a context is made of does not matter here."""
    return make_model(config)


def beginning(model: WorldModel, batch: int) -> tuple[KeyValueCache, Tensor]:
    """A cache of some random past of each sequence, and the state after it."""
    layout = model.config.layout
    ids = torch.randint(
        0, layout.vocabulary, (batch, layout.context_tokens), generator=torch.Generator().manual_seed(4)
    )
    cache = model.decoder.cache(batch)
    return cache, model.decoder.hidden(ids, cache)[:, -1:]


def likeliest(logits: CodeLogits, _: int) -> Tensor:
    return logits.likeliest()


def choices(model: WorldModel, guess: Tensor, temperature: float) -> Choose:
    if not temperature:
        return likeliest
    return FixedNoise.draw(model.dynamics.groups, guess, temperature, torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("batch", [1, 6])
def test_any_window_gives_what_one_by_one_gives(model: WorldModel, batch: int, temperature: float) -> None:
    layout = model.config.layout
    guess = torch.randint(0, layout.dynamics_codes, (batch, layout.dynamics_tokens))
    cache, hidden = beginning(model, batch)
    start, found = cache.length, []
    for window in WINDOWS:
        cache.length = start
        tokens = decode_frame(model.decoder, cache, hidden, guess, choices(model, guess, temperature), window)
        assert cache.length == start + layout.dynamics_tokens - 1
        after = model.decoder.hidden(tokens[:, -1:], cache)
        found.append((tokens, after))
    assert found[0][0].unique().numel() > 1, "tokens that are all alike prove little"
    for tokens, after in found[1:]:
        assert torch.equal(tokens, found[0][0])
        torch.testing.assert_close(after, found[0][1], atol=1e-4, rtol=1e-4)  # the cache holds the tokens, too


@torch.no_grad()
def test_one_by_one_is_the_network_s_own_choice(model: WorldModel) -> None:
    layout = model.config.layout
    ids = torch.randint(0, layout.vocabulary, (3, 10), generator=torch.Generator().manual_seed(2))
    cache = model.decoder.cache(3)
    hidden = model.decoder.hidden(ids, cache)[:, -1:]
    guess = torch.zeros(3, layout.dynamics_tokens, dtype=torch.int64)
    found = decode_frame(model.decoder, cache, hidden, guess, likeliest, 100)
    for _ in range(layout.dynamics_tokens):
        ids = torch.cat([ids, model.dynamics.head(model.dynamics.hidden(ids)[:, -1:]).likeliest()], dim=1)
    assert torch.equal(found, ids[:, 10:])


@torch.no_grad()
def test_right_guesses_take_one_pass_and_wrong_ones_no_more_than_one_by_one(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, hidden = beginning(model, 2)
    start, layout = cache.length, model.config.layout
    guess = torch.zeros(2, layout.dynamics_tokens, dtype=torch.int64)
    right = decode_frame(model.decoder, cache, hidden, guess, likeliest, 1)
    passes: list[int] = []
    run = model.decoder.hidden
    monkeypatch.setattr(model.decoder, "hidden", lambda ids, cache: passes.append(ids.shape[1]) or run(ids, cache))
    cache.length = start
    assert torch.equal(decode_frame(model.decoder, cache, hidden, right, likeliest, 100), right)
    assert passes == [layout.dynamics_tokens - 1]
    passes.clear()
    cache.length = start
    wrong = (right + 1) % layout.dynamics_codes
    assert torch.equal(decode_frame(model.decoder, cache, hidden, wrong, likeliest, 100), right)
    assert len(passes) <= layout.dynamics_tokens - 1


@torch.no_grad()
def test_samples_follow_the_distribution(model: WorldModel) -> None:
    """Of the first token, and of the second where the first is the most frequent one."""
    count, layout = 6000, model.config.layout
    cache, hidden = beginning(model, 1)
    start = cache.length
    generator = torch.Generator().manual_seed(3)
    guess = torch.zeros(count, layout.dynamics_tokens, dtype=torch.int64)
    choose = FixedNoise.draw(model.dynamics.groups, guess, 2.0, generator)
    found = decode_frame(model.decoder, cache.repeat(count), hidden.expand(count, -1, -1), guess, choose, 100)

    def check(codes: Tensor, state: Tensor) -> None:
        expected = (model.decoder.logits(state).joint().float()[0, -1] / 2.0).softmax(-1)
        shares = codes.bincount(minlength=layout.dynamics_codes) / len(codes)
        assert expected.max() < 0.9, "a distribution of one code proves little"
        error = (expected * (1 - expected) / len(codes)).sqrt()
        assert ((shares - expected).abs() < 4 * error + 1e-3).all()

    check(found[:, 0], hidden)
    first = found[:, 0].mode().values
    cache.length = start
    check(found[found[:, 0] == first, 1], model.decoder.hidden(first.view(1, 1), cache))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rollouts_do_not_depend_on_how_much_is_guessed(
    model: WorldModel, frame: np.ndarray, actions: np.ndarray, monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    def tokens(ahead: int) -> Tensor:
        monkeypatch.setattr(rollout, "AHEAD", ahead)
        return model.rollout(frame, actions, mode="plain", temperature=temperature, seed=7).tokens

    one_by_one = tokens(1)
    assert torch.equal(tokens(10), one_by_one)
    assert torch.equal(tokens(10_000), one_by_one)
