"""Which object an episode is about, and where all of it is while the robot hides a part: from recorded boxes alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from roboalign_core.episodes import Episode
from roboalign_core.episodes.boxes import BOXES, SIDES
from roboalign_core.errors import RoboAlignError

ROBOT = 0  # place of the robot's box among an episode's boxes
_WHOLE = 0.7  # of the largest width and height: from here on a box is taken to be seen whole (objects turn)
_MOVED = 0.5  # of its size: an object that gets this far from where it was at first is one that moves
_SIDE = 0.6  # of its height: a robot beside the object that shares less cannot hide the whole side

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """The object that moves farthest.

    Attributes:
        number: its place among the episode's boxes.
        boxes: (T, 4) int64, left, top, right, bottom in pixels, of the whole object.
        seen: (T,) bool, whether any of it is seen.
        clear: (T,) int64, the nearest frame in which the robot is apart from it, so that all of it is seen.
        others: places of the robot and of the other objects that move.
    """

    number: int
    boxes: Ints
    seen: NDArray[np.bool_]
    clear: Ints
    others: tuple[int, ...]

    @property
    def centres(self) -> NDArray[np.float64]:
        """(T, 2) the middle of the boxes, in pixels to the right and down."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2


def why_no_track(episode: Episode) -> str | None:
    """A check that `track_of` finds an object."""
    found = _find(episode)
    return found if isinstance(found, str) else None


def track_of(episode: Episode) -> Track:
    """The object that moves farthest.

    Raises:
        RoboAlignError: there is none; `why_no_track` says why.
    """
    found = _find(episode)
    if isinstance(found, str):
        raise RoboAlignError(f"episode: expected an object that moves: {found}")
    return found


def pixel_boxes(episode: Episode) -> Ints:
    """(T, K, 4) int64: left, top, right, bottom of every recorded box, in pixels."""
    height, width = episode.frames.shape[1:3]
    boxes = episode.extras[BOXES].reshape(len(episode), -1, len(SIDES))
    return np.rint(boxes * (width, height, width, height)).astype(np.int64)


def touch(one: Ints, other: Ints, gap: int = 0) -> NDArray[np.bool_]:
    """Whether boxes (..., 4) overlap, or come closer than ``gap`` pixels."""
    near = (one[..., :2] < other[..., 2:] + gap) & (other[..., :2] < one[..., 2:] + gap)
    return np.asarray(near.all(-1) & is_seen(one) & is_seen(other))


def is_seen(boxes: Ints) -> NDArray[np.bool_]:
    """Whether boxes (..., 4) hold anything."""
    return np.asarray((boxes[..., 2:] > boxes[..., :2]).all(-1))


def _find(episode: Episode) -> Track | str:
    if BOXES not in episode.extras:
        return f"it has no boxes ({BOXES})"
    columns = episode.extras[BOXES].shape[1]
    if columns % len(SIDES) or columns < 2 * len(SIDES):
        return f"expected boxes of the robot and of an object, found {columns} columns"
    boxes = pixel_boxes(episode)
    seen = is_seen(boxes)
    ways = [_way(boxes[:, number], seen[:, number]) for number in range(boxes.shape[1])]
    number = 1 + int(np.argmax(ways[1:]))
    if ways[number] <= _MOVED:
        return "no object moves"
    mine = boxes[:, number]
    clear = np.flatnonzero(_whole(mine, seen[:, number]) & ~touch(mine, boxes[:, ROBOT], 1))
    if not len(clear):
        return "the object that moves is never seen apart from the robot"
    times = np.arange(len(mine))
    nearest = clear[np.abs(times[:, None] - clear).argmin(1)]
    others = (ROBOT, *(k for k, way in enumerate(ways) if k not in (ROBOT, number) and way > _MOVED))
    return Track(number, _unhidden(mine, boxes[:, ROBOT], nearest), seen[:, number], nearest, others)


def _way(boxes: Ints, seen: NDArray[np.bool_]) -> float:
    """The farthest from where it was at first, in its own sizes; frames in which it is partly hidden do not count."""
    whole = boxes[_whole(boxes, seen)]
    if not len(whole):
        return 0.0
    centres = (whole[:, :2] + whole[:, 2:]) / 2
    size = float((whole[:, 2:] - whole[:, :2]).max(0).mean())
    return float(np.linalg.norm(centres - centres[0], axis=1).max()) / size


def _whole(boxes: Ints, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    sizes = boxes[:, 2:] - boxes[:, :2]
    return np.asarray(seen & (sizes >= _WHOLE * sizes.max(0)).all(-1))


def _unhidden(boxes: Ints, robot: Ints, clear: Ints) -> Ints:
    """Boxes (T, 4) of the whole object.

    A width is cut short where it is smaller than in the nearest clear frame, and the robot, next to the object, is tall
    enough to hide a whole side of it; the hidden side is the one towards the robot's middle. Likewise the height.
    """
    sizes, full = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] - boxes[:, :2])[clear]
    shared = np.minimum(boxes[:, 2:], robot[:, 2:]) - np.maximum(boxes[:, :2], robot[:, :2])
    hides_side = (shared >= _SIDE * sizes)[:, ::-1]  # as high as it is, for its width
    hidden = (sizes < full) & hides_side & touch(boxes, robot, 1)[:, None]
    before = robot[:, :2] + robot[:, 2:] < boxes[:, :2] + boxes[:, 2:]  # the robot is to the left of it, or above it
    low = np.where(hidden & before, boxes[:, 2:] - full, boxes[:, :2])
    high = np.where(hidden & ~before, boxes[:, :2] + full, boxes[:, 2:])
    return np.concatenate([low, high], 1)
