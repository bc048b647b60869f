"""An episode taken apart into one object and all the rest, and put together again otherwise.

The object's pixels are those in its box that stand out from the background, and whose colours are its own rather than
those of what comes near it. The background is the median of the frames in which nothing that moves covers it; what is
never uncovered is filled from its surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from roboalign_core.benchmark.degradations.degradation import at_times
from roboalign_core.benchmark.degradations.track import Ints, Track, is_seen, pixel_boxes
from roboalign_core.episodes import Episode
from roboalign_core.episodes.boxes import BOXES, SIDES, boxes_of

NONE = -1  # in place of a time: the object is not there
_STANDS_OUT = 24  # difference of a colour from the background's, of 255
_HALO = 2  # pixels around an object's box that its blurred edge reaches into
_LEVELS = 16  # of red, green and blue, when the object's colours are told from others
_RARE = 0.02  # of an area: less frequent colours do not count as its own
_LIGHT = 0.3  # weight of brightness beside that of hue, because an object that turns is lit differently
_TOLD_APART = 0.3  # of a clear box: with fewer pixels of its own the object is as good as invisible, and its box counts
_HIDDEN = 0.015  # of its box: an object of which the robot hides less is taken to be intact
_THIN = 3  # pixels that a part thinner than two sticks out at most
_FEW = 0.1  # of the frames: what is uncovered in fewer is filled, because the robot's shadow or light may be on it
_MARGIN = 4  # pixels around everything that changes, to fill the background from

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """What each of the T frames is made of.

    Attributes:
        rest: (T,) the time that everything but the object is taken from.
        object: (T,) the time that the object is taken from, or ``NONE``.
        offset: (T, 2) pixels to the right and down that the object is drawn away from its place.
        shade: (T,) how dark a shadow the object throws on its place, 0 to 1.
    """

    rest: Ints
    object: Ints
    offset: Ints
    shade: NDArray[np.float64]

    @classmethod
    def nothing(cls, length: int) -> Edit:
        """Every frame as it is."""
        times = np.arange(length)
        return cls(times, times, np.zeros((length, 2), np.int64), np.zeros(length))

    @property
    def changed(self) -> Ints:
        """The frames that are not some recorded frame as it was."""
        return np.flatnonzero((self.object != self.rest) | self.offset.any(1) | (self.shade > 0))


def compose(episode: Episode, track: Track, edit: Edit) -> Episode:
    """Draw an episode anew. Rows come with the rest; the object's box follows what is drawn of it."""
    base = at_times(episode, edit.rest)
    changed = edit.changed
    if not len(changed):
        return base
    layers = _Layers(episode, track, _window(episode, track, edit))
    frames, boxes = base.frames, base.extras[BOXES].copy()
    mine = slice(track.number * len(SIDES), (track.number + 1) * len(SIDES))
    for time in changed:
        drawn = layers.draw(
            frames[time], int(edit.rest[time]), int(edit.object[time]), edit.offset[time], edit.shade[time]
        )
        boxes[time, mine] = boxes_of([drawn])
    return replace(base, extras={**base.extras, BOXES: boxes})


def _window(episode: Episode, track: Track, edit: Edit) -> tuple[slice, slice]:
    """Rows and columns that hold the object wherever it was and wherever it is drawn."""
    drawn = edit.changed[edit.object[edit.changed] != NONE]
    boxes = np.concatenate([track.boxes, track.boxes[edit.object[drawn]] + np.tile(edit.offset[drawn], 2)])
    boxes = boxes[is_seen(boxes)]
    height, width = episode.frames.shape[1:3]
    left, top = np.clip(boxes[:, :2].min(0) - _MARGIN, 0, (width, height))
    right, bottom = np.clip(boxes[:, 2:].max(0) + _MARGIN, 0, (width, height))
    return slice(int(top), int(bottom)), slice(int(left), int(right))


