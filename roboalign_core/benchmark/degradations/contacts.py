"""Damage to what links the robot and the object that moves farthest: one of them goes its own way. Needs boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from roboalign_core.benchmark.degradations.degradation import Degradation, Pool, at_least
from roboalign_core.benchmark.degradations.layers import Edit, compose
from roboalign_core.benchmark.degradations.track import track_of, why_no_track
from roboalign_core.episodes import Episode

_LAG = 0.2  # of the video: by how much the object is ahead of the robot, or behind it


def robot_without_effect(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """The robot goes on, but the object stays where it is after all but a share of its way."""
    track, edit = track_of(episode), Edit.nothing(len(episode))
    way = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(track.centres, axis=0), axis=1)))
    stop = int(np.argmax(way >= (1 - strength) * way[-1]))
    return compose(episode, track, replace(edit, object=np.minimum(edit.object, stop)))


def object_without_robot(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """The object moves as recorded, but the robot only at a share of its speed; at strength 1 it stands still."""
    edit = Edit.nothing(len(episode))
    return compose(episode, track_of(episode), replace(edit, rest=np.rint((1 - strength) * edit.rest).astype(np.int64)))


def contact_gap(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """The object is ahead of the robot: it moves before it is touched."""
    edit = Edit.nothing(len(episode))
    ahead = edit.object + np.minimum(edit.object, _frames(episode, strength))  # without a jump: twice as fast at first
    return compose(episode, track_of(episode), replace(edit, object=np.minimum(ahead, len(episode) - 1)))


def penetration(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """The object is behind the robot: the robot goes into it before it moves."""
    edit = Edit.nothing(len(episode))
    return compose(
        episode, track_of(episode), replace(edit, object=np.maximum(edit.object - _frames(episode, strength), 0))
    )


def _frames(episode: Episode, strength: float) -> int:
    return round(strength * _LAG * len(episode))


_CHECKS = (at_least(4), why_no_track)
ALL = (
    Degradation(
        "robot_without_effect",
        "contacts",
        "The object stops after all but a share of its way, while the robot goes on.",
        robot_without_effect,
        {
            "instruction_following": (0, 0.5, 1, 1, 1),
            "manipulation_success": (0, 1, 1, 1.5, 2),
            "action_outcome_consistency": (0, 0.5, 1, 1, 1),
            "contact_realism": (0, 0.5, 1, 1, 1),
            "physics_adherence": (0, 0.25, 0.5, 1, 1),
        },
        _CHECKS,
    ),
    Degradation(
        "object_without_robot",
        "contacts",
        "The object moves as recorded, while the robot lacks a share of its speed.",
        object_without_robot,
        {
            "instruction_following": (0, 0, 0.5, 1, 2),
            "action_outcome_consistency": (0, 0.5, 1, 1, 1),
            "contact_realism": (0, 0.5, 1, 1, 1),
            "physics_adherence": (0, 0.5, 1, 1, 1),
        },
        _CHECKS,
    ),
    Degradation(
        "contact_gap",
        "contacts",
        "The object is up to a fifth of the video ahead of the robot: it moves before it is touched.",
        contact_gap,
        {
            "action_outcome_consistency": (0, 0.25, 0.5, 0.75, 1),
            "contact_realism": (0, 0.5, 1, 1, 1),
            "physics_adherence": (0, 0.25, 0.5, 0.75, 1),
        },
        _CHECKS,
    ),
    Degradation(
        "penetration",
        "contacts",
        "The object is up to a fifth of the video behind the robot, which goes into it before it moves.",
        penetration,
        {
            "instruction_following": (0, 0, 0, 0.25, 0.5),
            "manipulation_success": (0, 0, 0.25, 0.5, 1),
            "action_outcome_consistency": (0, 0.25, 0.5, 0.5, 0.5),
            "contact_realism": (0, 0.5, 1, 1, 1),
            "physics_adherence": (0, 0.25, 0.5, 1, 1),
        },
        _CHECKS,
    ),
)
