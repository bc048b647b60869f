"""The dynamics transformer of a model folder as ``transformers`` runs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from roboalign_core.tensors import load_into, load_tensors
from roboalign_core.torchvision_ops import declare_missing_ops
from roboalign_core.world_model.embedding import PositionEmbedding
from roboalign_core.world_model.model import LLAMA, POSITIONS, load_config

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def load_llama(folder: Path, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """``dynamics/`` of a model folder as ``LlamaForCausalLM``, with the model's learned positions where it has them.

    ``forward`` and ``generate`` take the ids of :class:`~roboalign_core.world_model.layout.TokenLayout`, not padded.

    Raises:
        RoboAlignError: no configuration or no positions there.
    """
    declare_missing_ops()  # transformers imports torchvision where it is installed
    from transformers import LlamaForCausalLM

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
        embedded = module.embed_tokens(ids)
        given["inputs_embeds"] = embedded + table[start : start + ids.shape[1]].to(embedded)
        return args, given

    network.get_submodule("model").register_forward_pre_hook(embed, with_kwargs=True)
