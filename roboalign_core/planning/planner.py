"""Planning in imagination, in one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning.cem import CEMConfig
from roboalign_core.planning.imagination import ImaginationServer
from roboalign_core.planning.methods import make_search
from roboalign_core.planning.objective import Objective
from roboalign_core.planning.search import Array, SearchConfig
from roboalign_core.reward.model import RewardModel
from roboalign_core.reward.progress import ProgressModel
from roboalign_core.world_model.model import WorldModel


@dataclass(frozen=True)
class Plan:
    """What to do next, and what it should look like.

    Attributes:
        actions: (H, A).
        score: what the objective gives for these actions.
        scores: (N,) of the last round's candidates.
        frames: (H, height, width, 3) uint8, imagined.
    """

    actions: Array
    score: float
    scores: Array
    frames: np.ndarray


class Planner:
    """Receding-horizon planning: plan from each new frame, carry out the first steps, plan again.

    Args:
        world_model: imagines.
        objective: what is maximised: a progress head, the student reward model, or any :class:`Objective`.
        config: of the search.

    Raises:
        RoboAlignError: the objective was made for another world model.
    """

    def __init__(
        self, world_model: WorldModel, objective: ProgressModel | RewardModel | Objective, config: SearchConfig
    ) -> None:
        self.server = ImaginationServer(world_model, objective)
        self.search = make_search(config, world_model.config.action_dim)

    def plan(
        self,
        frame: np.ndarray,
        instruction: str,
        reference: np.ndarray | None = None,
        warm_start: Array | None = None,
        seen: Sequence[np.ndarray] = (),
    ) -> Plan:
        """Plan from a frame.

        Args:
            frame: (H, W, 3) uint8, what the camera sees now.
            instruction: the task.
            reference: what the camera saw when the task was given; ``frame`` where None.
            warm_start: (H, A) to start the search from.
            seen: frames between ``reference`` and ``frame``, oldest first; an objective that judges videos wants them,
                and a world model whose context has several frames wants the newest of them. Where there are none, the
                context is ``frame`` alone: ``reference`` may lie further back than a step.

        Raises:
            RoboAlignError: a frame is no image, frames were seen since no reference, the objective cannot judge the
                instruction, or the horizon does not fit the world model.
        """
        if reference is None and len(seen):
            raise RoboAlignError(f"plan: expected a reference before the {len(seen)} frames seen since, found none")
        later = [] if reference is None else [*seen, frame]
        self.server.reset(frame if reference is None else reference, instruction)
        for index, each in enumerate(later):
            self.server.observe(each, follows=index > 0)
        result = self.search.optimise(self.server.score, warm_start)
        return Plan(result.actions, result.score, result.scores, self.server.imagine(result.actions))


class CEMPlanner(Planner):
    """Planning with the cross-entropy method, with its usual settings where none are given."""

    def __init__(
        self,
        world_model: WorldModel,
        objective: ProgressModel | RewardModel | Objective,
        config: CEMConfig | None = None,
    ) -> None:
        super().__init__(world_model, objective, config or CEMConfig())
