"""The world model as users hold it: load, imagine, save."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from roboalign_core.bundled import resolve_model
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json
from roboalign_core.tensors import load_into, load_tensors, save_tensors
from roboalign_core.world_model.actions import ActionBinner
from roboalign_core.world_model.config import WorldModelConfig
from roboalign_core.world_model.decoding import Decoder
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.rollout import Context, Mode, Order, Rollout, roll
from roboalign_core.world_model.tokenizer import (
    ContextFeatures,
    DualBranchTokenizer,
    in_a_row,
    latest,
    to_frames,
    to_pixels,
)
from roboalign_core.world_model.transformer import llama_config

if TYPE_CHECKING:
    from roboalign_core.world_model.session import Session

CONFIG, TOKENIZER, LLAMA = "config.json", "tokenizer.safetensors", "dynamics"
FRAME_HEAD, POSITIONS = "frame_head.safetensors", "positions.safetensors"
WEIGHT_FILES = (TOKENIZER, f"{LLAMA}/model.safetensors", FRAME_HEAD, POSITIONS)  # the last only where it has positions


def check_frame(frame: np.ndarray) -> None:
    """Raise RoboAlignError unless ``frame`` is (H, W, 3) uint8."""
    if not isinstance(frame, np.ndarray):
        raise RoboAlignError(f"frame: expected a uint8 array (H, W, 3), found {type(frame).__name__}")
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise RoboAlignError(f"frame: expected a uint8 array (H, W, 3), found {frame.dtype} {frame.shape}")


def one_frame(frame: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 → (1, H, W, 3), a copy.

    Raises:
        RoboAlignError: see :func:`check_frame`.
    """
    check_frame(frame)
    return torch.from_numpy(frame[None].copy())


