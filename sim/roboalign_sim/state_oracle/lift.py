"""The oracle of robosuite's Lift."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from roboalign_sim import robosuite
from roboalign_sim.state_oracle.base import SimOracle
from roboalign_sim.state_oracle.checks import (
    ACTION,
    CONTACT,
    PHYSICS,
    Array,
    Finding,
    Flags,
    Motion,
    disobeyed,
    drifted,
    first,
    graded,
    running_median,
)
from roboalign_sim.state_oracle.geometry import swept, to_box
from roboalign_sim.state_oracle.thresholds import TOWARDS, LiftLimits, Slack

LIMITS = LiftLimits()
HAND, CUBE, OPENING = slice(0, 3), slice(3, 7), 7


class LiftOracle(SimOracle):
    """Scores Lift's episodes."""

    source = "robosuite_lift"
    columns: ClassVar[tuple[str, ...]] = robosuite.STATE_NAMES
    instructions = (robosuite.INSTRUCTION,)
    action_dim: ClassVar[int] = len(robosuite.ACTION_NAMES)
    robot: ClassVar[slice] = HAND

    def _outcome(self, rows: Array, instruction: str, slack: Slack) -> tuple[int, int]:
        height = running_median(rows[:, CUBE][:, 2], slack.frames)
        if height[-1] > LIMITS.lifted:
            return 3, 2
        raised = LIMITS.rest + max(LIMITS.moved, slack.likely)
        held = _distance(rows[:, HAND], rows[:, CUBE]) <= LIMITS.held + slack.two
        around = np.abs(rows[:, OPENING] - 2 * LIMITS.cube_half) < LIMITS.closed_around
        partly = bool(height[-1] > raised)
        if partly or (held & (around | (height > raised))).any():
            return 2, int(partly)
        return int(_is_related(rows, slack)), 0

    def _findings(self, rows: Array, actions: Array, there: Flags, slack: Slack) -> list[Finding]:
        hand, cube = rows[:, HAND], rows[:, CUBE]
        motions = _motions(rows, slack)
        whole = there[:-1] & there[1:]
        found = [finding for motion in motions for finding in motion.within(whole).findings()]
        asked = whole & ~np.any([motion.too_far for motion in motions], axis=0)
        distance = swept(_distance, hand, cube)
        reach = np.minimum(distance, running_median(distance, slack.frames))
        places = running_median(cube[:, :2], slack.frames)
        for key, limit, what in ((CONTACT, LIMITS.contact, "untouched"), (ACTION, LIMITS.near, "far from the hand")):
            frame = drifted(places, asked & (reach > limit + slack.smooth), LIMITS.still + slack.smooth)
            if frame is not None:
                found.append(Finding(key, frame, 1, f"the cube moves {what}"))
        found += _passes_through(rows, asked, slack)
        found += _ignores_commands(hand, actions, asked & _is_free(hand), slack)
        return [*found, *_unphysical(rows, asked, slack)]


def _distance(hand: Array, cube: Array) -> Array:
    """(N,) m between the middles of hand (N, 3) and cube (N, 4)."""
    return np.asarray(np.linalg.norm(hand - cube[:, :3], axis=1))


def _is_related(rows: Array, slack: Slack) -> bool:
    """Whether the hand touched or moved the cube, or went to it."""
    distance = _distance(rows[:, HAND], rows[:, CUBE])
    moved = np.linalg.norm(rows[:, CUBE][:, :2] - rows[0, CUBE][:2], axis=1).max() >= LIMITS.moved + slack.smooth
    nearest, at_first = distance.min(), distance[0]
    touched = nearest <= LIMITS.contact + slack.smooth
    went = nearest <= min(at_first / 2, at_first - TOWARDS) or nearest <= LIMITS.near < at_first
    return bool(moved or touched or went)


def _motions(rows: Array, slack: Slack) -> list[Motion]:
    steps = np.diff(rows, axis=0)
    cube = steps[:, CUBE][:, :3]
    falls = cube[:, 2] < -np.linalg.norm(cube[:, :2], axis=1)
    limit = np.where(falls, LIMITS.cube_fall, LIMITS.cube_step)
    return [
        Motion("hand", steps[:, HAND], LIMITS.hand_step + slack.two),
        Motion("cube", cube, limit + slack.two),
    ]


def _is_free(hand: Array) -> Flags:
    """(T - 1,) the steps with nothing in the hand's way: above the table, the arm neither stretched nor bent."""
    base, (least, most) = np.array(LIMITS.base), LIMITS.free_reach
    across, reach = (np.linalg.norm((hand - base)[:, :axes], axis=1) for axes in (2, 3))
    free = (hand[:, 2] > LIMITS.free_height) & (across > least) & (reach < most)
    return np.asarray(free[:-1] & free[1:])


def _ignores_commands(hand: Array, actions: Array, free: Flags, slack: Slack) -> list[Finding]:
    now, before = LIMITS.lead
    moves = now * actions[:, :3]
    moves[1:] += before * actions[:-1, :3]
    frame = disobeyed(hand, free, lambda places, rows: places + moves[rows], LIMITS.command + slack.two)
    return [] if frame is None else [Finding(ACTION, frame, 1, "the hand is not where its commands lead")]


def _passes_through(rows: Array, asked: Flags, slack: Slack) -> list[Finding]:
    """The hand's middle is in the cube, as it is when it holds it, but the fingers have closed."""
    gap = swept(lambda hand, cube: to_box(hand, cube, (LIMITS.cube_half,) * 3), rows[:, HAND], rows[:, CUBE])
    closed = np.maximum(rows[:-1, OPENING], rows[1:, OPENING]) < LIMITS.squeeze - slack.one
    through = asked & closed & (gap < -LIMITS.inside - slack.smooth)
    return [Finding(CONTACT, first(through), 1, "closed fingers are inside the cube")] if through.any() else []


def _unphysical(rows: Array, asked: Flags, slack: Slack) -> list[Finding]:
    """A cube that floats or sinks in, a hand inside the table."""
    hand, cube = rows[:, HAND], rows[:, CUBE]
    over = np.abs(cube[:, :2]).max(axis=1) <= LIMITS.table_half
    height = cube[:, 2] - LIMITS.rest
    loose = (_distance(hand, cube) > LIMITS.contact + slack.smooth) & (height > LIMITS.floating + slack.one)
    hangs = asked & loose[:-1] & loose[1:] & (np.diff(height) > -LIMITS.fallen - slack.two)
    sunk = np.where(over, -height, 0.0)
    found = graded(sunk, LIMITS.sunk_minor + slack.one, LIMITS.sunk_severe + slack.one, "the cube sinks in")
    if hangs.any():
        found.append(Finding(PHYSICS, first(hangs), 2, "the cube floats"))
    return found + graded(LIMITS.hand_low - hand[:, 2], slack.one, np.inf, "the hand is inside the table")


LIFT = LiftOracle()
