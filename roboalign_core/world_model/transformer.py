"""The dynamics transformer: LLaMA's architecture and parameter names, over whole sequences.

Weights are interchangeable with ``transformers.LlamaForCausalLM`` (see :func:`llama_config`); a test holds both to the
same logits. Learned positions, where a model has them, are added to the embeddings before the first layer
(:mod:`roboalign_core.world_model.huggingface` does it for ``transformers``). Own code, because training on a CPU needs
a norm and an attention whose backward passes are fast. For inference there is
:mod:`roboalign_core.world_model.decoding`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError
from roboalign_core.world_model.config import DynamicsConfig
from roboalign_core.world_model.layers import attend

NORM_EPS = 1e-6


class Norm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) → (…, dim)."""
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = (scale.square() / x.shape[-1] + NORM_EPS).rsqrt()
        return (x * scale).to(x.dtype) * self.weight.to(x.dtype)


class SelfAttention(nn.Module):
    """Causal attention with rotary positions, as ``LlamaAttention`` computes it."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Linear(config.dim, config.dim, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor) -> Tensor:
        """(B, L, dim) → (B, L, dim); ``rotary`` (2, L, d / 2), ``mask`` additive (L, L)."""
        return self.mix(*self.project(x, rotary), mask)

    def project(self, x: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, dim) → queries, keys and values (B, heads, L, d), with their positions."""
        query, key, value = (
            proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        return _rotate(query, rotary), _rotate(key, rotary), value

    def mix(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Queries (B, heads, L, d) to keys and values (B, heads, S, d) → (B, L, dim); ``mask`` additive (L, S)."""
        return self.o_proj(attend(query, key, value, mask).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Gated feed-forward network, as ``LlamaMLP``."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.dim, config.ffn, bias=False)
        self.up_proj = nn.Linear(config.dim, config.ffn, bias=False)
        self.down_proj = nn.Linear(config.ffn, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, dim) → (…, dim)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Pre-norm layer, as ``LlamaDecoderLayer``."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(config)
        self.mlp = FeedForward(config)
        self.input_layernorm = Norm(config.dim)
        self.post_attention_layernorm = Norm(config.dim)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor) -> Tensor:
        """As :meth:`SelfAttention.forward`."""
        return self.feed(x + self.self_attn(self.input_layernorm(x), rotary, mask))

    def feed(self, x: Tensor) -> Tensor:
        """The feed-forward half, (…, dim) → (…, dim)."""
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaBackbone(nn.Module):
    """Embeddings (B, L, dim) → hidden states (B, L, dim); parameter names are those of ``LlamaModel``."""

    rotary: Tensor

    def __init__(self, config: DynamicsConfig, capacity: int) -> None:
        super().__init__()
        self.config = config
        self.capacity = capacity
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = Norm(config.dim)
        head_dim = config.dim // config.heads
        frequency = config.rope_theta ** (-torch.arange(0, head_dim, 2).float() / head_dim)
        angles = torch.outer(torch.arange(capacity).float(), frequency)
        self.register_buffer("rotary", torch.stack([angles.cos(), angles.sin()]), persistent=False)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """See the class; ``positions`` (capacity, dim) are added before the first layer."""
        length = x.shape[1]
        if length > self.capacity:
            raise RoboAlignError(f"dynamics transformer: expected at most {self.capacity} tokens, found {length}")
        if positions is not None:
            x = x + positions[:length]
        mask = torch.full((length, length), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        rotary = self.rotary[:, :length].to(x.dtype)
        for layer in self.layers:
            x = layer(x, rotary, mask)
        return self.norm(x)


def _rotate(x: Tensor, rotary: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotary
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def llama_config(config: DynamicsConfig, vocabulary: int, capacity: int) -> dict[str, Any]:
    """``config.json`` of the same network for ``transformers.LlamaForCausalLM``."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "max_position_embeddings": capacity,
        "rms_norm_eps": NORM_EPS,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
