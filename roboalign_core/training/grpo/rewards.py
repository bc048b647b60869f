"""What makes an imagined future good: one protocol, and the rewards that need no other model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.metrics import psnr, ssim
from roboalign_core.evaluation.perceptual import Perceptual

Frames = NDArray[np.uint8]
Array = NDArray[np.float64]

_VIDEOS = 32  # whose pixels are compared at once; bounds memory


class Reward(Protocol):
    """Scores imagined futures; higher is better. A function with names will do."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its dimensions."""

    def __call__(
        self, imagined: Frames, recorded: Frames, instructions: Sequence[str], actions: NDArray[np.float32]
    ) -> Mapping[str, NDArray[Any]]:
        """Score N futures.

        Args:
            imagined: (N, T + 1, H, W, 3) uint8; frame 0 is the real one that imagination started from.
            recorded: the same shape: what really happened. Frame 0 is the same.
            instructions: N sentences; empty where none is recorded.
            actions: (N, T, A) float32 in the robot's units; ``actions[:, t]`` leads from frame t to frame t + 1.

        Returns:
            Finite numbers of each of ``names``: (N,), of whole futures, or (N, T), of each imagined frame, of which a
            future's is the mean.
        """


class FrameReward:
    """A measure of each imagined frame against the recorded one."""

    def __init__(self, name: str, measure: Callable[[Frames, Frames], NDArray[Any]], sign: float = 1.0) -> None:
        """``measure`` takes frames (…, H, W, 3), twice, to (…); ``sign`` −1 where lower is better."""
        self.names = (name,)
        self._measure, self._sign = measure, sign

    def __call__(
        self, imagined: Frames, recorded: Frames, instructions: Sequence[str], actions: NDArray[np.float32]
    ) -> Mapping[str, Array]:
        """See :class:`Reward`."""
        parts = [
            self._measure(imagined[row : row + _VIDEOS, 1:], recorded[row : row + _VIDEOS, 1:])
            for row in range(0, len(imagined), _VIDEOS)
        ]
        return {self.names[0]: self._sign * np.concatenate(parts)}


class Brightness:
    """How bright the imagined frames are, 0 to 1: a toy to try the training with."""

    names = ("brightness",)

    def __call__(
        self, imagined: Frames, recorded: Frames, instructions: Sequence[str], actions: NDArray[np.float32]
    ) -> Mapping[str, Array]:
        """See :class:`Reward`."""
        return {"brightness": imagined[:, 1:].mean(axis=(2, 3, 4), dtype=np.float64) / 255}


class Mixture:
    """``R = Σ w_k g_k`` over the dimensions of one or more rewards (RoboAlign-R1, A4).

    Attributes:
        names: of all dimensions.
        weights: of each.
    """

    def __init__(self, rewards: Sequence[Reward], weights: Mapping[str, float]) -> None:
        """``weights`` by name; a dimension without one counts 1.

        Raises:
            RoboAlignError: no rewards, two with one name, or a weight that is not finite or of no dimension.
        """
        self.rewards = list(rewards)
        self.names = tuple(name for reward in rewards for name in reward.names)
        if not self.names or len(set(self.names)) < len(self.names):
            raise RoboAlignError(f"rewards: expected one or more, each name once, found {list(self.names)}")
        for name, weight in weights.items():
            if name not in self.names:
                raise RoboAlignError(f"reward weights: expected names among {', '.join(self.names)}, found {name!r}")
            if not np.isfinite(weight):
                raise RoboAlignError(f"reward weights: {name}: expected a finite number, found {weight}")
        self.weights = {name: float(weights.get(name, 1.0)) for name in self.names}

    def __call__(
        self, imagined: Frames, recorded: Frames, instructions: Sequence[str], actions: NDArray[np.float32]
    ) -> dict[str, Array]:
        """(N,) or (N, T) of each dimension, checked.

        Raises:
            RoboAlignError: a reward gave other names, another shape, or numbers that are not finite.
        """
        found: dict[str, Array] = {}
        for reward in self.rewards:
            given = reward(imagined, recorded, instructions, actions)
            if set(given) != set(reward.names):
                raise RoboAlignError(
                    f"reward {type(reward).__name__}: expected the names {', '.join(reward.names)}, "
                    f"found {', '.join(given) or 'none'}"
                )
            for name in reward.names:
                found[name] = _checked(name, given[name], len(imagined), imagined.shape[1] - 1)
        return found

    def total(self, found: Mapping[str, Array]) -> Array:
        """(N,) the weighted sum, of whole futures."""
        return np.sum([weight * whole(found[name]) for name, weight in self.weights.items()], axis=0)

    def returns(self, found: Mapping[str, Array], frames: int, discount: float | None) -> Array:
        """What the tokens of each of T frames are paid for: (N, T).

        The weighted sum, in which a reward of whole futures counts for every frame, and a reward of frames as the mean
        over this one and those after it, each of which weighs ``discount`` times the one before: what came before a
        frame is no merit of its tokens, and what comes much later hardly. None: the total, for every frame.
        """
        if discount is None:
            return _ahead(self.total(found), frames, 1)
        parts = [weight * _ahead(found[name], frames, discount) for name, weight in self.weights.items()]
        return np.sum(parts, axis=0)


