"""Which parameters each optimiser takes, what an update looks like, and that its state comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from roboalign_core.training.optimizer import OPTIMIZERS, Optimizer


class Small(nn.Module):
    """A layer of each kind."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(32, 24)
        self.conv = nn.Conv2d(4, 16, 3)  # (16, 36) as a matrix
        self.narrow = nn.Linear(32, 8)
        self.table = nn.Linear(16, 200, bias=False)
        self.norm = nn.LayerNorm(32)
        self.position = nn.Parameter(torch.zeros(1, 20, 32))


def optimizer(module: nn.Module, name: str) -> Optimizer:
    return Optimizer(module, name, lr=0.01, weight_decay=0.1, betas=(0.9, 0.95))


def give_gradients(module: nn.Module, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random)


def parts(module: nn.Module, name: str) -> dict[str, Any]:
    return optimizer(module, name)._parts


def test_muon_takes_hidden_matrices_and_kernels_only() -> None:
    module = Small()
    taken = parts(module, "muon")["muon"].param_groups[0]["params"]
    assert [tuple(view.shape) for view in taken] == [(24, 32), (16, 36)]
    assert [view.data_ptr() for view in taken] == [module.hidden.weight.data_ptr(), module.conv.weight.data_ptr()]


@pytest.mark.parametrize(("name", "matrices"), [("adamw", 4), ("muon", 2)])
def test_matrices_decay_and_vectors_do_not(name: str, matrices: int) -> None:
    decay, keep = parts(Small(), name)["adamw"].param_groups
    assert (decay["weight_decay"], keep["weight_decay"]) == (0.1, 0.0)
    assert len(decay["params"]) == matrices
    assert sorted(p.ndim for p in keep["params"]) == [1, 1, 1, 1, 1, 3]


def test_every_parameter_moves_by_the_rate_it_is_given() -> None:
    for name in OPTIMIZERS:
        module = Small()
        before = {key: value.clone() for key, value in module.named_parameters()}
        give_gradients(module, 0)
        optimizer(module, name).step(0.0)
        assert all(torch.equal(value, before[key]) for key, value in module.named_parameters())
        optimizer(module, name).step(0.01)
        assert not any(torch.equal(value, before[key]) for key, value in module.named_parameters())


def test_a_muon_update_is_nearly_orthogonal() -> None:
    module = nn.Linear(32, 24, bias=False)
    before = module.weight.detach().clone()
    module.weight.grad = torch.randn(24, 32, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -3, 32)
    Optimizer(module, "muon", lr=0.01, weight_decay=0.0, betas=(0.9, 0.95)).step(0.01)
    strengths = torch.linalg.svdvals(module.weight.detach() - before)
    assert strengths.max() / strengths.min() < 3, "directions with small gradients must be learned, too"
    assert torch.linalg.svdvals(module.weight.grad).max() / torch.linalg.svdvals(module.weight.grad).min() > 100


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_comes_back(name: str) -> None:
    first, second = Small(), Small()
    second.load_state_dict(first.state_dict())
    one, two = optimizer(first, name), optimizer(second, name)
    for seed in range(2):
        give_gradients(first, seed)
        one.step(0.01)
    second.load_state_dict(first.state_dict())
    two.load_state({key: value.clone() for key, value in one.state().items()})
    for module, each in ((first, one), (second, two)):
        give_gradients(module, 7)
        each.step(0.01)
    for (key, value), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(value, other), key
