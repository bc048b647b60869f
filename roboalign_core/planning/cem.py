"""The cross-entropy method over action sequences, and its sample-efficient variant iCEM."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning.search import Array, SamplingSearch, SearchConfig, State, require_least, require_share


@dataclass
class _EliteConfig(SearchConfig):
    """What CEM and iCEM share.

    Attributes:
        elites: best sequences that the next distribution is fitted to.
        min_std: standard deviation never falls below.
        momentum: share of the old mean and deviation that is kept at a refit.
        keep: elites that compete again in the next round.
        answer: ``best``, the best sequence that was evaluated, or ``mean``, that of the last elites: a learned model
            has errors that the single best of many samples is bound to exploit, and their mean much less.
    """

    elites: int = 8
    min_std: float = 0.1
    momentum: float = 0.1
    keep: int = 2
    answer: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(self, 1, "elites")
        require_least(self, 0, "min_std", "keep")
        require_share(self, "momentum")
        if self.answer not in ("best", "mean"):
            raise RoboAlignError(f"planner answer: expected best or mean, found {self.answer!r}")
        if self.elites > self.candidates:
            raise RoboAlignError(f"planner elites: expected at most {self.candidates} candidates, found {self.elites}")


@dataclass
class CEMConfig(_EliteConfig):
    """Settings of the cross-entropy method; those of every search are in :class:`SearchConfig`.

    Attributes:
        elites, min_std, momentum, keep, answer: see :class:`_EliteConfig`.
        smoothness: share of a step's noise that carries over to the next step, in [0, 1): robots move in strokes.
    """

    smoothness: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        require_share(self, "smoothness")


@dataclass
class ICEMConfig(_EliteConfig):
    """Settings of iCEM; those of every search are in :class:`SearchConfig`.

    Attributes:
        elites, min_std, momentum, keep, answer: see :class:`_EliteConfig`.
        colour: exponent β of the noise's power spectrum, 1 / f^β over the horizon: 0 is white, 2 a random walk's.
        shrink: candidates fall by this factor from one round to the next, never below twice the elites.
    """

    colour: float = 2.0
    shrink: float = 1.25

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(self, 0, "colour")
        require_least(self, 1, "shrink")


class _EliteSearch(SamplingSearch):
    """The next distribution is fitted to the best candidates."""

    def __init__(self, config: _EliteConfig, action_dim: int) -> None:
        super().__init__(config, action_dim)
        self._elite = config

    def _refit(self, state: State, actions: Array, scores: Array) -> State:
        config = self._elite
        elites = actions[np.argsort(-scores, kind="stable")[: config.elites]]
        mean = config.momentum * state.mean + (1 - config.momentum) * elites.mean(0)
        spread = config.momentum * state.std + (1 - config.momentum) * elites.std(0)
        return State(mean, np.maximum(spread, config.min_std), elites[: config.keep], elites.mean(0))

    def _answers_with_best(self) -> bool:
        return self._elite.answer == "best"


class CEM(_EliteSearch):
    """Rubinstein & Kroese 2004, with noise that is correlated in time and elites that compete again."""

    def __init__(self, config: CEMConfig, action_dim: int) -> None:
        super().__init__(config, action_dim)
        self.config = config

    def _noise(self, count: int) -> Array:
        return self._correlated(count, self.config.smoothness)


class ICEM(_EliteSearch):
    """Pinneri et al. 2020 (arXiv 2008.06389): coloured noise, fewer candidates from round to round, kept elites.

    What it carries from one decision to the next comes in as ``warm_start``.
    """

    def __init__(self, config: ICEMConfig, action_dim: int) -> None:
        super().__init__(config, action_dim)
        self.config = config

    def _count(self, round_: int) -> int:
        config = self.config
        least = min(2 * config.elites, config.candidates)
        return max(least, round(config.candidates * config.shrink**-round_))

    def _noise(self, count: int) -> Array:
        """By the inverse Fourier transform of white noise, scaled by frequency (Timmer & Koenig 1995)."""
        horizon = self.config.horizon
        frequency = np.fft.rfftfreq(horizon)
        scale = np.maximum(frequency, 1 / horizon) ** (-self.config.colour / 2)
        real_only = np.isin(frequency, (0, 0.5))  # the others stand for their mirror images, too
        real, imaginary = self.random.standard_normal((2, count, self.action_dim, len(scale)))
        spectrum = np.where(real_only, np.sqrt(2) * real, real + 1j * imaginary) * scale
        power = (np.where(real_only, 2, 4) * scale**2).sum()
        noise = np.fft.irfft(spectrum, n=horizon) * horizon / np.sqrt(power)
        return noise.transpose(0, 2, 1).astype(np.float32)
