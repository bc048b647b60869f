"""What a judge is shown."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from roboalign_core.judge.frames import data_url, sample_indices, shown_frames
from roboalign_core.judge.prompt import Prompt, PromptConfig, build_prompt
from roboalign_core.judge.protocol import Video
from roboalign_core.rubric import DIMENSIONS


def video(length: int = 9, size: tuple[int, int] = (20, 30)) -> Video:
    rng = np.random.default_rng(0)
    return Video(rng.integers(256, size=(length, *size, 3), dtype=np.uint8), 'put the "cup" down')


@given(st.integers(2, 300), st.integers(2, 64))
def test_frames_are_spaced_evenly_from_the_first_to_the_last(length: int, count: int) -> None:
    indices = sample_indices(length, count)
    assert len(indices) == min(length, count)
    assert (indices[0], indices[-1]) == (0, length - 1)
    steps = np.diff(indices)
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize(
    ("size", "side", "expected"), [((20, 30), 40, (40, 60)), ((60, 30), 15, (30, 15)), ((20, 30), 0, (20, 30))]
)
def test_the_shorter_side_decides(size: tuple[int, int], side: int, expected: tuple[int, int]) -> None:
    assert shown_frames(video(size=size).frames, 4, side).shape == (4, *expected, 3)


def test_frames_of_that_size_stay_as_they_are() -> None:
    frames = video().frames
    np.testing.assert_array_equal(shown_frames(frames, 3, 20), frames[[0, 4, 8]])


def test_the_prompt_says_the_rubric_the_instruction_and_what_is_shown() -> None:
    prompt = build_prompt(video(), PromptConfig(frames=4, side=0))
    texts = [part for part in prompt.parts if isinstance(part, str)]
    assert len(prompt.images) == 4
    assert [isinstance(part, str) for part in prompt.parts] == [True, False] * 4 + [True]
    for dimension in DIMENSIONS:
        line = next(line for line in texts[0].splitlines() if line.startswith(f"- {dimension.key}: "))
        assert all(f"{score} = {meaning}" in line for score, meaning in enumerate(dimension.steps))
        assert f'"{dimension.key}": <0 to {dimension.highest}>' in texts[-1]
    assert r'Instruction to the robot: "put the \"cup\" down"' in texts[0]
    assert "3 frames of the video in order (evenly spaced, out of 8)" in texts[0]
    assert texts[0].endswith("Initial frame:\n")
    assert [text.strip() for text in texts[1:-1]] == [f"Frame {n} of 3:" for n in (1, 2, 3)]
    assert '{"reasoning": ' in texts[-1]


def test_all_frames_shown_are_not_called_a_choice() -> None:
    opening = build_prompt(video(4), PromptConfig(frames=9, side=0)).parts[0]
    assert "3 frames of the video in order." in str(opening)


def test_the_digest_changes_with_whatever_is_shown() -> None:
    shown, first = PromptConfig(frames=4, side=0), video()
    changed = first.frames.copy()
    changed[0, 0, 0, 0] ^= 1
    digests = {
        build_prompt(each, config).digest()
        for each, config in (
            (first, shown),
            (Video(first.frames, "another"), shown),
            (Video(changed, first.instruction), shown),
            (first, replace(shown, frames=5)),
            (first, replace(shown, side=16)),
        )
    }
    assert len(digests) == 5
    assert build_prompt(video(), shown).digest() in digests
    image = first.frames[0]
    assert Prompt((image,)).digest() != Prompt((np.ascontiguousarray(image.transpose(1, 0, 2)),)).digest()


@pytest.mark.parametrize(("image_format", "worst"), [("png", 0), ("jpeg", 90)])
def test_images_survive_the_request(image_format: str, worst: int) -> None:
    frame = video().frames[0] // 4 + 90
    head, _, content = data_url(frame, image_format).partition(",")
    assert head == f"data:image/{image_format};base64"
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert image.format == image_format.upper()
    assert np.abs(np.asarray(image).astype(int) - frame).max() <= worst
