"""An environment in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from roboalign_core.errors import RoboAlignError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Observation:
    """What the robot reports after a reset or a step.

    Attributes:
        frame: (H, W, 3) uint8.
        instruction: what the robot is asked to do.
        success: whether it is reached.
        progress: 0 to 1, NaN where the environment does not know.
        over: whether the environment itself ended the episode.
        state: poses in metres, by name.
    """

    frame: npt.NDArray[np.uint8]
    instruction: str
    success: bool
    progress: float
    over: bool
    state: Mapping[str, npt.NDArray[np.floating]]


class EnvHost:
    """Runs every call of a gymnasium environment in one thread: an OpenGL context belongs to the thread that made it.

    Args:
        make: builds the environment; called in that thread.

    Raises:
        RoboAlignError: the environment cannot be made, or its spaces are not a camera image and normalised actions.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="env")
        try:
            self._env = self._call(make)
            self.action_dim = _action_dim(self._env.action_space)
        except BaseException:
            self._thread.shutdown()
            raise
        self.instructions: tuple[str, ...] = tuple(getattr(self._env, "instructions", ()))

    def reset(self, seed: int | None, instruction: str | None) -> Observation:
        """Start an episode; None lets the environment draw."""
        options = {} if instruction is None else {"instruction": instruction}
        frame, info = self._call(lambda: self._env.reset(seed=seed, options=options))
        return _observation(frame, info, over=False)

    def step(self, action: npt.NDArray[np.float32]) -> Observation:
        """Execute one action (A,) in [-1, 1]."""
        frame, _, terminated, truncated, info = self._call(lambda: self._env.step(action))
        return _observation(frame, info, over=bool(terminated or truncated))

    def close(self) -> None:
        """Close the environment and end its thread."""
        try:
            self._call(self._env.close)
        finally:
            self._thread.shutdown()

    def _call(self, function: Callable[[], Result]) -> Result:
        return self._thread.submit(function).result()


def _action_dim(space: Any) -> int:
    shape = getattr(space, "shape", None)
    if shape is None or len(shape) != 1:
        raise RoboAlignError(f"env: expected a Box action space of shape (A,), found {space}")
    return int(shape[0])


def _observation(frame: Any, info: Mapping[str, Any], *, over: bool) -> Observation:
    return Observation(
        frame=np.asarray(frame),
        instruction=str(info["instruction"]),
        success=bool(info["success"]),
        progress=float(info.get("progress", np.nan)),
        over=over,
        state=info.get("state", {}),
    )
