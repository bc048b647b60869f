"""The dynamics transformer of a model folder as ``transformers`` runs it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from roboalign_core.bundled import resolve_model
from roboalign_core.errors import RoboAlignError
from roboalign_core.tensors import load_into, load_tensors
from roboalign_core.torchvision_ops import declare_missing_ops
from roboalign_core.world_model.embedding import PositionEmbedding
from roboalign_core.world_model.model import LLAMA, POSITIONS, load_config

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def load_llama(name: str | os.PathLike[str], dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """The dynamics of a model as ``LlamaForCausalLM``, with the model's learned positions where it has them.

    ``forward`` and ``generate`` take the ids of :class:`~roboalign_core.world_model.layout.TokenLayout`, not padded.

    Args:
        name: a bundled name, a folder, or a hub id ``owner/name``.
        dtype: of the weights.

    Raises:
        RoboAlignError: nothing there, or no positions.
    """
    declare_missing_ops()  # transformers imports torchvision where it is installed
    from transformers import LlamaForCausalLM

    folder = resolve_model(name)
    config = load_config(folder)
    network: LlamaForCausalLM = LlamaForCausalLM.from_pretrained(folder / LLAMA, dtype=dtype).eval()
    if config.dynamics.positions:
        positions = PositionEmbedding(config)
        load_into(positions, load_tensors(folder / POSITIONS), f"{folder}/{POSITIONS}")
        _add_positions(network, positions.table().detach())
    return network


def _add_positions(network: nn.Module, table: Tensor) -> None:
    """Add the row of ``table`` (capacity, dim) that belongs to each place before the first layer."""

    def embed(module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        ids, past = given.pop("input_ids"), given.get("past_key_values")
        start = 0 if past is None else int(past.get_seq_length())
        end = start + ids.shape[1]
        if end > len(table):
            raise RoboAlignError(f"dynamics transformer: expected at most {len(table)} tokens, found {end}")
        given["inputs_embeds"] = module.embed_tokens(ids) + module.learned_positions[start:end]
        return args, given

    inner = network.get_submodule("model")
    inner.register_buffer("learned_positions", table.to(next(network.parameters()).dtype), persistent=False)
    inner.register_forward_pre_hook(embed, with_kwargs=True)
