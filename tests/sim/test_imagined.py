"""The imagined environment: gymnasium's API, rewards from the scorer alone, bad input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from roboalign_core.bundled import bundled_models
from roboalign_core.episodes import Episode, EpisodeStore, StoreSpec
from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import Scores
from roboalign_core.world_model import WorldModel
from roboalign_sim import make_env
from roboalign_sim.imagined import ImaginedEnv
from roboalign_sim.tasks import INSTRUCTIONS

pytestmark = pytest.mark.skipif("tabletop" not in bundled_models(), reason="no model is bundled: make train-tabletop")


class LongerIsBetter:
    """The task counts as solved by the time a video has ``enough`` frames."""

    def __init__(self, enough: int) -> None:
        self.enough = enough
        self.seen: list[tuple[tuple[int, ...], str]] = []

    def score(self, frames: Sequence[np.ndarray], instructions: Sequence[str]) -> Scores:
        self.seen += [(video.shape, text) for video, text in zip(frames, instructions, strict=True)]
        share = min(len(frames[0]) / self.enough, 1.0)
        return Scores(np.array([[3 * share, 2 * share, 1, 1, 1, 2]], np.float32))


@pytest.fixture(scope="module")
def world_model() -> WorldModel:
    return WorldModel.from_pretrained("tabletop")


@pytest.fixture(scope="module")
def start() -> tuple[np.ndarray, str]:
    env = make_env("tabletop")
    frame, info = env.reset(seed=1)
    env.close()
    return frame, info["instruction"]


def test_it_has_the_spaces_and_the_api_of_the_real_one(world_model: WorldModel, start: tuple[np.ndarray, str]) -> None:
    real = make_env("tabletop")
    env = ImaginedEnv(world_model, LongerIsBetter(5), [start])
    assert env.observation_space == real.observation_space
    assert env.action_space == real.action_space
    check_env(env, skip_render_check=True)
    real.close()


def test_rewards_are_what_the_scores_gain(world_model: WorldModel, start: tuple[np.ndarray, str]) -> None:
    scorer = LongerIsBetter(5)
    env = ImaginedEnv(world_model, scorer, [start])
    frame, info = env.reset(seed=0)
    np.testing.assert_array_equal(frame, start[0])
    assert info["instruction"] == start[1]
    assert info["progress"] == pytest.approx(2 / 5)  # a video of one frame counts as two alike
    total, done, steps = 0.0, False, 0
    while not done:
        frame, reward, done, truncated, info = env.step(np.array([0.5, 0, 0], np.float32))
        assert frame.shape == start[0].shape
        assert not truncated
        total, steps = total + reward, steps + 1
    assert steps == 3  # 4 frames of 5 are 0.8, beyond 0.75
    assert total == pytest.approx(4 / 5 - 2 / 5)
    assert info["success"]
    assert scorer.seen[-1] == ((4, 64, 64, 3), start[1])


def test_it_imagines_what_the_session_imagines(world_model: WorldModel, start: tuple[np.ndarray, str]) -> None:
    env = ImaginedEnv(world_model, LongerIsBetter(99), [start], max_steps=2)
    env.reset(seed=0)
    session = world_model.session("frame")
    session.reset(start[0])
    for last in (False, True):
        action = np.array([0.3, -0.8, 0.1], np.float32)
        frame, _, _, truncated, _ = env.step(action)
        np.testing.assert_array_equal(frame, session.step(action))
        np.testing.assert_array_equal(frame, env.render())
        assert truncated is last


def test_starts_come_from_a_store_or_from_the_options(
    world_model: WorldModel, start: tuple[np.ndarray, str], tmp_path: Path
) -> None:
    frames = np.stack([start[0], np.zeros_like(start[0])])
    episode = Episode(frames, np.zeros((2, 3), np.float32), INSTRUCTIONS[2], None, 5.0, "tabletop", "front")
    store = EpisodeStore.create(tmp_path / "store", StoreSpec.like(episode, lossless=True))
    store.append([episode])
    env = ImaginedEnv(world_model, LongerIsBetter(5), store)
    frame, info = env.reset(seed=0)
    np.testing.assert_array_equal(frame, frames[0])
    assert info["instruction"] == INSTRUCTIONS[2]
    big = np.repeat(np.repeat(frames[0], 2, axis=0), 2, axis=1)
    frame, info = env.reset(options={"frame": big, "instruction": "dance"})
    assert frame.shape == (64, 64, 3)
    assert info["instruction"] == "dance"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 1}, 'expected "frame" and "instruction" only'),
        ({"instruction": ""}, "instruction: expected text, found ''"),
        ({"frame": np.zeros((64, 64), np.uint8)}, "frame"),
    ],
)
def test_impossible_resets_are_refused(
    world_model: WorldModel, start: tuple[np.ndarray, str], options: dict[str, object], message: str
) -> None:
    env = ImaginedEnv(world_model, LongerIsBetter(5), [start])
    with pytest.raises(RoboAlignError, match="expected a reset before the first step"):
        env.step(np.zeros(3, np.float32))
    with pytest.raises(RoboAlignError, match=message):
        env.reset(options=options)


def test_impossible_settings_and_actions_are_refused(world_model: WorldModel, start: tuple[np.ndarray, str]) -> None:
    with pytest.raises(RoboAlignError, match="expected at least one start"):
        ImaginedEnv(world_model, LongerIsBetter(5), [])
    with pytest.raises(RoboAlignError, match=r"max_steps >= 1 and success in \(0, 1\]"):
        ImaginedEnv(world_model, LongerIsBetter(5), [start], success=0.0)
    env = ImaginedEnv(world_model, LongerIsBetter(5), [start])
    env.reset(seed=0)
    for action in (np.full(3, np.nan), np.zeros(2), np.full(3, 2.0)):
        with pytest.raises(RoboAlignError, match="action: expected"):
            env.step(action)


def with_range(model: WorldModel, low: list[float], high: list[float]) -> WorldModel:
    return WorldModel(replace(model.config, action_low=low, action_high=high), model.tokenizer, model.dynamics)


@pytest.mark.parametrize(
    ("component", "low", "high"),
    [(1, -3.2, 3.2), (0, -1.0, 1.5), (2, -1.01, 1.0), (2, 0.0, 2.5), (1, 2.0, 4.0)],
    ids=["radians", "too far up", "too far down", "from nothing", "constant beyond"],
)
def test_models_of_actions_beyond_one_are_refused(
    world_model: WorldModel, start: tuple[np.ndarray, str], component: int, low: float, high: float
) -> None:
    lows, highs = [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]
    lows[component], highs[component] = low, high
    message = rf"world model: expected actions in \[-1, 1\], found component {component} from {low:g} to {high:g}"
    with pytest.raises(RoboAlignError, match=message):
        ImaginedEnv(with_range(world_model, lows, highs), LongerIsBetter(5), [start])


def test_models_of_some_actions_up_to_one_are_taken(world_model: WorldModel, start: tuple[np.ndarray, str]) -> None:
    """Ranges leave out the rarest actions, and are ±1 around a component that never changed."""
    narrow = with_range(world_model, [-0.97, -1.0, 0.0], [0.95, 1.0000001, 2.0])  # the last one was always 1
    env = ImaginedEnv(narrow, LongerIsBetter(5), [start])
    env.reset(seed=0)
    env.step(np.array([1.0, -1.0, 1.0], np.float32))


@pytest.mark.parametrize("name", bundled_models())
def test_every_bundled_model_is_an_environment(name: str, start: tuple[np.ndarray, str]) -> None:
    env = ImaginedEnv(WorldModel.from_pretrained(name), LongerIsBetter(5), [start])
    frame, _ = env.reset(seed=0)
    assert env.step(np.zeros(env.action_space.shape, np.float32))[0].shape == frame.shape
