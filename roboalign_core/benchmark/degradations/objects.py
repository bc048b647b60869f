"""Damage to the object that moves farthest: it vanishes, jumps, floats. Needs recorded boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from roboalign_core.benchmark.degradations.degradation import Degradation, Pool, at_least
from roboalign_core.benchmark.degradations.layers import NONE, Edit, compose
from roboalign_core.benchmark.degradations.track import Ints, Track, track_of, why_no_track
from roboalign_core.episodes import Episode

_HOLD = 6  # frames between two jumps
_FAR = 0.3  # of the shorter side: a jump is at least this long, where the image has room
_TRIES = 16  # places to choose a jump's end from
_HEIGHT = 0.3  # of the image's: how high an object floats
_RISE = 0.2  # of the video: how long it rises
_SHADE = 0.45  # of the light that the shadow of a floating object takes


def object_vanishing(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """In the last share of the video the object is gone."""
    edit = Edit.nothing(len(episode))
    gone = _last(len(episode), strength)
    return compose(episode, track_of(episode), replace(edit, object=np.where(gone, NONE, edit.object)))


def object_teleporting(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """In the last share of the video the object jumps from place to place."""
    track, edit = track_of(episode), Edit.nothing(len(episode))
    away = _last(len(episode), strength)
    offset = edit.offset.copy()
    for start in np.flatnonzero(away)[::_HOLD]:
        offset[start : start + _HOLD] = _jump(track, int(start), episode.frames.shape[1:3], rng)
    return compose(episode, track, replace(edit, offset=offset))


def gravity_break(episode: Episode, strength: float, rng: np.random.Generator, pool: Pool) -> Episode:
    """The object rises into the air, and stays there; a shadow says where it should be."""
    edit = Edit.nothing(len(episode))
    times = np.arange(len(episode))
    start = 1 + int(rng.integers(max(len(episode) // 3, 1)))
    rise = strength * np.clip((times - start + 1) / max(_RISE * len(episode), 1.0), 0.0, 1.0)
    height = np.rint(rise * _HEIGHT * episode.frames.shape[1]).astype(np.int64)
    offset = np.stack([np.zeros_like(height), -height], 1)
    return compose(
        episode, track_of(episode), replace(edit, offset=offset, shade=np.where(height > 0, _SHADE * rise, 0))
    )


def _last(length: int, strength: float) -> NDArray[np.bool_]:
    """(T,) the last share of the frames after the first."""
    return np.arange(length) >= length - round(strength * (length - 1))


def _jump(track: Track, time: int, size: tuple[int, ...], rng: np.random.Generator) -> Ints:
    """(2,) an offset to a place in the image, far from where the object is."""
    box = track.boxes[time]
    room = np.array([size[1], size[0]]) - (box[2:] - box[:2])
    offsets = np.rint(rng.random((_TRIES, 2)) * np.maximum(room, 0)).astype(np.int64) - box[:2]
    lengths = np.linalg.norm(offsets, axis=1)
    far = np.flatnonzero(lengths >= _FAR * min(size))
    return np.asarray(offsets[far[0] if len(far) else int(lengths.argmax())])


_CHECKS = (at_least(4), why_no_track)
ALL = (
    Degradation(
        "object_vanishing",
        "objects",
        "In the last share of the video the object is gone.",
        object_vanishing,
        {
            "instruction_following": (0, 1, 1, 1.5, 2),
            "manipulation_success": (0, 2, 2, 2, 2),
            "action_outcome_consistency": (0, 0.5, 1, 1, 1),
            "temporal_consistency": (0, 0.5, 0.5, 0.5, 0.5),
            "contact_realism": (0, 0.25, 0.5, 0.5, 0.5),
            "physics_adherence": (0, 2, 2, 2, 2),
        },
        _CHECKS,
    ),
    Degradation(
        "object_teleporting",
        "objects",
        "In the last share of the video the object jumps from place to place.",
        object_teleporting,
        {
            "instruction_following": (0, 0.5, 1, 1, 1.5),
            "manipulation_success": (0, 1, 1.5, 2, 2),
            "action_outcome_consistency": (0, 1, 1, 1, 1),
            "temporal_consistency": (0, 1, 1, 1, 1),
            "contact_realism": (0, 0.5, 0.75, 1, 1),
            "physics_adherence": (0, 2, 2, 2, 2),
        },
        _CHECKS,
    ),
    Degradation(
        "gravity_break",
        "objects",
        "The object rises into the air and stays there; the strength is how high.",
        gravity_break,
        {
            "instruction_following": (0, 0.5, 1, 1, 1),
            "manipulation_success": (0, 1, 1.5, 2, 2),
            "action_outcome_consistency": (0, 0.5, 1, 1, 1),
            "contact_realism": (0, 0.5, 1, 1, 1),
            "physics_adherence": (0, 1, 2, 2, 2),
        },
        _CHECKS,
    ),
)
