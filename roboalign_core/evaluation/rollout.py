"""``roboalign rollout``: imagine along recorded actions, or along a user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import MISSING

from roboalign_core.episodes.episode import Episode
from roboalign_core.episodes.store import EpisodeStore
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.metrics import psnr
from roboalign_core.evaluation.video import side_by_side, write_mp4
from roboalign_core.images import read_actions, read_image
from roboalign_core.verb import Verb
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Mode, Order
from roboalign_core.world_model.tokenizer import to_frames, to_pixels

Frames = NDArray[np.uint8]


@dataclass
class RolloutConfig:
    """Settings; ``configs/rollout.yaml`` explains each."""

    data: str = ""
    image: str = ""
    actions: str = ""
    out: str = MISSING
    world_model: str = "tabletop"
    episodes: list[int] = field(default_factory=lambda: [0])
    start: int = 0
    horizon: int = 28
    modes: list[str] = field(default_factory=lambda: ["plain", "swr"])
    order: str = "token"
    window: int = 0
    temperature: float = 0.0
    upscale: int = 3
    seed: int = 0


def run(config: RolloutConfig) -> Mapping[str, Any]:
    """Imagine and write the videos; along recorded actions also the PSNR in dB, mean over frames."""
    if bool(config.data) == bool(config.image and config.actions):
        raise RoboAlignError(
            "rollout: expected data=STORE, or image= and actions=, found " + ("both" if config.data else "neither")
        )
    if config.horizon < 1:
        raise RoboAlignError(f"horizon: expected at least 1 frame, found {config.horizon}")
    model = WorldModel.from_pretrained(config.world_model)
    return _recorded(model, config) if config.data else _own(model, config)


def _recorded(model: WorldModel, config: RolloutConfig) -> Mapping[str, Any]:
    store = EpisodeStore.open(config.data)
    unknown = [index for index in config.episodes if not 0 <= index < len(store)]
    if unknown or not config.episodes:
        raise RoboAlignError(
            f"episodes: expected numbers from 0 to {len(store) - 1}, as {config.data} has, "
            f"found {unknown[0] if unknown else 'none'}"
        )
    episodes = [store[index] for index in config.episodes]
    values: dict[str, list[float]] = {mode: [] for mode in ["copy", *config.modes]}
    for index, episode in zip(config.episodes, episodes, strict=True):
        real = _resized(episode, config, model)
        actions = episode.actions[config.start : config.start + len(real) - 1]
        seen = list(episode.frames[: config.start])
        views = {"real": real[1:], **_imagine(model, real[0], actions, config, seen)}
        for mode in config.modes:
            values[mode].append(float(psnr(views[mode], real[1:]).mean()))
        values["copy"].append(float(psnr(np.broadcast_to(real[0], real[1:].shape), real[1:]).mean()))
        _write(views, Path(config.out) / f"episode_{index:05d}.mp4", episode.fps, config)
    return {**{f"{mode}_psnr_db": float(np.mean(found)) for mode, found in values.items()}, "episodes": len(episodes)}


def _own(model: WorldModel, config: RolloutConfig) -> Mapping[str, Any]:
    frame = read_image(config.image)
    actions = read_actions(config.actions, model.config.action_dim)[: config.horizon]
    views = _imagine(model, frame, actions, config)
    _write(views, Path(config.out) / "imagined.mp4", model.config.fps, config)
    return {"frames": len(actions)}


def _imagine(
    model: WorldModel, frame: Frames, actions: NDArray[np.float32], config: RolloutConfig, seen: Sequence[Frames] = ()
) -> dict[str, Frames]:
    """Imagined frames (T, H, W, 3) by mode, after the frames that were ``seen`` before the first."""
    window, order = config.window or None, cast(Order, config.order)
    return {
        mode: model.rollout(
            frame, actions[None], cast(Mode, mode), window, order, config.temperature, config.seed, seen
        ).frames[0]
        for mode in config.modes
    }


def _write(views: Mapping[str, Frames], path: Path, fps: float, config: RolloutConfig) -> None:
    write_mp4(path, side_by_side(list(views.values()), list(views), config.upscale), fps)


def _resized(episode: Episode, config: RolloutConfig, model: WorldModel) -> Frames:
    """Frames ``start`` to ``start + horizon`` at the model's size."""
    frames = (
        episode.frames[config.start : config.start + config.horizon + 1] if config.start >= 0 else episode.frames[:0]
    )
    if len(frames) < 2:
        raise RoboAlignError(
            f"rollout: expected start from 0 to {len(episode.frames) - 2} and a horizon of at least 1, "
            f"found start {config.start}, horizon {config.horizon}"
        )
    if frames.shape[1:3] == model.config.image_size:
        return frames
    return to_frames(to_pixels(torch.from_numpy(frames.copy()), model.config.image_size)).numpy()


VERB = Verb("rollout", "imagine along recorded actions, beside what happened, or along your own", RolloutConfig, run)