class WorldModel:
    """What a robot's camera will see under commanded actions.

    Attributes:
        config: sizes and geometry.
        tokenizer, dynamics: the two networks.
    """

    def __init__(self, config: WorldModelConfig, tokenizer: DualBranchTokenizer, dynamics: Dynamics) -> None:
        self.config = config
        self.tokenizer = tokenizer.eval()
        self.dynamics = dynamics.eval()
        self.binner = ActionBinner(tuple(config.action_low), tuple(config.action_high), config.action_bins)
        if self.binner.dim != config.action_dim:
            raise RoboAlignError(
                f"world model config: expected the range of {config.action_dim} action components, "
                f"found that of {self.binner.dim}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """For copies: without the decoder, whose packed weights cannot be copied; they make their own."""
        return {name: value for name, value in self.__dict__.items() if name != "decoder"}

    @cached_property
    def decoder(self) -> Decoder:
        """The dynamics transformer for inference, made once from the weights as they are at the first use."""
        return Decoder(self.dynamics)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.dynamics.backbone.norm.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights and of the key-value cache."""
        return self.dynamics.backbone.norm.weight.dtype

    # -- files ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls, name: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype | None = None
    ) -> WorldModel:
        """Load a bundled model by name, a folder, or a hub id.

        Args:
            name: a bundled name, a folder, or a hub id ``owner/name``.
            device: where to compute.
            dtype: of the weights; by default bfloat16 where the device computes it natively, else float32.

        Raises:
            RoboAlignError: nothing there, or its files do not fit together.
        """
        from roboalign_core.precision import find_device, native_dtype

        device = find_device(device)
        folder = resolve_model(name)
        config = load_config(folder)
        tokenizer = load_tokenizer(folder, config)
        dynamics = Dynamics(config)
        llama = load_tensors(folder / LLAMA / "model.safetensors")
        dynamics.embedding = nn.Embedding(config.layout.vocabulary, config.dynamics.dim)
        rest = {"frame_head": load_tensors(folder / FRAME_HEAD)}
        if config.dynamics.positions:
            rest["positions"] = load_tensors(folder / POSITIONS)
        load_into(dynamics, _from_llama(llama, rest), f"{folder}/{LLAMA}")
        dtype = native_dtype(device) if dtype is None else dtype
        return cls(config, tokenizer.to(device, dtype), dynamics.to(device, dtype))

    def save_pretrained(self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.bfloat16) -> None:
        """Write safetensors and config.json, each file atomically.

        ``dynamics/`` loads as ``LlamaForCausalLM``; where the model has learned positions, they have to be added to its
        embeddings, as :func:`roboalign_core.world_model.huggingface.load_llama` does.
        """
        folder = Path(folder)
        save_tokenizer(folder, self.config, self.tokenizer, dtype)
        save_tensors(folder / LLAMA / "model.safetensors", _to_llama(self.dynamics), dtype)
        capacity = self.dynamics.backbone.capacity
        settings = llama_config(self.config.dynamics, self.config.layout.vocabulary, capacity)
        write_json(folder / LLAMA / "config.json", {**settings, "dtype": str(dtype).removeprefix("torch.")})
        save_tensors(folder / FRAME_HEAD, self.dynamics.frame_head.state_dict(), dtype)
        if self.dynamics.positions is not None:
            save_tensors(folder / POSITIONS, self.dynamics.positions.state_dict(), dtype)

    # -- imagination ------------------------------------------------------------------------------------------------

    def session(self, order: Order = "token") -> Session:
        """A stream of frames: ``reset``, ``step``, ``observe``."""
        from roboalign_core.world_model.session import Session

        return Session(self, order)

    def rollout(
        self,
        frame: np.ndarray,
        actions: np.ndarray,
        mode: Mode = "swr",
        window: int | None = None,
        order: Order = "token",
        temperature: float = 0.0,
        seed: int | None = None,
        seen: Iterable[np.ndarray] = (),
    ) -> Rollout:
        """Imagine N futures of one frame.

        Args:
            frame: (H, W, 3) uint8 of any size; resized to the model's.
            actions: (N, T, A) float32 in the units of the robot that the model was trained on.
            mode: see :func:`roboalign_core.world_model.rollout.roll`.
            window: frames a segment (``frozen`` and ``swr``); the model's default where None.
            order: ``token`` (token by token, as in the papers) or ``frame`` (all tokens of a frame in one pass).
            temperature: 0 picks the likeliest code (``token``) or the central one (``frame``), else codes are sampled.
            seed: of the sampling; torch's global generator where None.
            seen: the frames before ``frame``, a step apart, oldest first, each as ``frame``. The newest
                ``context_frames − 1`` count; where there are fewer, the oldest one stands for those before it.

        Raises:
            RoboAlignError: wrong shapes or widths, NaN, no frames or candidates, window out of range.
        """
        frames = [one_frame(each) for each in (*seen, frame)]
        actions = np.asarray(actions, dtype=np.float32)
        if actions.ndim != 3 or 0 in actions.shape:
            expected = f"(candidates, frames, {self.config.action_dim}), none of them 0"
            raise RoboAlignError(f"actions: expected shape {expected}, found {actions.shape}")
        bins = self.action_bins(actions)
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        window = self.config.window if window is None else window
        context = self.context(self.stream(frames))
        return roll(self, context, bins, mode, window, order, temperature, generator)

    def action_bins(self, actions: np.ndarray) -> Tensor:
        """Actions (…, A) → bins (…, A) on the model's device."""
        return self.binner(torch.from_numpy(np.array(actions, np.float32))).to(self.device)

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Context:
        """uint8 frames (B, H, W, 3), each without a past, or the newest of streams (B, j, H, W, 3), as contexts."""
        return self.context(self.pixels(frames if frames.ndim == 5 else frames.unsqueeze(1)))

    @torch.no_grad()
    def context(self, pixels: Tensor) -> Context:
        """Pixels (B, j, 3, H, W) of streams, oldest first, as contexts, the newest as frames to start from.

        See :func:`~roboalign_core.world_model.tokenizer.latest` where j is not ``context_frames``.
        """
        pixels = latest(pixels, self.config.tokenizer.context_frames)
        values, codes = self.tokenizer.encode_context(pixels)
        features = self.tokenizer.context_features(values, pixels)
        return Context(codes, self.tokenizer.encode_start(features.newest, features), features)

    def pixels(self, frames: Tensor) -> Tensor:
        """uint8 frames (…, H, W, 3) of any size → pixels (…, 3, h, w) of the model's, on its device."""
        return to_pixels(frames.to(self.device), self.config.image_size).unflatten(0, frames.shape[:-3])

    def stream(self, frames: Sequence[Tensor]) -> Tensor:
        """uint8 frames (B, H, W, 3), each of any size, oldest first → pixels (B, j, 3, h, w) of the newest ones."""
        return in_a_row([self.pixels(each) for each in frames[-self.config.tokenizer.context_frames :]])

    @torch.no_grad()
    def encode_dynamics(self, frames: Tensor, features: ContextFeatures) -> Tensor:
        """uint8 frames (B, H, W, 3) relative to contexts (B, …) → codes (B, dynamics_tokens)."""
        return self.tokenizer.encode_dynamics(self.pixels(frames), features)[1]

    @torch.no_grad()
    def decode(self, codes: Tensor, features: ContextFeatures) -> Tensor:
        """Codes (B, dynamics_tokens) and the context of each → uint8 (B, H, W, 3)."""
        return to_frames(self.tokenizer.decode_dynamics(codes, features))

    @torch.no_grad()
    def latent(self, codes: Tensor, features: ContextFeatures) -> Tensor:
        """Codes (B, dynamics_tokens) and the context of each → tokenizer features (B, h·w, C)."""
        return self.tokenizer.latent(self.tokenizer.dynamics_fsq.values(codes), features)


def load_config(folder: Path) -> WorldModelConfig:
    """config.json of a model folder."""
    return WorldModelConfig.from_dict(read_json(folder / CONFIG))


def load_tokenizer(folder: Path, config: WorldModelConfig) -> DualBranchTokenizer:
    """The tokenizer of a model folder, float32."""
    tokenizer = DualBranchTokenizer(config.tokenizer)
    load_into(tokenizer, load_tensors(folder / TOKENIZER), f"{folder}/{TOKENIZER}")
    return tokenizer


def save_tokenizer(folder: Path, config: WorldModelConfig, tokenizer: DualBranchTokenizer, dtype: torch.dtype) -> None:
    """config.json and the tokenizer's weights."""
    save_tensors(folder / TOKENIZER, tokenizer.state_dict(), dtype)
    write_json(folder / CONFIG, config.to_dict())


def _to_llama(dynamics: Dynamics) -> dict[str, Tensor]:
    backbone = {f"model.{name}": value for name, value in dynamics.backbone.state_dict().items()}
    return {**backbone, "model.embed_tokens.weight": dynamics.table()}


def _from_llama(llama: dict[str, Tensor], others: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    backbone = dict(llama)
    try:
        table = backbone.pop("model.embed_tokens.weight")
    except KeyError as error:
        raise RoboAlignError(f"dynamics weights: expected a LlamaForCausalLM checkpoint, found no {error}") from error
    state = {name.replace("model.", "backbone.", 1): value for name, value in backbone.items()}
    state["embedding.weight"] = table
    return state | {f"{part}.{name}": value for part, tensors in others.items() for name, value in tensors.items()}
