"""Every threshold of the state oracles, with its reason. Metres, radians, and frames at 5 Hz.

Each is what physics allows in the simulator. Where states are read from frames, the readings' noise comes on top:
:class:`Slack`. "Measured" means on 240 recorded episodes of the table-top's expert, noisy, contact and random policies,
or on 60 of Lift's expert and random ones; other episodes then confirmed it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from roboalign_core.benchmark.oracles import Tolerance

HORIZON = 5  # frames for which commands are followed: long enough to tell 3 cm a frame from nothing amid noise
SAME_WAY = 0.5  # cosine: two steps too fast in one direction are a flight, in different ones two jumps
TWICE = 2.0  # a flight faster than this many times the limit is severe
DONE_SHARE = 0.4  # of the way to an object after which a reach counts as begun
TOWARDS = 0.03  # m: the finger came this near, or this much nearer and halved its distance: it went there

_DEVIATIONS = 4.0  # a point in the plane is further than 4 standard deviations off once in 3,000 readings
_LIKELY = 2.5  # along one axis, once in 160: for marks that are given, not taken
_MEDIAN_FRAMES = 5
_MEDIAN_SPREAD = 0.67  # the standard deviation of the median of three, as at the ends, in that of one reading


@dataclass(frozen=True, slots=True)
class Slack:
    """What comes on top of the limits where positions are noisy; all zero where they are exact.

    Attributes:
        one: m, for one reading against a fixed place.
        two: m, for two readings against each other.
        smooth: m, for two readings that are medians over ``frames``.
        likely: m, likewise, where being wrong now and then costs little.
        frames: over which the median is taken of what hardly moves; 1 where positions are exact.
    """

    one: float
    two: float
    smooth: float
    likely: float
    frames: int

    @classmethod
    def of(cls, tolerance: Tolerance) -> Slack:
        """The slack for a tolerance."""
        one = _DEVIATIONS * tolerance.noise
        two = math.sqrt(2.0) * one
        smooth = _MEDIAN_SPREAD * two
        return cls(one, two, smooth, smooth * _LIKELY / _DEVIATIONS, _MEDIAN_FRAMES if tolerance.noise else 1)


@dataclass(frozen=True, slots=True)
class TabletopLimits:
    """The table-top: its finger moves at most 3 cm a frame along each axis, and nothing slides on."""

    finger_step: float = 0.055  # 3 cm along three axes at once are 5.2 cm; measured 5.2
    object_step: float = 0.045  # pushed by the finger along both axes at once, 4.2 cm; measured 4.0
    zone_step: float = 0.020  # the zone does not move at all; less than this in a frame is no jump to the eye
    moved: float = 0.010  # a fifth of a push; what moved less counts as left where it was
    still: float = 0.003  # a touch that slips off moves an object less; measured without a touch: 0
    contact: float = 0.004  # between surfaces that touch; measured while an object moves: at most 0
    near: float = 0.030  # a finger's width: further off nobody would say that the finger did it
    depth: float = 0.008  # surfaces overlap on a straight line between frames, at most 5 mm measured
    command: float = 0.005  # off where the commands lead, after HORIZON frames; measured 0.3 mm after one
    height_minor: float = 0.005  # above or below where it stands; measured 0
    height_severe: float = 0.020  # it floats, seen from any camera
    outside: float = 0.004  # past the ends of the gantry or of an object's range, soft by 2 mm
    overlap_minor: float = 0.004  # of the two objects; measured 0.3 mm
    overlap_severe: float = 0.015  # half of one is inside the other
    finger_seen: float = 0.12  # of its pixels in the first frame; measured on real frames, high above or far off: 0.21
    object_seen: float = 0.35  # behind the finger: 0.60
    zone_seen: float = 0.12  # under an object: 0.23


@dataclass(frozen=True, slots=True)
class LiftLimits:
    """robosuite's Lift: a Panda's hand and one cube, which falls and slides."""

    hand_step: float = 0.200  # measured 16.6 cm, where the stretched arm slips through a singular pose
    cube_step: float = 0.120  # across or up, with the hand; measured 5 cm
    cube_fall: float = 0.250  # down: 19.6 cm of free fall in a frame on top of the hand's own speed
    still: float = 0.010  # a knocked cube slides on by v² / 2 mu g, 5 mm at 0.3 m/s
    moved: float = 0.010  # a quarter of a lift
    contact: float = 0.090  # hand's middle to cube's middle: half an opening, a finger, half a cube's diagonal
    near: float = 0.150  # a hand's width further
    held: float = 0.030  # likewise, of a cube between the fingers; measured 1.2 cm at most
    closed_around: float = 0.010  # between opening and cube when it is held; measured 0.2 cm once closed
    squeeze: float = 0.030  # opening of fingers that are closed through a 4 cm cube; measured 4.0 around it
    inside: float = 0.005  # how deep in the cube the hand's middle then is
    command: float = 0.110  # off where the commands lead, after HORIZON frames; a bent arm is slow, measured 9.5 cm
    lead: tuple[float, float] = (0.038, 0.011)  # m a frame that an action of 1, and the one before it, move the hand
    free_height: float = 0.830  # below it the fingers touch the table
    free_reach: tuple[float, float] = (0.35, 0.75)  # m from the base, the former across: where the arm is not bent
    base: tuple[float, float, float] = (-0.56, 0.0, 1.245)  # of the arm's shoulder
    table: float = 0.800  # height of its top
    table_half: float = 0.400
    rest: float = 0.820  # height of a standing cube's middle, give or take 1 mm, as measured
    lifted: float = 0.840  # robosuite's definition of success
    cube_half: float = 0.021
    floating: float = 0.015  # above where it stands, held by nothing; a reset lets it fall from 1 cm
    fallen: float = 0.020  # what a falling thing loses in a frame at the least, from its second frame on
    sunk_minor: float = 0.004  # below where it stands
    sunk_severe: float = 0.015
    hand_low: float = 0.790  # the hand's middle does not enter the table; measured 80.4 cm