class _Layers:
    """The object, what is in front of it, and the background, within a window of the frames."""

    def __init__(self, episode: Episode, track: Track, window: tuple[slice, slice]) -> None:
        self._track, self._window = track, window
        self._shape = episode.frames.shape[1:3]
        rows, columns = window
        self._corner = np.array([columns.start, rows.start])
        self._frames = episode.frames[:, rows, columns]
        boxes = pixel_boxes(episode) - np.tile(self._corner, 2)
        self._boxes = track.boxes - np.tile(self._corner, 2)
        own = self._inside(boxes[:, track.number], _HALO)
        others = np.zeros_like(own)
        for number in track.others:
            others |= self._inside(boxes[:, number], 1)
        self._background = background_of(self._frames, own | others)
        stands_out = _differs(self._frames, self._background)
        foreign = _solid(stands_out & self._is_foreign(own, stands_out))
        self._front = others & foreign
        close = self._inside(boxes[:, track.number], 1) & stands_out
        self._object = close & ~foreign & ~_grown(self._front)
        clear = np.unique(track.clear)
        inner = self._inside(boxes[clear, track.number], 0)
        if (self._object[clear] & inner).sum() < _TOLD_APART * inner.sum():
            self._object = self._inside(boxes[:, track.number], 0) & ~others
        self._erased = own & ~foreign
        self._intact = self._find_intact(boxes[:, track.number])

    def draw(self, frame: NDArray[np.uint8], rest: int, source: int, offset: Ints, shade: float) -> NDArray[np.bool_]:
        """Erase the object from a frame (H, W, 3) and draw it as it was at ``source``; (H, W) where it is seen now."""
        view = frame[self._window]
        np.copyto(view, self._background, where=self._erased[rest][..., None])
        drawn = np.zeros(self._shape, bool)
        if source == NONE or not self._track.seen[source]:
            return drawn
        if shade > 0:
            self._throw_shadow(view, source, self._front[rest], shade)
        intact = int(self._intact[source])
        shift = offset + np.rint(self._track.centres[source] - self._track.centres[intact]).astype(np.int64)
        to, of = _overlap(view.shape[:2], shift)
        seen = self._object[intact][of]
        if not offset.any():  # what is away from its place is in front of all
            seen = seen & ~self._front[rest][to]
        np.copyto(view[to], self._frames[intact][of], where=seen[..., None])
        drawn[self._window][to] = seen
        return drawn

    def _find_intact(self, boxes: Ints) -> Ints:
        """(T,) for each frame the nearest one in which no pixel of the robot hides the object."""
        hidden = (self._front & self._inside(boxes, 0)).sum((1, 2)) > _HIDDEN * (boxes[:, 2:] - boxes[:, :2]).prod(1)
        whole = ~hidden & self._track.seen & (boxes == self._boxes).all(1)
        whole[self._track.clear] = True
        times, found = np.arange(len(boxes)), np.flatnonzero(whole)
        return np.asarray(found[np.abs(times[:, None] - found).argmin(1)])

    def _inside(self, boxes: Ints, gap: int) -> Bools:
        """(T, h, w) bool: the pixels of boxes, and those less than ``gap`` beside them."""
        height, width = self._frames.shape[1:3]
        across, down = np.arange(width), np.arange(height)
        left, top, right, bottom = (boxes[:, side, None] for side in range(len(SIDES)))
        seen = is_seen(boxes)[:, None]
        inside_x = (left - gap <= across) & (across < right + gap) & seen
        inside_y = (top - gap <= down) & (down < bottom + gap)
        return inside_y[:, :, None] & inside_x[:, None, :]

    def _is_foreign(self, own: Bools, stands_out: Bools) -> Bools:
        """(T, h, w) whether a pixel's colour is nearer to those that stand out beside the object than to its own."""
        codes, colours = _coarse(self._frames)
        clear = np.unique(self._track.clear)
        mine = np.bincount(codes[clear][(own & stands_out)[clear]], minlength=len(colours))
        beside = np.bincount(codes[stands_out & ~own], minlength=len(colours))
        if not mine.any() or not beside.any():
            return np.zeros_like(own)
        met = np.flatnonzero(np.bincount(codes[stands_out], minlength=len(colours)))
        nearer = np.zeros(len(colours), bool)
        nearer[met] = _distance(colours[met], colours, beside) < _distance(colours[met], colours, mine)
        return nearer[codes]

    def _throw_shadow(self, view: NDArray[np.uint8], source: int, front: Bools, shade: float) -> None:
        """Darken an ellipse below the object, as low as it has been: what was lifted had its shadow there."""
        left, top, right, bottom = (float(side) for side in self._boxes[source])
        ground = float(self._boxes[: source + 1, 3][self._track.seen[: source + 1]].max())
        height, width = view.shape[:2]
        x = (np.arange(width) + 0.5 - (left + right) / 2) / max((right - left) * 0.6, 1.0)
        y = (np.arange(height) + 0.5 - ground + (bottom - top) / 3) / max((bottom - top) * 0.4, 1.0)
        depth = np.clip(1.5 - 1.5 * (x**2 + y[:, None] ** 2), 0.0, 1.0) * shade * ~front
        view[:] = np.rint(view * (1 - depth[..., None]))


