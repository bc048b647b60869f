"""Our transformer is LLaMA's, and its cache changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model import WorldModel, WorldModelConfig
from roboalign_core.world_model.decoding import KeyValueCache
from roboalign_core.world_model.huggingface import load_llama
from roboalign_core.world_model.parallel import Choose
from roboalign_core.world_model.rollout import Context, Imagination, Order


@pytest.fixture(scope="module")
def folder(model: WorldModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    model.save_pretrained(path, dtype=torch.float32)
    return path


@pytest.fixture(scope="module")
def llama(folder: Path) -> LlamaForCausalLM:
    return load_llama(folder)


def random_ids(model: WorldModel, batch: int, frames: int, seed: int = 0) -> Tensor:
    layout, generator = model.config.layout, torch.Generator().manual_seed(seed)

    def draw(codes: int, *shape: int) -> Tensor:
        return torch.randint(0, codes, (batch, *shape), generator=generator)

    return layout.sequence(
        draw(layout.context_codes, layout.context_tokens),
        draw(layout.dynamics_codes, frames, layout.dynamics_tokens),
        draw(layout.action_bins, frames, layout.action_tokens),
    )


def random_context(model: WorldModel, batch: int) -> Context:
    frames = torch.randint(0, 256, (batch, 32, 32, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return model.encode(frames)


# -- LLaMA ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_logits_are_those_of_transformers(model: WorldModel, llama: LlamaForCausalLM) -> None:
    ids = random_ids(model, 3, frames=6)
    codes = model.config.layout.dynamics_codes
    expected = llama(ids).logits
    found = model.dynamics.head(model.dynamics.hidden(ids)).joint()
    assert expected.shape[-1] == model.config.layout.vocabulary
    assert expected[..., :codes].std() > 0.1, "logits of this model are too flat to compare"
    torch.testing.assert_close(found, expected[..., :codes], atol=3e-4, rtol=1e-4)


@torch.no_grad()
def test_without_learned_positions_it_is_llama_alone(
    config: WorldModelConfig, make_model: Callable[[WorldModelConfig], WorldModel], tmp_path: Path
) -> None:
    plain = make_model(replace(config, dynamics=replace(config.dynamics, positions=False)))
    plain.save_pretrained(tmp_path, dtype=torch.float32)
    assert not (tmp_path / "positions.safetensors").exists()
    ids = random_ids(plain, 2, frames=3)
    expected = LlamaForCausalLM.from_pretrained(tmp_path / "dynamics", dtype=torch.float32).eval()(ids).logits
    found = plain.dynamics.head(plain.dynamics.hidden(ids)).joint()
    torch.testing.assert_close(found, expected[..., : config.layout.dynamics_codes], atol=1e-4, rtol=1e-4)
    again = WorldModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(again.dynamics.hidden(ids), plain.dynamics.hidden(ids))


@torch.no_grad()
def test_a_model_may_score_all_channels_together(
    config: WorldModelConfig, make_model: Callable[[WorldModelConfig], WorldModel], tmp_path: Path
) -> None:
    together = make_model(replace(config, dynamics=replace(config.dynamics, code_channels=[])))
    together.save_pretrained(tmp_path, dtype=torch.float32)
    ids = random_ids(together, 2, frames=3)
    found = together.dynamics.head(together.dynamics.hidden(ids))
    assert len(found.parts) == 1
    expected = load_llama(tmp_path)(ids).logits[..., : config.layout.dynamics_codes]
    torch.testing.assert_close(found.joint(), expected, atol=1e-3, rtol=1e-4)


@torch.no_grad()
def test_transformers_generates_the_same_with_its_cache(model: WorldModel, llama: LlamaForCausalLM) -> None:
    """Learned positions are those of the places that tokens have after what is cached."""
    layout = model.config.layout
    ids = random_ids(model, 2, frames=2)
    found = llama.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=6,
        do_sample=False,
        pad_token_id=0,
        suppress_tokens=list(range(layout.dynamics_codes, layout.vocabulary)),
    )
    for _ in range(6):
        ids = torch.cat([ids, model.dynamics.head(model.dynamics.hidden(ids)[:, -1:]).likeliest()], dim=1)
    assert torch.equal(found, ids)


def test_a_model_that_lacks_its_positions_is_refused(model: WorldModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "positions.safetensors").unlink()
    for load in (WorldModel.from_pretrained, load_llama):
        with pytest.raises(RoboAlignError, match=r"positions\.safetensors: expected weights"):
            load(tmp_path)


@torch.no_grad()
def test_training_logits_are_those_before_each_token(model: WorldModel, llama: LlamaForCausalLM) -> None:
    layout, frames = model.config.layout, 4
    ids = random_ids(model, 2, frames)
    logits = llama(ids).logits[..., : layout.dynamics_codes]
    found = model.dynamics.token_logits(model.dynamics.hidden(ids), frames).joint()
    assert found.shape == (2, frames - 1, layout.dynamics_tokens, layout.dynamics_codes)
    for frame in range(1, frames):
        first = layout.context_tokens + frame * layout.frame_tokens
        expected = logits[:, first - 1 : first - 1 + layout.dynamics_tokens]
        torch.testing.assert_close(found[:, frame - 1], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_greedy_rollout_is_that_of_transformers(
    model: WorldModel, llama: LlamaForCausalLM, frame: np.ndarray, actions: np.ndarray
) -> None:
    """Token by token, without any cache, the choice restricted to dynamics codes."""
    layout, steps = model.config.layout, 4
    bins = model.action_bins(actions[:3, :steps])
    context = model.encode(torch.from_numpy(frame)[None])
    ids = torch.cat([layout.context_ids(context.codes), context.start], dim=1).repeat(3, 1)
    expected = []
    for step in range(steps):
        ids = torch.cat([ids, layout.action_ids(bins[:, step])], dim=1)
        for _ in range(layout.dynamics_tokens):
            best = llama(ids).logits[:, -1, : layout.dynamics_codes].argmax(-1, keepdim=True)
            ids = torch.cat([ids, best], dim=1)
        expected.append(ids[:, -layout.dynamics_tokens :])
    found = model.rollout(frame, actions[:3, :steps], mode="plain", order="token").tokens
    assert found.flatten().unique().numel() > 3, "a rollout of one code proves little"
    assert torch.equal(found, torch.stack(expected, dim=1))


def test_a_checkpoint_that_transformers_wrote_loads(
    folder: Path, llama: LlamaForCausalLM, tmp_path: Path, frame: np.ndarray, actions: np.ndarray
) -> None:
    original = WorldModel.from_pretrained(folder, dtype=torch.float32)
    for name in ("config.json", "tokenizer.safetensors", "frame_head.safetensors", "positions.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    llama.save_pretrained(tmp_path / "dynamics")
    again = WorldModel.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(again.rollout(frame, actions).tokens, original.rollout(frame, actions).tokens)


def test_llama_settings_name_the_saved_number_format(model: WorldModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "dynamics" / "config.json").read_text())["dtype"] == "bfloat16"
    assert LlamaForCausalLM.from_pretrained(tmp_path / "dynamics").dtype == torch.bfloat16


# -- cache ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("parts", [[1] * 20, [16, 4], [5, 1, 7, 7]], ids=str)
def test_decoding_with_a_cache_is_the_whole_forward_pass(model: WorldModel, parts: list[int]) -> None:
    ids = random_ids(model, 2, frames=6)[:, : sum(parts)]
    cache = model.decoder.cache(2)
    pieces = [model.decoder.hidden(part, cache) for part in ids.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model.dynamics.hidden(ids), atol=1e-4, rtol=1e-4)
    assert cache.length == sum(parts)


@torch.no_grad()
def test_an_expanded_cache_is_the_same_past_for_everyone(model: WorldModel) -> None:
    ids = random_ids(model, 3, frames=2)
    shared, rest = ids[:1, :10], ids[:, 10:]
    cache = model.decoder.cache(1)
    model.decoder.hidden(shared, cache)
    found = model.decoder.hidden(rest, cache.repeat(3))
    expected = model.dynamics.hidden(torch.cat([shared.expand(3, -1), rest], dim=1))[:, 10:]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert cache.length == 10, "the shared past must not grow"


@torch.no_grad()
def test_a_cache_repeated_twice_keeps_both_pasts(model: WorldModel) -> None:
    """Two prompts, three futures of each, and after a while two of each of these."""
    ids = random_ids(model, 12, frames=3)
    ids[:, :10] = ids[[0, 6], :10].repeat_interleave(6, 0)
    ids[:, :15] = ids[::2, :15].repeat_interleave(2, 0)
    cache = model.decoder.cache(2)
    model.decoder.hidden(ids[::6, :10], cache)
    cache = cache.repeat(3)
    assert cache.shared == 10
    model.decoder.hidden(ids[::2, 10:15], cache)
    cache = cache.repeat(2)
    found = model.decoder.hidden(ids[:, 15:], cache)
    torch.testing.assert_close(found, model.dynamics.hidden(ids)[:, 15:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_tokens_may_be_taken_back(model: WorldModel) -> None:
    """What is longer than the cache says it is does not count."""
    ids = random_ids(model, 2, frames=3)
    cache = model.decoder.cache(2)
    model.decoder.hidden(ids[:, :12], cache)
    model.decoder.hidden((ids[:, 12:20] + 1) % model.config.layout.dynamics_codes, cache)
    cache.length = 12
    found = model.decoder.hidden(ids[:, 12:], cache)
    torch.testing.assert_close(found, model.dynamics.hidden(ids)[:, 12:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_no_token_sees_a_later_one(model: WorldModel) -> None:
    ids = random_ids(model, 1, frames=3)
    other = ids.clone()
    other[:, 20] = (ids[:, 20] + 1) % model.config.layout.dynamics_codes
    before, after = model.dynamics.hidden(ids), model.dynamics.hidden(other)
    assert torch.equal(before[:, :20], after[:, :20])
    assert (before[:, 20:] != after[:, 20:]).any(-1).all()


@torch.no_grad()
def test_more_tokens_than_positions_are_refused(model: WorldModel) -> None:
    capacity = model.config.layout.length(model.config.dynamics.max_frames)
    ids = torch.zeros(1, capacity, dtype=torch.int64)
    cache = model.decoder.cache(1)
    model.decoder.hidden(ids, cache)
    with pytest.raises(RoboAlignError, match=f"at most {capacity} tokens, found {capacity + 1}"):
        model.decoder.hidden(ids[:, :1], cache)
    with pytest.raises(RoboAlignError, match=f"at most {capacity} tokens, found {capacity + 1}"):
        model.dynamics.hidden(torch.cat([ids, ids[:, :1]], dim=1))


# -- decoding orders ------------------------------------------------------------------------------------------------


class Recorder:
    """A world model that remembers which ids its transformer holds, and whose choices can be forced."""

    def __init__(self, model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen = torch.empty(2, 0, dtype=torch.int64)
        hidden = model.decoder.hidden

        def remember(ids: Tensor, cache: KeyValueCache) -> Tensor:
            self.seen = torch.cat([self.seen[:, : cache.length], ids.expand(2, -1)], dim=1)
            return hidden(ids, cache)

        monkeypatch.setattr(model.decoder, "hidden", remember)


def force(monkeypatch: pytest.MonkeyPatch, codes: Tensor) -> None:
    """Every choice of an imagination comes from codes (N, T, m), in both orders."""
    frames = iter(codes.unbind(1))

    def choose(self: Imagination) -> Choose:
        frame = next(frames)
        return lambda logits, place: frame[:, place : place + logits.parts[0].shape[1]]

    def whole(self: Imagination, hidden: Tensor) -> Tensor:
        self.pending = next(frames)
        return self.pending

    monkeypatch.setattr(Imagination, "_whole_frame", whole)
    monkeypatch.setattr(Imagination, "_choose", choose)


def filled(cache: KeyValueCache) -> tuple[Tensor, Tensor]:
    """All keys (layers, heads, N, d, length) and values (layers, heads, N, length, d) of a cache."""
    times, own = cache.keys.shape[2] // cache.shared_keys.shape[2], cache.length - cache.shared
    keys = torch.cat([cache.shared_keys.repeat_interleave(times, 2), cache.keys[..., :own]], dim=-1)
    values = torch.cat([cache.shared_values.repeat_interleave(times, 2), cache.values[..., :own, :]], dim=-2)
    return keys, values


@torch.no_grad()
def test_both_orders_leave_the_same_tokens_in_the_cache(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch, actions: np.ndarray
) -> None:
    layout = model.config.layout
    codes = torch.randint(0, layout.dynamics_codes, (2, 3, layout.dynamics_tokens))
    bins, context = model.action_bins(actions[:2, :3]), random_context(model, 1)
    recorder, caches, seen = Recorder(model, monkeypatch), [], []
    for order in ("token", "frame"):
        force(monkeypatch, codes)
        imagination = Imagination(model, context, 2, order)
        found = torch.stack([imagination.step(bins[:, step]) for step in range(3)], dim=1)
        assert torch.equal(found, codes)
        model.decoder.hidden(imagination.pending, imagination.cache)
        seen.append(recorder.seen)
        caches.append(imagination.cache)
    expected = layout.sequence(
        context.codes.expand(2, -1), torch.cat([context.start.expand(2, 1, -1), codes[:, :2]], dim=1), bins
    )
    for ids, cache in zip(seen, caches, strict=True):
        assert torch.equal(ids, torch.cat([expected, codes[:, 2]], dim=1))
        assert cache.length == ids.shape[1]
    for first, second in zip(*map(filled, caches), strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("order", ["token", "frame"])
def test_following_known_frames_is_stepping_to_them(
    model: WorldModel, monkeypatch: pytest.MonkeyPatch, actions: np.ndarray, order: Order
) -> None:
    layout = model.config.layout
    codes = torch.randint(0, layout.dynamics_codes, (2, 3, layout.dynamics_tokens))
    bins, context = model.action_bins(actions[:2, :4]), random_context(model, 2)
    stepped = Imagination(model, context, 2, order)
    with monkeypatch.context() as patch:
        force(patch, codes)
        for step in range(3):
            stepped.step(bins[:, step])
    followed = Imagination(model, context, 2, order)
    followed.follow(bins[:, :2], codes[:, :2])
    followed.follow(bins[:, 2:3], codes[:, 2:])
    assert followed.frames == stepped.frames == 3
    assert torch.equal(followed.step(bins[:, 3]), stepped.step(bins[:, 3]))
    for first, second in zip(filled(followed.cache), filled(stepped.cache), strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_frame_logits_in_training_are_those_of_a_step(model: WorldModel, actions: np.ndarray) -> None:
    context, bins = random_context(model, 1), model.action_bins(actions[:1, :1])
    imagination = Imagination(model, context, 1, "frame")
    codes = imagination.step(bins[:, 0])
    ids = model.config.layout.sequence(
        context.codes, torch.stack([context.start, codes], dim=1), torch.cat([bins, bins], dim=1)
    )
    logits = model.dynamics.frame_logits(model.dynamics.hidden(ids), 2)
    assert logits.joint().shape == (1, 1, model.config.layout.dynamics_tokens, model.config.layout.dynamics_codes)
    assert torch.equal(logits.central()[:, 0], codes)


def test_an_unknown_order_is_refused(model: WorldModel, frame: np.ndarray, actions: np.ndarray) -> None:
    with pytest.raises(RoboAlignError, match="decoding order: expected one of"):
        model.rollout(frame, actions, order="backwards")


@torch.no_grad()
@pytest.mark.parametrize("order", ["token", "frame"])
def test_going_back_is_never_having_gone_on(model: WorldModel, actions: np.ndarray, order: Order) -> None:
    """Also to a frame that came otherwise; not to one that candidates share."""
    bins, context = model.action_bins(actions[:2, :3]), random_context(model, 2)
    there = Imagination(model, context, 2, order)
    first = [there.step(bins[:, step]) for step in range(3)]
    codes = first[0].flip(1)
    there.rewind(1, codes)
    straight = Imagination(model, context, 2, order)
    straight.follow(bins[:, :1], codes.unsqueeze(1))
    for step in (1, 2):
        assert torch.equal(there.step(bins[:, step]), straight.step(bins[:, step]))
    torch.testing.assert_close(there.expected, straight.expected)
    with pytest.raises(RoboAlignError, match="0 to 3, found 4"):
        there.rewind(4, codes)
    there.fork(2)
    with pytest.raises(RoboAlignError, match="of its own"):
        there.rewind(1, codes.repeat_interleave(2, 0))
