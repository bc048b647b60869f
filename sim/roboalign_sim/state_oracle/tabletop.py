"""The table-top's oracle."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from roboalign_sim import scene, tabletop
from roboalign_sim.looks import source_of
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
from roboalign_sim.state_oracle.geometry import cube_to_cylinder, swept, tip_to_object
from roboalign_sim.state_oracle.sight import Look
from roboalign_sim.state_oracle.thresholds import DONE_SHARE, TOWARDS, Slack, TabletopLimits
from roboalign_sim.tasks import REACH_GAP, State, Task, instructions_of, is_success, surface_gap, task_of, way_to_touch

LIMITS = TabletopLimits()
FINGER, ZONE = slice(0, 3), slice(11, 13)
PLACES = {"red_cube": slice(3, 7), "blue_cylinder": slice(7, 11)}
_STANDS = {"red_cube": scene.CUBE_HEIGHT / 2, "blue_cylinder": scene.CYLINDER_HEIGHT / 2}
_HUES = {"red": (340.0, 20.0), "blue": (205.0, 265.0), "orange": (20.0, 35.0), "cyan": (170.0, 205.0)}  # degrees
_CORNER = math.sqrt(2.0) * scene.OBJECT_HALF  # m, how far a corner of the cube travels in a turn by one radian
_LOWEST = np.array([-scene.FINGER_XY_LIMIT, -scene.FINGER_XY_LIMIT, scene.FINGER_Z_RANGE[0]])
_HIGHEST = np.array([scene.FINGER_XY_LIMIT, scene.FINGER_XY_LIMIT, scene.FINGER_Z_RANGE[1]])


class TabletopOracle(SimOracle):
    """Scores the table-top's episodes, or states that were read from frames of it.

    Args:
        colours: the scheme of ``scene.COLOURS`` that the objects are painted in, and instructions speak of.
    """

    columns: ClassVar[tuple[str, ...]] = tabletop.STATE_NAMES
    action_dim: ClassVar[int] = len(tabletop.ACTION_NAMES)
    robot: ClassVar[slice] = FINGER

    def __init__(self, colours: str = "standard") -> None:
        self.source = source_of(colours)
        self.instructions = instructions_of(colours)
        objects = {
            name: (PLACES[name], Look((_HUES[colour],), LIMITS.object_seen))
            for name, colour in scene.COLOURS[colours].items()
        }
        self.looks = {
            "finger": (FINGER, Look(((35, 70), (280, 330)), LIMITS.finger_seen)),
            **objects,
            "zone": (ZONE, Look(((95, 160),), LIMITS.zone_seen)),
        }

    def _outcome(self, rows: Array, instruction: str, slack: Slack) -> tuple[int, int]:
        task = task_of(instruction)
        calm = rows.copy()
        for place in PLACES.values():
            calm[:, place][:, :2] = running_median(rows[:, place][:, :2], slack.frames)
        states = [tabletop.state_from_vector(row) for row in calm]
        done = [is_success(instruction, states[0], state) for state in states]
        partly = _is_partly_done(task, states[0], states[-1], max(LIMITS.moved, slack.likely))
        if done[-1]:
            return 3, 2
        if partly or any(done):
            return 2, int(partly)
        return int(_is_related(task, calm, slack)), 0

    def _findings(self, rows: Array, actions: Array, there: Flags, slack: Slack) -> list[Finding]:
        motions = _motions(rows, slack)
        whole = there[:-1] & there[1:]
        found = [finding for motion in motions for finding in motion.within(whole).findings()]
        asked = whole & ~np.any([motion.too_far for motion in motions], axis=0)
        touch = Touch(rows, slack)
        for name in PLACES:
            found += _moves_untouched(name, rows, touch, asked, slack)
        found += _passes_through(touch, asked, slack)
        found += _ignores_commands(rows[:, FINGER], actions, asked & ~touch.by_finger, slack)
        return [*found, *_unphysical(rows, asked, slack)]


class Touch:
    """Who touches whom from each frame to the next, on straight ways."""

    def __init__(self, rows: Array, slack: Slack) -> None:
        finger = rows[:, FINGER]
        self.gaps = {
            name: swept(lambda tip, at, name=name: tip_to_object(name, tip, at), finger, rows[:, place])  # type: ignore[misc]
            for name, place in PLACES.items()
        }
        between = swept(cube_to_cylinder, rows[:, PLACES["red_cube"]], rows[:, PLACES["blue_cylinder"]])
        cube, cylinder = self.gaps["red_cube"], self.gaps["blue_cylinder"]
        chained = {"red_cube": np.maximum(between, cylinder), "blue_cylinder": np.maximum(between, cube)}
        # Through the other object: as near as the wider of the two gaps.
        reach = {name: np.minimum(self.gaps[name], chained[name]) for name in PLACES}
        # A single reading may be off; so may a median where the finger touches for a moment.
        self.reach = {name: np.minimum(gap, running_median(gap, slack.frames)) for name, gap in reach.items()}
        self.by_finger = np.min([*self.gaps.values()], axis=0) <= LIMITS.contact + slack.smooth


def _is_partly_done(task: Task, start: State, end: State, moved: float) -> bool:
    """Whether what the instruction asks for was begun by the end: the right object, the right way."""
    place, before = end[task.target][:2], start[task.target][:2]
    if task.kind == "reach":
        other = next(name for name in PLACES if name != task.target)
        nearer = surface_gap(end, task.target) < surface_gap(end, other)
        left_alone = np.linalg.norm(end[other][:2] - start[other][:2]) < moved
        begun = way_to_touch(end, task.target) <= (1 - DONE_SHARE) * way_to_touch(start, task.target)
        return bool(begun and nearer and left_alone)
    if task.direction is None:
        first_way, way = (float(np.linalg.norm(at - end["zone"])) for at in (before, place))
        return first_way - way >= moved
    ux, uy = task.direction
    x, y = (float(v) for v in place - before)
    return x * ux + y * uy >= moved and x * ux + y * uy > abs(x * uy - y * ux)


def _is_related(task: Task, rows: Array, slack: Slack) -> bool:
    """Whether the finger reached or moved anything, or went to the object that is meant."""
    gaps = Touch(rows, slack).gaps
    if min(gap.min() for gap in gaps.values()) <= REACH_GAP + slack.smooth:
        return True
    for place in PLACES.values():
        xy = rows[:, place][:, :2]
        if np.linalg.norm(xy - xy[0], axis=1).max() >= LIMITS.moved + slack.smooth:
            return True
    nearest = gaps[task.target].min()
    at_first = tip_to_object(task.target, rows[:1, FINGER], rows[:1, PLACES[task.target]])[0]
    return bool(nearest <= min(at_first / 2, at_first - TOWARDS) or nearest <= TOWARDS < at_first)


def _motions(rows: Array, slack: Slack) -> list[Motion]:
    """Across the table; how high objects stand is for `_unphysical`."""
    steps = np.diff(rows, axis=0)
    motions = [
        Motion("finger", steps[:, FINGER], LIMITS.finger_step + slack.two),
        Motion("zone", steps[:, ZONE], LIMITS.zone_step + slack.two),
    ]
    for name, place in PLACES.items():
        motions.append(Motion(scene.shape(name), steps[:, place][:, :2], LIMITS.object_step + slack.two))
    if not slack.one:  # readings of a turn are ambiguous: a cube looks the same after a quarter
        motions.append(Motion("cube's corner", np.diff(_turn(rows), axis=0), LIMITS.object_step))
    return motions


def _moves_untouched(name: str, rows: Array, touch: Touch, asked: Flags, slack: Slack) -> list[Finding]:
    places = running_median(rows[:, PLACES[name]][:, :2], slack.frames)
    tracks = [places, _turn(rows)] if name == "red_cube" and not slack.one else [places]
    found = []
    for key, limit, what in ((CONTACT, LIMITS.contact, "untouched"), (ACTION, LIMITS.near, "far from the finger")):
        apart = asked & (touch.reach[name] > limit + slack.smooth)
        frames = [drifted(track, apart, LIMITS.still + slack.smooth) for track in tracks]
        if any(frame is not None for frame in frames):
            frame = min(frame for frame in frames if frame is not None)
            found.append(Finding(key, frame, 1, f"the {scene.shape(name)} moves {what}"))
    return found


def _passes_through(touch: Touch, asked: Flags, slack: Slack) -> list[Finding]:
    found = []
    for name, gap in touch.gaps.items():
        through = asked & (gap < -LIMITS.depth - slack.smooth)
        if through.any():
            found.append(Finding(CONTACT, first(through), 1, f"the finger is inside the {scene.shape(name)}"))
    return found


def _ignores_commands(finger: Array, actions: Array, free: Flags, slack: Slack) -> list[Finding]:
    frame = disobeyed(
        finger,
        free,
        lambda places, rows: np.clip(places + tabletop.STEP_METRES * actions[rows], _LOWEST, _HIGHEST),
        LIMITS.command + slack.two,
    )
    return [] if frame is None else [Finding(ACTION, frame, 1, "the finger is not where its commands lead")]


def _unphysical(rows: Array, asked: Flags, slack: Slack) -> list[Finding]:
    """Things off their height, off the table, inside each other; a zone that moves."""
    cube, cylinder = (running_median(rows[:, place], slack.frames) for place in PLACES.values())
    overlap = -cube_to_cylinder(cube, cylinder)
    below, above = _LOWEST - rows[:, FINGER], rows[:, FINGER] - _HIGHEST
    minor, severe = LIMITS.overlap_minor + slack.smooth, LIMITS.overlap_severe + slack.smooth
    found = graded(overlap, minor, severe, "the objects are inside each other")
    found += graded(np.maximum(below, above).max(axis=1), LIMITS.outside + slack.one, np.inf, "the finger is outside")
    for name, places in zip(PLACES, (cube, cylinder), strict=True):
        off = np.abs(places[:, 2] - _STANDS[name])
        minor, severe = LIMITS.height_minor + slack.one, LIMITS.height_severe + slack.one
        found += graded(off, minor, severe, f"the {scene.shape(name)} does not stand on the table")
        past = np.abs(places[:, :2]).max(axis=1)
        minor, severe = scene.OBJECT_LIMIT + LIMITS.outside + slack.one, scene.TABLE_HALF + slack.one
        found += graded(past, minor, severe, f"the {scene.shape(name)} leaves the table")
    moved = drifted(running_median(rows[:, ZONE], slack.frames), asked, LIMITS.still + slack.smooth)
    return found if moved is None else [*found, Finding(PHYSICS, moved, 1, "the zone moves")]


def _turn(rows: Array) -> Array:
    """(T, 1) m that the cube's corner has travelled by its turning."""
    return np.asarray(_CORNER * np.unwrap(rows[:, PLACES["red_cube"].start + 3])[:, None])


TABLETOP = TabletopOracle()
TABLETOP_SWAPPED = TabletopOracle("swapped")
TABLETOP_ORANGE_CYAN = TabletopOracle("orange_cyan")
