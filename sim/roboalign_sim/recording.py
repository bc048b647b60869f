"""One episode at a time: draw a policy, let it act, keep what the camera saw."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from roboalign_core.episodes import Episode
from roboalign_core.episodes.boxes import BOXES, box_columns, boxes_of
from roboalign_core.errors import RoboAlignError
from roboalign_sim import lift_failures, robosuite, scene, tabletop
from roboalign_sim.looks import Looks, source_of
from roboalign_sim.policies import POLICIES, Policy, RandomPolicy
from roboalign_sim.registry import make_env
from roboalign_sim.tasks import instructions_of, progress_all


class Recorder(ABC):
    """Records episodes of one environment.

    Args:
        size: height and width of the frames.
        steps: frames per episode; one less action is taken.
        stop_on_success: whether an episode ends with the first frame that fulfils the instruction.
        shares: how often each policy acts.
        boxes: whether each frame's bounding boxes are recorded, too.
        looks: how the scene looks; the standard look where None.

    Raises:
        RoboAlignError: the environment has no other look than its own.
    """

    env_name: ClassVar[str]
    fps: ClassVar[float]
    camera: ClassVar[str]
    action_names: ClassVar[tuple[str, ...]]
    seen: ClassVar[tuple[str, ...]]
    policies: ClassVar[Mapping[str, Callable[[], Policy]]]

    def __init__(
        self,
        size: int,
        steps: int,
        stop_on_success: bool,
        shares: Mapping[str, float],
        boxes: bool = False,
        looks: Looks | None = None,
    ) -> None:
        looks = looks or Looks()
        self._names = sorted(shares)
        total = sum(shares.values())
        self._shares = [shares[name] / total for name in self._names]
        self._made = {name: self.policies[name]() for name in self._names}
        self._steps, self._stop = steps, stop_on_success
        self._boxes = boxes
        self._source = self.source_of(looks)
        options = self.options(looks)
        self.env = make_env(
            self.env_name, size=size, max_steps=steps, terminate_on_success=False, masks=boxes, **options
        )

    @classmethod
    def columns(cls, boxes: bool, looks: Looks | None = None) -> dict[str, tuple[str, ...]]:
        """Names of the extras' columns."""
        extras = cls.extras(looks or Looks())
        return {**extras, BOXES: box_columns(cls.seen)} if boxes else extras

    @classmethod
    def source_of(cls, looks: Looks) -> str:
        """What episodes say that they are from."""
        return cls.env_name

    @classmethod
    def options(cls, looks: Looks) -> dict[str, Any]:
        """Arguments of the environment that make it look so.

        Raises:
            RoboAlignError: it has no other look than its own.
        """
        if looks != Looks():
            raise RoboAlignError(f"collect looks: expected the standard look for env={cls.env_name}, found {looks}")
        return {}

    @classmethod
    @abstractmethod
    def extras(cls, looks: Looks) -> dict[str, tuple[str, ...]]:
        """Names of the columns of what is recorded beside frames and actions."""

    @abstractmethod
    def extra_rows(self, start: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
        """The extras of one frame, (K,) each; ``start`` is the reset's ``info``."""

    def __call__(self, seed: int, index: int) -> Episode:
        """Episode ``index`` of the collection ``seed``; its success is that of the last frame."""
        rng = np.random.default_rng((seed, index))
        policy = self._made[self._names[int(rng.choice(len(self._names), p=self._shares))]]
        env_seed, policy_seed = (int(v) for v in rng.integers(2**31, size=2))
        policy.reset(policy_seed)
        frame, info = self.env.reset(seed=env_seed)
        start, frames, actions = info, [frame], list[npt.NDArray[np.float32]]()
        rows = [self._rows(start, info)]
        while len(frames) < self._steps and not (self._stop and info["success"]):
            action = policy.act(frame, info)
            frame, _, _, _, info = self.env.step(action)
            frames.append(frame)
            actions.append(action)
            rows.append(self._rows(start, info))
        actions.append(np.zeros(len(self.action_names), np.float32))
        return Episode(
            frames=np.stack(frames),
            actions=np.stack(actions),
            instruction=info["instruction"],
            success=bool(info["success"]),
            fps=self.fps,
            source=self._source,
            camera=self.camera,
            extras={name: np.stack([row[name] for row in rows]) for name in rows[0]},
        )

    def close(self) -> None:
        """Free the environment."""
        self.env.close()

    def _rows(self, start: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
        rows = self.extra_rows(start, info)
        return {**rows, BOXES: boxes_of([info["masks"][name] for name in self.seen])} if self._boxes else rows


class TabletopRecorder(Recorder):
    """The table-top: extras are the state, and the progress of all instructions since the first frame."""

    env_name = "tabletop"
    fps = tabletop.FPS
    camera = "front"
    action_names = tabletop.ACTION_NAMES
    seen = scene.MASKED
    policies = POLICIES

    @classmethod
    def source_of(cls, looks: Looks) -> str:
        """See :class:`Recorder`."""
        return source_of(looks.colours)

    @classmethod
    def options(cls, looks: Looks) -> dict[str, Any]:
        """See :class:`Recorder`."""
        return {"looks": looks}

    @classmethod
    def extras(cls, looks: Looks) -> dict[str, tuple[str, ...]]:
        """See :class:`Recorder`."""
        return {"observation.state": tabletop.STATE_NAMES, "progress": instructions_of(looks.colours)}

    def extra_rows(self, start: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
        """See :class:`Recorder`."""
        return {
            "observation.state": tabletop.state_vector(info["state"]),
            "progress": progress_all(start["state"], info["state"]),
        }


class RobosuiteLiftRecorder(Recorder):
    """robosuite's Lift: extras are hand, cube and gripper, and the progress of the one instruction."""

    env_name = "robosuite_lift"
    fps = robosuite.FPS
    camera = "oblique"
    action_names = robosuite.ACTION_NAMES
    seen = robosuite.MASKED
    policies: ClassVar[Mapping[str, Callable[[], Policy]]] = {
        "expert": robosuite.LiftExpert,
        "random": partial(RandomPolicy, len(robosuite.ACTION_NAMES)),
        "miss": lift_failures.Miss,
        "drop": lift_failures.Drop,
    }

    @classmethod
    def extras(cls, looks: Looks) -> dict[str, tuple[str, ...]]:
        """See :class:`Recorder`."""
        return {"observation.state": robosuite.STATE_NAMES, "progress": (robosuite.INSTRUCTION,)}

    def extra_rows(self, start: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
        """See :class:`Recorder`."""
        return {
            "observation.state": robosuite.state_vector(info["state"]),
            "progress": np.array([info["progress"]], np.float32),
        }


def recorder(env: str) -> type[Recorder]:
    """The recorder of an environment.

    Raises:
        RoboAlignError: the environment is unknown.
    """
    kinds: dict[str, type[Recorder]] = {kind.env_name: kind for kind in (TabletopRecorder, RobosuiteLiftRecorder)}
    if env not in kinds:
        raise RoboAlignError(f"collect env: expected one of {sorted(kinds)}, found {env!r}")
    return kinds[env]
