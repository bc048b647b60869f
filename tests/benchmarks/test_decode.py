"""Timing decoding with weights that are at hand, and with sizes that none are at hand for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from roboalign_core.benchmarks.decode import frame_flops
from roboalign_core.benchmarks.random_model import save_random_model
from roboalign_core.benchmarks.timing import peak_memory, timed_in_turns
from roboalign_core.benchmarks.verb import BenchConfig
from roboalign_core.benchmarks.verb import run as bench
from roboalign_core.configs import config_dir
from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model import WorldModel


def test_bench_times_sizes_that_have_no_weights(tmp_path: Path) -> None:
    size = yaml.safe_load((config_dir() / "model" / "tiny.yaml").read_text())
    config = BenchConfig(str(tmp_path), model=size, ways=["token", "frame"], candidates=[2], frames=2, repeats=1)
    figures = bench(config)
    assert figures["weights"] == "random"
    assert figures["token_b2_frames_per_s"] > 0
    with pytest.raises(RoboAlignError, match="model: expected a node of configs/model/"):
        bench(dataclasses.replace(config, model={"tokenizer": {}}))


def test_random_weights_come_from_the_seed(tmp_path: Path) -> None:
    size = yaml.safe_load((config_dir() / "model" / "tiny.yaml").read_text())
    before = torch.get_rng_state()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_random_model(size, tmp_path / name, seed)
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (WorldModel.from_pretrained(tmp_path / name).dynamics.table() for name in "abc")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_operations_are_counted_once_for_each_token(tmp_path: Path) -> None:
    """Two operations for every weight of the backbone and each of a frame's 19 tokens, and the codes' scores."""
    size = yaml.safe_load((config_dir() / "model" / "tiny.yaml").read_text())
    save_random_model(size, tmp_path, 0)
    model = WorldModel.from_pretrained(tmp_path)
    dynamics, layout = model.config.dynamics, model.config.layout
    backbone = dynamics.layers * (4 * dynamics.dim**2 + 3 * dynamics.dim * dynamics.ffn)
    scores = dynamics.dim * sum(model.config.code_groups.sizes)
    expected = 2 * (backbone * layout.frame_tokens + scores * layout.dynamics_tokens)
    assert frame_flops(model, "token") == frame_flops(model, "ancestor") == expected
    blocks = dynamics.frame_head_layers * 8 * dynamics.dim**2
    assert frame_flops(model, "frame") == expected + 2 * blocks * layout.frame_tokens


def test_calls_take_turns() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "ab"}
    timings = timed_in_turns(calls, 2, torch.device("cpu"))
    assert "".join(order) == "ababab"
    assert all(0 <= timing.low <= timing.median <= timing.high for timing in timings.values())


def test_memory_is_what_a_call_takes_beyond_what_was_held() -> None:
    held = np.ones(40 * 2**20, np.uint8)
    found = peak_memory(lambda: np.ones(100 * 2**20, np.uint8).sum(), torch.device("cpu"))
    assert 95 * 2**20 < found < 135 * 2**20
    assert held.all()
