"""What keeps a run honest: a score on windows that are never trained on, and alarms that end it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from roboalign_core.training.grpo.config import GuardConfig
from roboalign_core.training.grpo.imagination import Prompts, imagine
from roboalign_core.training.grpo.rewards import Mixture
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.picking import picker
from roboalign_core.world_model.rollout import Order

_BATCH = 64  # windows that are imagined at once
_SEED = 0  # of the noise that they are drawn with


class Validation:
    """How well a model imagines fixed windows, at a temperature of 0 or with noise that is the same each time."""

    def __init__(self, prompts: Prompts, score: Mixture, reward: Mixture, temperature: float = 0.0) -> None:
        """``score`` chooses among weights, ``reward`` is the training's and is only told."""
        self.prompts, self._score, self._reward = prompts, score, reward
        self._temperature = temperature

    def __call__(self, model: WorldModel, order: Order) -> dict[str, float]:
        """``score`` and ``reward``, means over windows, and the ``repetition_rate``."""
        found: dict[str, list[float]] = {"score": [], "reward": [], "repetition_rate": []}
        noise = torch.Generator(model.device).manual_seed(_SEED)
        pick = picker(order, self._temperature, noise)
        for start in range(0, len(self.prompts), _BATCH):
            futures = imagine(model, self.prompts[start : start + _BATCH], 1, order, pick)
            given = (futures.imagined, futures.recorded, futures.instructions, futures.actions)
            for name, mixture in (("score", self._score), ("reward", self._reward)):
                found[name] += mixture.total(mixture(*given)).tolist()
            found["repetition_rate"].append(futures.repetition(model.config.tokenizer.still_threshold))
        return {name: float(np.mean(values)) for name, values in found.items()}


class Guard:
    """Ends a run that leaves the reference or repeats itself for several steps in a row."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.stopped = ""
        self._alarms = {"divergence": 0, "repetition": 0}

    def watch(self, step: int, divergence: float, repetition: float) -> None:
        """Take the figures of a step in; sets ``stopped`` to the reason where it was one too many."""
        for name, value in (("divergence", divergence), ("repetition", repetition)):
            self.check(step, name, value, getattr(self.config, name), self.config.patience)

    def check(self, step: int, name: str, value: float, limit: float, patience: int) -> int:
        """Take one figure in, as :meth:`watch`; returns how often in a row it was beyond its limit by now."""
        self._alarms[name] = 0 if value <= limit else self._alarms.get(name, 0) + 1
        if self._alarms[name] >= patience and not self.stopped:
            self.stopped = f"{name} {value:.3g} above {limit:g} at step {step}"
        return self._alarms[name]

    def state(self) -> dict[str, Any]:
        """JSON state."""
        return {"stopped": self.stopped, "alarms": dict(self._alarms)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.stopped, self._alarms = state["stopped"], dict(state["alarms"])
