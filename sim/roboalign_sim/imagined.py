"""An environment that is imagined: a world model in place of the simulator, a reward model in place of its rewards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from roboalign_core.episodes import EpisodeStore
from roboalign_core.episodes.resize import resize
from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import KEYS, Scores
from roboalign_core.world_model import WorldModel
from roboalign_core.world_model.rollout import Order
from roboalign_sim.actions import checked_action

Frame = npt.NDArray[np.uint8]
_TASK = [KEYS.index("instruction_following"), KEYS.index("manipulation_success")]
_SUCCESS = KEYS.index("manipulation_success")
_ROUNDING = 1e-6


class Scorer(Protocol):
    """What scores videos: a reward model, or anything with its method."""

    def score(self, frames: Sequence[Frame], instructions: Sequence[str]) -> Scores:
        """Scores of B videos (T, H, W, 3) uint8."""


class ImaginedEnv(gym.Env[Frame, npt.NDArray[np.float32]]):
    """The spaces and the API of a real environment, so that a policy cannot tell; nothing of a simulator inside.

    Observation: (H, W, 3) uint8 of the world model's size. Action: (A,) float32 in [-1, 1]. After each step the reward
    model sees the episode so far: the value of an episode is the mean of its instruction following and manipulation
    success (each in [0, 1]), a step's reward is what the value gained. ``info`` holds ``instruction``, ``success``
    (whether the reward model believes so), ``progress`` (the value) and ``scores`` (the six, raw); there is no
    ``state``: nobody knows it.

    Args:
        world_model: imagines.
        reward_model: scores.
        starts: first frames and instructions to begin from; a store's episodes, or (frame, instruction) pairs.
        max_steps: steps after which an episode is truncated.
        terminate_on_success: whether believed success ends the episode.
        success: the share of full manipulation success from which the reward model is believed.
        order: of decoding.

    Raises:
        RoboAlignError: an argument makes no sense, or the range of the model's actions says that not all of them are in
            [-1, 1].
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 - as gymnasium declares it
    render_mode = "rgb_array"

    def __init__(
        self,
        world_model: WorldModel,
        reward_model: Scorer,
        starts: EpisodeStore | Sequence[tuple[Frame, str]],
        max_steps: int = 30,
        terminate_on_success: bool = True,
        success: float = 0.75,
        order: Order = "frame",
    ) -> None:
        if max_steps < 1 or not 0 < success <= 1:
            raise RoboAlignError(
                f"imagined: expected max_steps >= 1 and success in (0, 1], found {max_steps} and {success}"
            )
        if not len(starts):
            raise RoboAlignError("imagined: expected at least one start, found none")
        _check_range(world_model.config.action_low, world_model.config.action_high)
        self.world_model, self.reward_model, self._starts = world_model, reward_model, starts
        self.max_steps, self.terminate_on_success, self._believed = max_steps, terminate_on_success, success
        height, width = world_model.config.image_size
        self.observation_space = spaces.Box(0, 255, (height, width, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (world_model.config.action_dim,), np.float32)
        self._session = world_model.session(order)
        self._frames: list[Frame] = []
        self._instruction = ""
        self._value = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Frame, dict[str, Any]]:
        """Draw a start. ``options`` may give ``frame`` (any size) and ``instruction`` instead."""
        super().reset(seed=seed)
        options = dict(options or {})
        drawn, told = self._start(int(self.np_random.integers(len(self._starts))))
        frame, instruction = options.pop("frame", drawn), options.pop("instruction", told)
        if options:
            raise RoboAlignError(f'imagined reset: expected "frame" and "instruction" only, found {sorted(options)}')
        if not isinstance(instruction, str) or not instruction:
            raise RoboAlignError(f"imagined reset: instruction: expected text, found {instruction!r}")
        self._session.reset(frame)  # refuses what is no frame
        self._instruction = instruction
        self._frames = [resize(frame[None], self.world_model.config.image_size)[0].copy()]
        scores = self._scores()
        self._value = _value(scores)
        return self._frames[-1], self._info(scores)

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Frame, float, bool, bool, dict[str, Any]]:
        """Imagine one frame on."""
        if not self._frames:
            raise RoboAlignError("imagined: expected a reset before the first step, found none")
        move = checked_action(action, self.world_model.config.action_dim)
        self._frames.append(self._session.step(move.astype(np.float32)))
        scores, before = self._scores(), self._value
        self._value = _value(scores)
        info = self._info(scores)
        terminated = self.terminate_on_success and info["success"]
        return self._frames[-1], self._value - before, terminated, len(self._frames) > self.max_steps, info

    def render(self) -> Frame:
        """The newest frame."""
        if not self._frames:
            raise RoboAlignError("imagined: expected a reset before render, found none")
        return self._frames[-1]

    def _start(self, index: int) -> tuple[Frame, str]:
        if isinstance(self._starts, EpisodeStore):
            return self._starts.clip(index, 0, 1)[0], self._starts.summary(index).instruction
        return self._starts[index]

    def _scores(self) -> npt.NDArray[np.float32]:
        """(6,) of the episode so far; a video has two frames at least."""
        frames = np.stack(self._frames if len(self._frames) > 1 else self._frames * 2)
        return self.reward_model.score([frames], [self._instruction]).raw[0]

    def _info(self, scores: npt.NDArray[np.float32]) -> dict[str, Any]:
        done = Scores(scores[None]).normalised[0, _SUCCESS] >= self._believed
        return {
            "instruction": self._instruction,
            "success": bool(done),
            "progress": self._value,
            "scores": dict(zip(KEYS, map(float, scores), strict=True)),
        }


def _check_range(low: Sequence[float], high: Sequence[float]) -> None:
    """Actions in [-1, 1] have a range in there, or of ±1 around a component that never changes (see ActionBinner.fit).

    Raises:
        RoboAlignError: a component has another range.
    """
    for component, (first, last) in enumerate(zip(low, high, strict=True)):
        constant = abs(last - first - 2) < _ROUNDING and abs(first + last) / 2 <= 1 + _ROUNDING
        if max(-first, last) > 1 + _ROUNDING and not constant:
            raise RoboAlignError(
                f"imagined: world model: expected actions in [-1, 1], found component {component} from {first:g} "
                f"to {last:g}"
            )


def _value(scores: npt.NDArray[np.float32]) -> float:
    return float(Scores(scores[None]).normalised[0, _TASK].mean())
