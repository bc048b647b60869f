"""Inference is the trained network, and transformers' own generate agrees with it token for token."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from roboalign_core.benchmarks.decode import HuggingFace, roll_ours
from roboalign_core.world_model import WorldModel, decoding
from roboalign_core.world_model.decoding import Decoder


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.3)])
def test_the_decoder_is_the_network(model: WorldModel, tmp_path: Path, dtype: torch.dtype, tolerance: float) -> None:
    model.save_pretrained(tmp_path, dtype=torch.float32)
    same = WorldModel.from_pretrained(tmp_path, dtype=dtype)
    layout = same.config.layout
    ids = torch.randint(0, layout.vocabulary, (3, 40), generator=torch.Generator().manual_seed(0))
    found = same.decoder.hidden(ids, same.decoder.cache(3)).float()
    expected = model.dynamics.hidden(ids)
    assert expected.std() > 0.5
    error = (found - expected).abs() / (1 + expected.abs())
    assert error.quantile(0.999) < tolerance


@torch.no_grad()
def test_norm_weights_are_not_forgotten(model: WorldModel) -> None:
    """They are one after initialisation, so that leaving them out would not show."""
    dynamics = model.dynamics
    before = {name: value.clone() for name, value in dynamics.state_dict().items()}
    ids = torch.randint(0, model.config.layout.vocabulary, (2, 30), generator=torch.Generator().manual_seed(1))
    try:
        for name, parameter in dynamics.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(len(name)))
        decoder = Decoder(dynamics)
        torch.testing.assert_close(decoder.hidden(ids, decoder.cache(2)), dynamics.hidden(ids), atol=1e-4, rtol=1e-4)
    finally:
        dynamics.load_state_dict(before)


@pytest.mark.parametrize("implementation", [None, "static"])
def test_transformers_generate_gives_the_same_tokens(
    model: WorldModel, tmp_path: Path, frame: np.ndarray, actions: np.ndarray, implementation: str | None
) -> None:
    model.save_pretrained(tmp_path, dtype=torch.float32)
    same = WorldModel.from_pretrained(tmp_path, dtype=torch.float32)
    context, bins = same.encode(torch.from_numpy(frame)[None]), same.action_bins(actions[:3, :4])
    expected = HuggingFace(same, str(tmp_path), implementation).roll(context, bins)
    found = roll_ours(same, context, bins, "token")
    assert found.flatten().unique().numel() > 3, "a rollout of one code proves little"
    assert torch.equal(found, expected)


def test_candidates_do_not_influence_each_other(model: WorldModel, frame: np.ndarray) -> None:
    """Not by their order, and a batch of one gives what a batch of 64 gives."""
    random = np.random.default_rng(0)
    bins = model.action_bins(random.uniform(-1, 1, (64, 3, 2)).astype(np.float32))
    context = model.encode(torch.from_numpy(frame)[None])
    order = torch.from_numpy(random.permutation(64))
    for way in ("token", "frame"):
        together = roll_ours(model, context, bins, way)
        assert torch.equal(roll_ours(model, context, bins[order], way), together[order])
        for index in (0, 17, 63):
            assert torch.equal(roll_ours(model, context, bins[index : index + 1], way)[0], together[index])


@torch.no_grad()
def test_without_packed_weights_it_is_the_same(model: WorldModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    ids = torch.randint(0, model.config.layout.vocabulary, (2, 30), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(decoding, "_packs", lambda weight: False)
    plain = Decoder(model.dynamics)
    torch.testing.assert_close(plain.hidden(ids, plain.cache(2)), model.dynamics.hidden(ids), atol=1e-4, rtol=1e-4)