def background_of(frames: NDArray[np.uint8], covered: Bools) -> NDArray[np.uint8]:
    """(T, h, w, 3) frames without what covers them → (h, w, 3)."""
    free = (~covered).sum(0)
    ordered = np.sort(np.where(covered[..., None], np.uint8(255), frames), axis=0)  # what is covered comes last
    middle = np.maximum(free - 1, 0) // 2
    median = np.take_along_axis(ordered, middle[None, :, :, None], 0)[0]
    return filled(median, free >= max(_FEW * len(frames), 1))


def filled(image: NDArray[np.uint8], known: Bools) -> NDArray[np.uint8]:
    """An image (h, w, 3) whose unknown pixels blend from the nearest known ones of their row and column."""
    if known.all() or not known.any():
        return image
    holes = np.nonzero(~known)
    colours, weights = np.zeros((len(holes[0]), 3)), np.zeros((len(holes[0]), 1))
    for axis in (0, 1):
        places = np.arange(image.shape[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
        before = np.maximum.accumulate(np.where(known, places, -1), axis)
        after = np.flip(np.minimum.accumulate(np.flip(np.where(known, places, 1 << 20), axis), axis), axis)
        for nearest in (before[holes], after[holes]):
            found = (nearest >= 0) & (nearest < 1 << 20)
            at = [holes[0], holes[1]]
            at[axis] = np.where(found, nearest, 0)
            weight = (found / np.maximum(np.abs(nearest - holes[axis]), 1))[:, None]
            colours, weights = colours + weight * image[at[0], at[1]], weights + weight
    image = image.copy()
    alone = weights[:, 0] == 0
    colours[alone], weights[alone] = image[known].mean(0), 1
    image[holes] = np.rint(colours / weights)
    return image


def _coarse(frames: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The number of each pixel's colour, and what colour (3,) stands for each number: opponent hues and brightness."""
    levels = (frames // (256 // _LEVELS)).astype(np.int32)
    codes = (levels[..., 0] * _LEVELS + levels[..., 1]) * _LEVELS + levels[..., 2]
    red, green, blue = np.indices((_LEVELS,) * 3).reshape(3, -1).astype(np.float64)
    hues = np.stack([red - green, (red + green) / 2 - blue], 1)
    return codes, np.concatenate([hues, _LIGHT * (red + green + blue)[:, None] / 3], 1)


def _distance(colours: NDArray[np.float64], all_colours: NDArray[np.float64], counts: Ints) -> NDArray[np.float64]:
    """(N,) how far colours (N, 3) are from the nearest of the frequent ones."""
    frequent = all_colours[counts >= min(_RARE * counts.sum(), counts.max())]
    return np.asarray(np.square(colours[:, None] - frequent).sum(-1).min(1))


def _differs(frames: NDArray[np.uint8], background: NDArray[np.uint8]) -> Bools:
    apart = np.maximum(frames, background) - np.minimum(frames, background)
    return np.asarray((apart > _STANDS_OUT).any(-1))


def _solid(mask: Bools) -> Bools:
    """Masks (T, h, w) without what is thin and by itself, as blends of two colours along an edge are."""
    square = mask[:, :-1, :-1] & mask[:, 1:, :-1] & mask[:, :-1, 1:] & mask[:, 1:, 1:]
    solid = np.zeros_like(mask)
    for rows in (slice(None, -1), slice(1, None)):
        for columns in (slice(None, -1), slice(1, None)):
            solid[:, rows, columns] |= square
    for _ in range(_THIN):
        solid = _grown(solid) & mask
    return solid


def _grown(mask: Bools) -> Bools:
    """Masks (T, h, w) and the pixels above, below and beside them."""
    grown = mask.copy()
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    grown[:, :, 1:] |= mask[:, :, :-1]
    grown[:, :, :-1] |= mask[:, :, 1:]
    return grown


def _overlap(shape: tuple[int, ...], shift: Ints) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where an image that is shifted (right, down) lands on one of its shape, and what of it does."""
    to, of = [], []
    for size, by in zip(shape, (int(shift[1]), int(shift[0])), strict=True):
        by = max(-size, min(by, size))
        to.append(slice(max(by, 0), size + min(by, 0)))
        of.append(slice(max(-by, 0), size - max(by, 0)))
    return (to[0], to[1]), (of[0], of[1])
