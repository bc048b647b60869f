"""What all degradations have in common, and how several add up."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roboalign_core.benchmark import Applied
from roboalign_core.benchmark.degradations import DEGRADATIONS, MEANING, Degradation, degrade, kept, reason_not
from roboalign_core.benchmark.degradations.degradation import STRENGTHS
from roboalign_core.episodes import Episode
from roboalign_core.episodes.boxes import BOXES
from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import HIGHEST, KEYS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "benchmark.md"
NAMES = sorted(DEGRADATIONS)
Push = Callable[..., Episode]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def same(one: Episode, other: Episode) -> bool:
    plain = [part.name for part in fields(Episode) if part.name not in ("frames", "actions", "extras")]
    arrays = [(one.frames, other.frames), (one.actions, other.actions)]
    arrays += [(rows, other.extras[name]) for name, rows in one.extras.items()]
    return all(getattr(one, name) == getattr(other, name) for name in plain) and all(
        mine.shape == theirs.shape and bool((mine == theirs).all()) for mine, theirs in arrays
    )


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_changes_nothing_and_more_strength_takes_more(name: str, push: Push, pool: Any) -> None:
    degradation, episode = DEGRADATIONS[name], push(1)
    assert degradation.name == name
    assert degradation.reason_not(episode) is None
    assert same(degradation.apply(episode, 0.0, rng(), pool), episode)
    losses = np.stack([degradation.losses(strength) for strength in np.linspace(0, 1, 41)])
    assert losses.dtype == np.float32
    assert not losses[0].any()
    assert (np.diff(losses, axis=0) >= 0).all()
    assert (losses <= HIGHEST).all()
    assert losses[-1].sum() >= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_and_the_recording_stays_as_it_is(name: str, push: Push, pool: Any) -> None:
    episode, kept_copy = push(2), push(2)
    damaged = DEGRADATIONS[name].apply(episode, 0.8, rng(5), pool)
    assert same(damaged, DEGRADATIONS[name].apply(episode, 0.8, rng(5), pool))
    assert not same(damaged, episode)
    assert same(episode, kept_copy)
    if name != "truncation":
        assert damaged.frames.shape == episode.frames.shape
    if name != "time_reversal":
        np.testing.assert_array_equal(damaged.frames[0], episode.frames[0])


@pytest.mark.parametrize("name", NAMES)
def test_small_strengths_and_short_videos_do_not_break_it(name: str, push: Push, pool: Any) -> None:
    degradation = DEGRADATIONS[name]
    for length in (4, 5, 9):
        episode = push(3, length=length)
        if degradation.reason_not(episode) is None:
            for strength in (0.001, 0.3, 1.0):
                degradation.apply(episode, strength, rng(1), pool)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_strengths_are_refused(name: str, push: Push, pool: Any) -> None:
    for strength in (-0.1, 1.5, float("nan")):
        with pytest.raises(RoboAlignError, match=f"degradation {name}: strength: expected 0 to 1"):
            DEGRADATIONS[name].apply(push(0), strength, rng(), pool)


def test_reasons_against_an_episode(push: Push, pool: Any) -> None:
    episode = push(0)
    still = replace(episode, frames=np.repeat(episode.frames[:1], len(episode), 0))
    bare = replace(episode, extras={})
    at_rest = replace(episode, extras={BOXES: np.repeat(episode.extras[BOXES][:1], len(episode), 0)})
    hidden = episode.extras[BOXES].copy()
    hidden[:, :4] = (0, 0, 1, 1)
    for name, wrong, reason in (
        ("freeze", still, "all its frames are the same"),
        ("frame_shuffle", push(0, length=3), "expected at least 4 frames, found 3"),
        ("instruction_swap", replace(episode, instruction=""), "it has no instruction"),
        ("object_vanishing", bare, "it has no boxes"),
        ("penetration", replace(episode, extras={BOXES: episode.extras[BOXES][:, :4]}), "found 4 columns"),
        ("gravity_break", at_rest, "no object moves"),
        ("contact_gap", replace(episode, extras={BOXES: hidden}), "never seen apart from the robot"),
    ):
        assert reason in str(DEGRADATIONS[name].reason_not(wrong))
        with pytest.raises(RoboAlignError, match=f"degradation {name}: .*{re.escape(reason)}"):
            DEGRADATIONS[name].apply(wrong, 0.5, rng(), pool)


def test_what_is_painted_on_the_table_does_not_move(push: Push) -> None:
    """The robot hides one side of it after the other, so that the middle of its box wanders."""
    boxes = push(0).extras[BOXES].copy()
    boxes[:, 4:12] = boxes[:1, 4:12]
    boxes[:, 12:] = (0.4, 0.4, 0.6, 0.6)
    boxes[:5, 12], boxes[-5:, 14] = 0.46, 0.54
    assert DEGRADATIONS["object_vanishing"].reason_not(push(0, extras={BOXES: boxes})) == "no object moves"


def test_damage_adds_up(push: Push, pool: Any) -> None:
    applied = [Applied("flicker", 0.25, 3), Applied("truncation", 0.5, 0)]
    episode, scores = degrade(push(0), HIGHEST, applied, pool)
    flickering = DEGRADATIONS["flicker"].apply(push(0), 0.25, rng(3), pool)
    np.testing.assert_array_equal(episode.frames, flickering.frames[: len(episode)])
    assert len(episode) == 13
    np.testing.assert_allclose(scores, [2, 0.5, 1, 0.25, 1, 2])
    assert scores.dtype == np.float32
    nothing, perfect = degrade(push(0), HIGHEST, [], pool)
    assert same(nothing, push(0))
    np.testing.assert_array_equal(perfect, HIGHEST)


def test_losses_take_their_share_of_what_is_there() -> None:
    one, other = DEGRADATIONS["blur"].losses(0.5), DEGRADATIONS["penetration"].losses(0.75)
    np.testing.assert_allclose(kept(HIGHEST, one), HIGHEST - one)
    np.testing.assert_allclose(kept(kept(HIGHEST, one), other), kept(kept(HIGHEST, other), one))
    half = kept(HIGHEST / 2, other)
    np.testing.assert_allclose(half, (HIGHEST - other) / 2)
    assert (kept(np.stack([half, HIGHEST]), one) >= 0).all()


def test_one_damage_after_another_works_on_what_is_left(push: Push, pool: Any) -> None:
    """After an object is gone there is none that could rise; what has risen can still be stopped."""
    gone, risen = Applied("object_vanishing", 1.0, 0), Applied("gravity_break", 0.5, 0)
    stopped, short = Applied("robot_without_effect", 1.0, 0), Applied("truncation", 1.0, 0)
    for applied, reason in (
        ((gone, risen), "gravity_break: no object moves"),
        ((short, stopped), "robot_without_effect: expected at least 4 frames, found 2"),
        ((Applied("freeze", 1.0, 0), Applied("frame_shuffle", 0.5, 0)), "frame_shuffle: all its frames are the same"),
    ):
        assert reason_not(push(0), applied, pool) == reason
        with pytest.raises(RoboAlignError, match=reason.split(": ")[1]):
            degrade(push(0), HIGHEST, applied, pool)
    for fine in ((), (risen,), (risen, stopped), (stopped, short)):
        assert reason_not(push(0), fine, pool) is None
        degrade(push(0), HIGHEST, fine, pool)


def test_words_alone(push: Push, pool: Any) -> None:
    episode = push(0)
    for name in NAMES:
        assert (DEGRADATIONS[name].apply(episode, 1.0, rng(), pool).frames is episode.frames) == (name in MEANING)


def test_unknown_names_and_impossible_scores_are_refused(push: Push, pool: Any) -> None:
    with pytest.raises(RoboAlignError, match=r"degradation: expected one of frame_shuffle, .*, found 'fog'"):
        degrade(push(0), HIGHEST, [Applied("fog", 0.5, 0)], pool)
    with pytest.raises(RoboAlignError, match="found 'fog'"):
        reason_not(push(0), [Applied("fog", 0.5, 0)], pool)
    with pytest.raises(RoboAlignError, match="manipulation_success of video 0: expected 0 to 2, found 3"):
        degrade(push(0), [3, 3, 1, 1, 1, 2], [], pool)


@pytest.mark.parametrize(
    ("name", "before", "strength", "after"),
    [
        ("flicker", True, 1.0, True),
        ("truncation", True, 0.1, None),
        ("truncation", True, 0.5, False),
        ("truncation", False, 0.5, False),
        ("truncation", None, 0.5, None),
        ("truncation", None, 1.0, False),
        ("instruction_swap", True, 0.2, False),
    ],
)
def test_what_is_known_of_the_success(
    name: str, before: bool | None, strength: float, after: bool | None, push: Push, pool: Any
) -> None:
    assert DEGRADATIONS[name].apply(push(0, success=before), strength, rng(), pool).success is after


def test_a_table_of_losses_that_makes_no_sense_is_refused() -> None:
    for takes in ({"beauty": (0, 0, 0, 0, 1)}, {"contact_realism": (0, 1, 0, 0, 1)}, {"contact_realism": (0, 0, 1)}):
        with pytest.raises(RoboAlignError, match="degradation fog: expected 5 rising losses"):
            Degradation("fog", "appearance", "", lambda episode, *_: episode, takes)
    with pytest.raises(RoboAlignError, match="found contact_realism"):
        Degradation("fog", "appearance", "", lambda episode, *_: episode, {"contact_realism": (0, 0, 0, 0, 1.5)})


def test_the_document_says_what_the_code_takes() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    split = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
    found = {name: cells[2:] for name, cells in split.items() if len(cells) == 2 + len(KEYS)}
    assert set(found) == set(DEGRADATIONS)
    for name, cells in found.items():
        for key, cell in zip(KEYS, cells, strict=True):
            expected = DEGRADATIONS[name].takes.get(key)
            assert cell == ("" if expected is None else " ".join(f"{loss:g}" for loss in expected)), (name, key)
    assert len(STRENGTHS) == 5
