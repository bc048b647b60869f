"""Model predictive path integral control."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from roboalign_core.planning.search import Array, SamplingSearch, SearchConfig, State, require_least, require_share


@dataclass
class MPPIConfig(SearchConfig):
    """Settings of MPPI; those of every search are in :class:`SearchConfig`. The noise stays as wide as ``std``.

    Attributes:
        temperature: of the weights, in standard deviations of a round's scores: near 0 the best candidate decides
            alone, far above 1 all count alike.
        smoothness: share of a step's noise that carries over to the next step, in [0, 1).
    """

    std: float = 0.4
    temperature: float = 0.5
    smoothness: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(self, 1e-6, "temperature")
        require_share(self, "smoothness")


class MPPI(SamplingSearch):
    """Williams et al. 2017 (arXiv 1707.02342): the mean of all candidates, weighted by the exponential of their scores.

    Scores are standardised in each round, so that the temperature does not depend on their unit.
    """

    def __init__(self, config: MPPIConfig, action_dim: int) -> None:
        super().__init__(config, action_dim)
        self.config = config

    def _noise(self, count: int) -> Array:
        return self._correlated(count, self.config.smoothness)

    def _refit(self, state: State, actions: Array, scores: Array) -> State:
        spread = float(scores.std())
        exponent = (scores - scores.max()) / (self.config.temperature * spread) if spread else np.zeros_like(scores)
        weights = np.exp(exponent)
        mean = np.tensordot(weights / weights.sum(), actions, axes=1).astype(np.float32)
        return State(mean, state.std, state.kept, mean)