def whole(values: Array) -> Array:
    """Rewards (N,) of futures, or (N, T) of their frames → (N,)."""
    return values if values.ndim == 1 else values.mean(1)


def _ahead(values: Array, frames: int, discount: float) -> Array:
    """See :meth:`Mixture.returns`, for one dimension."""
    if values.ndim == 1:
        return np.repeat(values[:, None], frames, axis=1)
    result, total, weight = np.empty_like(values), np.zeros(len(values)), 0.0
    for frame in reversed(range(frames)):
        total, weight = values[:, frame] + discount * total, 1 + discount * weight
        result[:, frame] = total / weight
    return result


def mean_absolute_error(first: Frames, second: Frames) -> NDArray[np.float32]:
    """Frames (…, H, W, 3) uint8, twice → (…), with values scaled to 0..1."""
    return np.abs(first.astype(np.float32) - second).mean(axis=(-3, -2, -1)) / 255


def mean_squared_error(first: Frames, second: Frames) -> NDArray[np.float32]:
    """Frames (…, H, W, 3) uint8, twice → (…), with values scaled to 0..1."""
    return np.square((first.astype(np.float32) - second) / 255).mean(axis=(-3, -2, -1))


def perceptual_reward(device: str) -> FrameReward:
    """Minus LPIPS, named ``lpips``, or ``lpips_random`` where its trained trunk is not on this machine.

    Raises:
        MissingExtraError: lpips or torchvision is not installed.
    """
    perceptual = Perceptual(device)
    return FrameReward(perceptual.name, perceptual, -1.0)


FRAME_REWARDS: dict[str, Callable[[], Reward]] = {
    "mae": lambda: FrameReward("mae", mean_absolute_error, -1.0),
    "mse": lambda: FrameReward("mse", mean_squared_error, -1.0),
    "psnr": lambda: FrameReward("psnr", psnr),
    "ssim": lambda: FrameReward("ssim", ssim),
    "brightness": Brightness,
}


def _checked(name: str, values: NDArray[Any], count: int, frames: int) -> Array:
    array = np.asarray(values, np.float64)
    if array.shape not in ((count,), (count, frames)):
        raise RoboAlignError(
            f"reward {name}: expected shape ({count},), one number a future, or ({count}, {frames}), one a frame, "
            f"found {array.shape}"
        )
    wrong = np.argwhere(~np.isfinite(array))
    if len(wrong):
        found = array[tuple(wrong[0])]
        raise RoboAlignError(
            f"reward {name}: expected finite numbers, found {found} for future {wrong[0][0]} of {count}"
        )
    return array
