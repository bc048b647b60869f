"""Damage to the order of frames. The first frame, from which a world model starts, stays, unless time itself turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from roboalign_core.benchmark.degradations.degradation import (
    Degradation,
    Pool,
    at_least,
    at_times,
    something_happens,
)
from roboalign_core.episodes import Episode
from roboalign_core.errors import RoboAlignError


def frame_shuffle(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """A share of the frames, drawn at random, changes places along one cycle."""
    order = 1 + rng.permutation(len(episode) - 1)
    moved = order[: round(strength * len(order))]
    index = np.arange(len(episode))
    index[moved] = np.roll(moved, 1)
    return at_times(episode, index)


def segment_swap(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """Two segments, together a share of the video, change places."""
    length = round(strength * ((len(episode) - 1) // 2))
    earlier, later = sorted(rng.integers(len(episode) - 2 * length, size=2))
    first, second = 1 + np.arange(earlier, earlier + length), 1 + np.arange(later + length, later + 2 * length)
    index = np.arange(len(episode))
    index[first], index[second] = second, first
    return at_times(episode, index)


def foreign_segment(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """A segment, a share of the video, is that of another episode; a donor that is too short is stretched."""
    donor = pool.donor(episode, rng)
    _check_donor(episode, donor)
    count = round(strength * (len(episode) - 1))
    start = 1 + int(rng.integers(len(episode) - count))
    if len(donor) > count:
        times = np.arange(count) + int(rng.integers(len(donor) - count))
    else:
        times = np.arange(count) * len(donor) // max(count, 1)
    here = slice(start, start + count)

    def spliced(mine: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
        rows = mine.copy()
        rows[here] = theirs[times]
        return rows

    return replace(
        episode,
        frames=spliced(episode.frames, donor.frames),
        actions=spliced(episode.actions, donor.actions),
        extras={name: spliced(rows, donor.extras[name]) for name, rows in episode.extras.items()},
    )


def freeze(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """The video hangs: its last share repeats one frame. The commands go on."""
    last = len(episode) - 1 - round(strength * (len(episode) - 1))
    return replace(at_times(episode, np.minimum(np.arange(len(episode)), last)), actions=episode.actions)


def truncation(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """The last share of the video is missing; two frames are left in any case."""
    return at_times(episode, np.arange(len(episode) - round(strength * (len(episode) - 2))))


def time_reversal(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """A share of the video runs backwards to the first frame; the rest runs forwards from there, without a jump."""
    return at_times(episode, np.abs(np.arange(len(episode)) - round(strength * (len(episode) - 1))))


def _check_donor(episode: Episode, donor: Episode) -> None:
    for name, expected, found in (
        ("frames (H, W)", episode.frames.shape[1:3], donor.frames.shape[1:3]),
        ("actions (columns)", episode.actions.shape[1], donor.actions.shape[1]),
        (
            "extras (name: columns)",
            {name: rows.shape[1] for name, rows in sorted(episode.extras.items())},
            {name: rows.shape[1] for name, rows in sorted(donor.extras.items())},
        ),
    ):
        if expected != found:
            raise RoboAlignError(f"degradation foreign_segment: the donor's {name}: expected {expected}, found {found}")


_CHECKS = (at_least(4), something_happens)
ALL = (
    Degradation(
        "frame_shuffle",
        "temporal",
        "A share of the frames changes places at random.",
        frame_shuffle,
        {
            "instruction_following": (0, 0.25, 0.5, 0.75, 1),
            "manipulation_success": (0, 0.25, 0.5, 0.75, 1),
            "action_outcome_consistency": (0, 0.5, 0.75, 1, 1),
            "temporal_consistency": (0, 1, 1, 1, 1),
            "contact_realism": (0, 0.25, 0.5, 0.5, 0.5),
            "physics_adherence": (0, 0.5, 1, 1, 1),
        },
        _CHECKS,
    ),
    Degradation(
        "segment_swap",
        "temporal",
        "Two segments, together a share of the video, change places.",
        segment_swap,
        {
            "instruction_following": (0, 0.25, 0.5, 0.75, 1),
            "manipulation_success": (0, 0.25, 0.5, 0.75, 1),
            "action_outcome_consistency": (0, 0.5, 0.5, 0.5, 0.5),
            "temporal_consistency": (0, 1, 1, 1, 1),
            "physics_adherence": (0, 0.5, 1, 1, 1),
        },
        _CHECKS,
    ),
    Degradation(
        "foreign_segment",
        "temporal",
        "A segment, a share of the video, is cut from another episode.",
        foreign_segment,
        {
            "instruction_following": (0, 0.5, 1, 1.5, 2),
            "manipulation_success": (0, 0.5, 1, 1.5, 2),
            "action_outcome_consistency": (0, 0.5, 1, 1, 1),
            "temporal_consistency": (0, 1, 1, 1, 1),
            "contact_realism": (0, 0.25, 0.5, 0.5, 0.5),
            "physics_adherence": (0, 1, 2, 2, 2),
        },
        _CHECKS,
    ),
    Degradation(
        "freeze",
        "temporal",
        "The last share of the video repeats one frame.",
        freeze,
        {
            "instruction_following": (0, 0.5, 1, 2, 3),
            "manipulation_success": (0, 1, 1.5, 2, 2),
            "action_outcome_consistency": (0, 0.5, 1, 1, 1),
            "temporal_consistency": (0, 0.5, 1, 1, 1),
        },
        _CHECKS,
    ),
    Degradation(
        "truncation",
        "temporal",
        "The last share of the video is missing.",
        truncation,
        {"instruction_following": (0, 0.5, 1, 2, 3), "manipulation_success": (0, 1, 1.5, 2, 2)},
        _CHECKS,
    ),
    Degradation(
        "time_reversal",
        "temporal",
        "A share of the video runs backwards to its first frame, the rest forwards again.",
        time_reversal,
        {
            "instruction_following": (0, 0.5, 1, 1.5, 2),
            "manipulation_success": (0, 1, 1.5, 2, 2),
            "action_outcome_consistency": (0, 0.5, 0.75, 1, 1),
            "contact_realism": (0, 0.5, 0.75, 1, 1),
            "physics_adherence": (0, 0.5, 1, 1, 1),
        },
        _CHECKS,
    ),
)
