"""Streams of messages on one set of frame times. Times are whole nanoseconds, (N,) int64."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from roboalign_core.errors import RoboAlignError

NS = 1_000_000_000
MOST_FRAMES = 1_000_000  # of an episode: more is a clock that jumped

Times = NDArray[np.int64]


def in_order(stamps: Times, contents: Sequence[Hashable], unique: bool, longest: int) -> tuple[Times, int, int]:
    """Bring messages into the order of their stamps, and drop what came twice (same stamp, same content).

    Args:
        stamps: (N,) as they were received.
        contents: of each message, to compare.
        unique: whether differing messages may not share a stamp; if they may, they stay in the order of receipt.
        longest: how far a stamp may lie before an earlier one; farther, and a clock jumped.

    Returns:
        the places (M,) of the messages that stay, in order; how many were late; how many came twice.

    Raises:
        RoboAlignError: a clock jumped back, or differing messages share a stamp.
    """
    newest_yet = np.maximum.accumulate(stamps) if len(stamps) else stamps
    back = newest_yet - stamps
    if len(stamps) and back.max() > longest:
        place = int(back.argmax())
        raise RoboAlignError(
            f"expected stamps in order to {longest / NS:g} s (gap), found message {place} stamped "
            f"{back[place] / NS:.3f} s before an earlier one: a clock was set back"
        )
    kept: list[int] = []
    at_stamp: set[Hashable] = set()
    for place in np.argsort(stamps, kind="stable"):
        if not kept or stamps[place] != stamps[kept[-1]]:
            at_stamp = set()
        elif contents[place] in at_stamp:
            continue
        elif unique:
            raise RoboAlignError(
                f"expected one message a stamp, found different ones at {stamps[place] / NS:.9f} s; "
                "stamps that mean nothing are ignored for the topics in `unstamped`"
            )
        kept.append(int(place))
        at_stamp.add(contents[place])
    return np.array(kept, np.int64), int((back > 0).sum()), len(stamps) - len(kept)


def newest(stamps: Times, times: Times) -> NDArray[np.intp]:
    """(T,) the place of the newest stamp at or before each time; -1 where there is none."""
    return np.searchsorted(stamps, times, side="right") - 1


def grid(start: int, stop: int, rate: float) -> Times:
    """(T,) times from ``start`` to at most ``stop``, ``rate`` a second.

    Raises:
        RoboAlignError: there are more than `MOST_FRAMES`.
    """
    if stop < start:
        return np.empty(0, np.int64)
    number = int((stop - start) * rate / NS + 1e-6) + 1  # a last frame must not be lost to rounding
    if number > MOST_FRAMES:
        raise RoboAlignError(f"expected at most {MOST_FRAMES} frames, found {number}: did a clock jump?")
    times = start + np.rint(np.arange(number) * (NS / rate)).astype(np.int64)
    return times[times <= stop]


def gaps(stamps: Times, times: Times, longest: int) -> list[tuple[int, int]]:
    """Where a stream is silent for more than ``longest`` between the first and the last frame: (from, length)."""
    before = stamps[stamps <= times[0]][-1:]
    start = before if len(before) else times[:1]
    within = stamps[(stamps > times[0]) & (stamps <= times[-1])]
    points = np.concatenate([start, within, times[-1:]])
    lengths = np.diff(points)
    return [(int(points[place]), int(lengths[place])) for place in np.flatnonzero(lengths > longest)]


def targets(times: Times, stamps: Times, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows (T, K) of targets: row t is the newest at time t + 1, be it new or held; the last row repeats.

    There is one at or before the second time.
    """
    return values[newest(stamps, np.append(times[1:], times[-1]))]


def steps(times: Times, stamps: Times, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows (T, K) of changes: row t is the sum of the steps after time t, up to and with time t + 1; the last is 0."""
    rows = np.zeros((len(times), values.shape[1]))
    row = np.searchsorted(times, stamps, side="left") - 1
    inside = (row >= 0) & (row < len(times) - 1)
    np.add.at(rows, row[inside], values[inside])
    return rows


def integrals(times: Times, stamps: Times, values: NDArray[np.float64], longest: int) -> NDArray[np.float64]:
    """Rows (T, K) of changes: row t is the integral of the velocities from time t to time t + 1; the last is 0.

    A velocity holds until the next one, and for ``longest`` at most.
    """
    rows = np.zeros((len(times), values.shape[1]))
    if not len(stamps):
        return rows
    edges = np.unique(np.concatenate([times, stamps, stamps + longest]))
    edges = edges[(edges >= times[0]) & (edges <= times[-1])]
    lefts, seconds = edges[:-1], np.diff(edges) / NS
    place = newest(stamps, lefts)
    moving = (place >= 0) & (lefts - stamps[place] < longest)
    np.add.at(rows, newest(times, lefts[moving]), values[place[moving]] * seconds[moving, None])
    return rows
