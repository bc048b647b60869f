"""The optimisers of the training loop."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

OPTIMIZERS = ("adamw", "muon")

_NARROW = 16  # a matrix with a side below this is left to AdamW: nothing is gained by orthogonalising it
_TALL = 10  # so is one this many times longer than wide: large output tables


class Optimizer:
    """AdamW, or Muon for the hidden matrices and AdamW for the rest.

    Muon (Jordan et al. 2024, as in ``torch.optim.Muon``) replaces a matrix' update by the nearest orthogonal one, so
    that directions with small gradients are learned, too. Updates are scaled to the size of AdamW's (Liu et al. 2025),
    so one learning rate serves both. Kernels of convolutions count as matrices of (outputs, everything else), and
    matrices that are very far from square stay with AdamW.
    """

    def __init__(
        self, module: nn.Module, name: str, lr: float, weight_decay: float, betas: tuple[float, float]
    ) -> None:
        hidden = _hidden_matrices(module) if name == "muon" else []
        self._hidden = hidden
        self._views = [nn.Parameter(weight.detach().flatten(1)) for weight in hidden]
        taken = {id(weight) for weight in hidden}
        decay: list[nn.Parameter] = []
        keep: list[nn.Parameter] = []
        for key, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in taken:
                (decay if parameter.ndim >= 2 and "position" not in key else keep).append(parameter)
        groups = [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]
        groups = [group for group in groups if group["params"]]
        self._parts: dict[str, torch.optim.Optimizer] = {}
        if groups:
            self._parts["adamw"] = torch.optim.AdamW(groups, lr=lr, betas=betas)
        if self._views:
            self._parts["muon"] = torch.optim.Muon(
                self._views, lr=lr, weight_decay=weight_decay, momentum=betas[1], adjust_lr_fn="match_rms_adamw"
            )

    def step(self, rate: float) -> None:
        """One update with the learning rate ``rate``, from the gradients that the parameters hold."""
        for view, weight in zip(self._views, self._hidden, strict=True):
            view.grad = None if weight.grad is None else weight.grad.flatten(1)
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = rate
            part.step()

    def state(self) -> dict[str, Tensor]:
        """All moments, as tensors with names."""
        return {
            f"{name}.{index}.{key}": value
            for name, part in self._parts.items()
            for index, entry in part.state_dict()["state"].items()
            for key, value in entry.items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of :meth:`state`."""
        states: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in self._parts}
        for path, value in tensors.items():
            name, index, key = path.split(".", 2)
            states[name].setdefault(int(index), {})[key] = value
        for name, part in self._parts.items():
            part.load_state_dict({**part.state_dict(), "state": states[name]})


def _hidden_matrices(module: nn.Module) -> list[Tensor]:
    """Weights of linear layers and convolutions, except narrow and very oblong ones."""
    found: list[Tensor] = []
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.requires_grad:
            sides = sorted(layer.weight.flatten(1).shape)
            if sides[0] >= _NARROW and sides[1] < _TALL * sides[0]:
                found.append(layer.weight)
    return found
