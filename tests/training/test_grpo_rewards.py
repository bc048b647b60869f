"""Rewards score what they say, and what is no score is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roboalign_core.benchmark.oracles import READ, Tolerance
from roboalign_core.errors import MissingExtraError, RoboAlignError
from roboalign_core.evaluation.metrics import psnr, ssim
from roboalign_core.evaluation.probe import ProbeConfig, ProbeNetwork, StateProbe
from roboalign_core.evaluation.probed import ProbedOracle
from roboalign_core.rubric import KEYS, Scores
from roboalign_core.training.grpo.build import World
from roboalign_core.training.grpo.config import GrpoStageConfig
from roboalign_core.training.grpo.judges import OracleReward, PositionReward, StudentReward
from roboalign_core.training.grpo.rewards import FRAME_REWARDS, Mixture, perceptual_reward

N, T = 5, 3
RANDOM = np.random.default_rng(0)
IMAGINED, RECORDED = RANDOM.integers(0, 256, (2, N, T + 1, 32, 32, 3), dtype=np.uint8)
INSTRUCTIONS = ["push left", "push right", "reach", "push left", "reach"]
ACTIONS = RANDOM.uniform(-1, 1, (N, T, 2)).astype(np.float32)
GIVEN = (IMAGINED, RECORDED, INSTRUCTIONS, ACTIONS)


class Fixed:
    """A reward that gives what it is told to."""

    def __init__(self, **values: Any) -> None:
        self.names = tuple(values)
        self.values: Mapping[str, Any] = values

    def __call__(self, imagined: Any, recorded: Any, instructions: Any, actions: Any) -> Mapping[str, Any]:
        return self.values


@pytest.mark.parametrize("name", ["mae", "mse", "psnr", "ssim"])
def test_frame_rewards_are_of_each_imagined_frame(name: str) -> None:
    first, second = (x[:, 1:].astype(np.float64) / 255 for x in (IMAGINED, RECORDED))
    expected = {
        "mae": -np.abs(first - second).mean((2, 3, 4)),
        "mse": -np.square(first - second).mean((2, 3, 4)),
        "psnr": psnr(first, second),
        "ssim": ssim(first, second),
    }[name]
    assert expected.shape == (N, T)
    np.testing.assert_allclose(FRAME_REWARDS[name]()(*GIVEN)[name], expected, rtol=1e-5)


def test_many_videos_are_compared_in_parts() -> None:
    many = np.repeat(IMAGINED, 8, axis=0), np.repeat(RECORDED, 8, axis=0)
    found = FRAME_REWARDS["mae"]()(*many, INSTRUCTIONS * 8, np.repeat(ACTIONS, 8, axis=0))["mae"]
    np.testing.assert_allclose(found, np.repeat(FRAME_REWARDS["mae"]()(*GIVEN)["mae"], 8, axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", ["mae", "mse", "psnr", "ssim"])
def test_what_really_happened_scores_best(name: str) -> None:
    reward = FRAME_REWARDS[name]()
    assert (reward(RECORDED, *GIVEN[1:])[name] > reward(*GIVEN)[name]).all()


def test_the_given_frame_does_not_count() -> None:
    changed = IMAGINED.copy()
    changed[:, 0] = 0
    for make in FRAME_REWARDS.values():
        reward = make()
        for name, values in reward(*GIVEN).items():
            np.testing.assert_array_equal(reward(changed, *GIVEN[1:])[name], values)


def test_the_perceptual_reward_carries_the_name_of_its_trunk() -> None:
    try:
        reward = perceptual_reward("cpu")
    except MissingExtraError as error:
        pytest.skip(str(error))
    assert reward.names[0] in ("lpips", "lpips_random")
    found = reward(*GIVEN)[reward.names[0]]
    assert found.shape == (N, T)
    assert (found < 0).all()
    assert np.abs(reward(RECORDED, *GIVEN[1:])[reward.names[0]]).max() < 1e-6


def test_a_mixture_weighs_dimensions() -> None:
    first, second = np.arange(N, dtype=float), np.ones(N)
    mixture = Mixture([Fixed(a=first), Fixed(b=second, c=first)], {"b": 2.0, "c": -1.0})
    scores = mixture(*GIVEN)
    assert mixture.names == tuple(scores) == ("a", "b", "c")
    np.testing.assert_allclose(mixture.total(scores), first + 2 * second - first)


def test_the_reward_of_a_future_is_the_mean_of_its_frames() -> None:
    frames, future = RANDOM.normal(size=(N, T)), RANDOM.normal(size=N)
    mixture = Mixture([Fixed(a=frames, b=future)], {"a": 3.0})
    np.testing.assert_allclose(mixture.total(mixture(*GIVEN)), 3 * frames.mean(1) + future)


@pytest.mark.parametrize(
    ("discount", "expected"),
    [
        (1.0, [[5.0, 4.5, 8.0], [1.0, 0.0, 0.0]]),
        (0.5, [[(6 + 0.5 + 2) / 1.75, (1 + 4) / 1.5, 8.0], [3 / 1.75, 0.0, 0.0]]),
        (0.0, [[6.0, 1.0, 8.0], [3.0, 0.0, 0.0]]),
        (None, [[5.0] * 3, [1.0] * 3]),
    ],
)
def test_a_frame_is_paid_for_what_follows_from_it(discount: float | None, expected: list[list[float]]) -> None:
    """The weighted mean of its own reward and of those after it; what is scored as a whole counts for every frame."""
    frames, future = np.array([[6.0, 1.0, 8.0], [3.0, 0.0, 0.0]]), np.array([10.0, 20.0])
    mixture = Mixture([Fixed(a=frames, b=future)], {"a": 2.0, "b": 0.1})
    found = mixture.returns({"a": frames, "b": future}, 3, discount)
    np.testing.assert_allclose(found, 2 * np.array(expected) + [[1.0], [2.0]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"a": np.full(N, np.nan)}, r"reward a: expected finite numbers, found nan for future 0 of 5"),
        ({"a": np.array([0, 1, np.inf, 0, 0])}, r"reward a: expected finite numbers, found inf for future 2 of 5"),
        ({"a": np.where(np.eye(N, T), np.inf, 0)[::-1]}, r"a: expected finite numbers, found inf for future 2 of 5"),
        ({"a": np.zeros((N, T + 1))}, r"a: expected shape \(5,\), one number a future, or \(5, 3\), .* found \(5, 4\)"),
        ({"a": np.zeros((N, 1))}, r"reward a: expected shape \(5,\), one number a future, .* found \(5, 1\)"),
        ({"a": 1.0}, r"reward a: expected shape \(5,\), one number a future, .* found \(\)"),
    ],
)
def test_what_is_no_score_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        Mixture([Fixed(**values)], {})(*GIVEN)


def test_rewards_give_the_names_that_they_announce() -> None:
    reward = Fixed(a=np.zeros(N))
    reward.values = {"b": np.zeros(N)}
    with pytest.raises(RoboAlignError, match="reward Fixed: expected the names a, found b"):
        Mixture([reward], {})(*GIVEN)


@pytest.mark.parametrize(
    ("rewards", "weights", "message"),
    [
        ([], {}, "expected one or more"),
        ([Fixed(a=1), Fixed(a=1)], {}, "each name once"),
        ([Fixed(a=1)], {"b": 1.0}, "expected names among a, found 'b'"),
        ([Fixed(a=1)], {"a": float("nan")}, "a: expected a finite number, found nan"),
    ],
)
def test_mixtures_that_make_no_sense_are_refused(rewards: list[Fixed], weights: dict[str, float], message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        Mixture(rewards, weights)


def test_the_student_sees_the_whole_video_and_its_instruction() -> None:
    class Student:
        def score(self, frames: Any, instructions: Sequence[str]) -> Scores:
            assert frames is IMAGINED
            good = [float(text == "push left") for text in instructions]
            return Scores(np.outer(good, [1.5, 2, 1, 1, 0.5, 2]).astype(np.float32))

    mixture = Mixture([StudentReward(Student())], {"contact_realism": 4.0})
    scores = mixture(*GIVEN)
    assert mixture.names == KEYS
    assert scores["instruction_following"].tolist() == [1.5, 0, 0, 1.5, 0]
    assert mixture.total(scores).tolist() == [9.5, 0, 0, 9.5, 0]


# -- what the probe reads -------------------------------------------------------------------------------------------


@pytest.fixture
def probe() -> StateProbe:
    config = ProbeConfig(columns=["x", "y", "z"], mean=[1.0, 2.0, 3.0], std=[1.0, 0.5, 2.0], height=32, width=32)
    config.channels = 8
    torch.manual_seed(0)
    return StateProbe(config, ProbeNetwork(config))


class Rules:
    """Scores where z ends and what was commanded; it is told what it was given."""

    source, columns, instructions = "toy", ("z", "x"), ()

    def __init__(self) -> None:
        self.given: list[tuple[Any, ...]] = []

    def as_seen(self, states: np.ndarray, frames: np.ndarray) -> np.ndarray:
        self.given.append((states, frames))
        return np.where(frames.any(axis=(1, 2, 3))[:, None], states, np.nan)

    def score_states(
        self, states: np.ndarray, actions: np.ndarray, instruction: str, tolerance: Tolerance
    ) -> np.ndarray:
        self.given[-1] += (actions, instruction, tolerance)
        return np.array([np.isnan(states).any(), states[0, 1] > 0, 1, 1, 0, 2], np.float32)


def test_an_oracle_scores_what_is_read_and_seen(probe: StateProbe) -> None:
    rules = Rules()
    imagined = IMAGINED.copy()
    imagined[0, -1] = 0
    reward = OracleReward(ProbedOracle(rules, probe))  # type: ignore[arg-type]
    found = Mixture([reward], {})(imagined, *GIVEN[1:])
    states = probe.read(imagined.reshape(-1, 32, 32, 3)).reshape(N, T + 1, 3)
    assert reward.names == tuple(f"oracle_{key}" for key in KEYS)
    assert found["oracle_instruction_following"].tolist() == [1] + [0] * (N - 1)
    np.testing.assert_array_equal(found["oracle_manipulation_success"], states[:, 0, 0] > 0)
    for number, (read, frames, actions, instruction, tolerance) in enumerate(rules.given):
        np.testing.assert_allclose(read, states[number][:, [2, 0]], rtol=1e-5)
        np.testing.assert_array_equal(frames, imagined[number])
        np.testing.assert_array_equal(actions, ACTIONS[number])
        assert (instruction, tolerance) == (INSTRUCTIONS[number], READ)


def test_an_oracle_that_does_not_fit_is_refused(probe: StateProbe) -> None:
    rules = Rules()
    rules.columns = ("x", "w")
    with pytest.raises(RoboAlignError, match="oracle of 'toy': expected a probe that reads 'w', found x, y, z"):
        ProbedOracle(rules, probe)  # type: ignore[arg-type]


def test_an_oracle_is_for_recordings_of_one_known_source() -> None:
    for sources, message in ((["toy"], "oracle: expected one for episodes of 'toy'"), (["a", "b"], "of one source")):
        world = World(GrpoStageConfig(rewards=["oracle"]), Path("none"), "cpu", sources)
        with pytest.raises(RoboAlignError, match=message):
            world.oracle()


def test_positions_are_held_against_the_recorded_ones(probe: StateProbe) -> None:
    reward = PositionReward(probe)
    assert reward(RECORDED, *GIVEN[1:])["positions"].tolist() == [[0.0] * T] * N
    read = [probe.read(x[:, 1:].reshape(-1, 32, 32, 3)).reshape(N, T, 3) for x in (IMAGINED, RECORDED)]
    np.testing.assert_allclose(reward(*GIVEN)["positions"], -np.abs(read[0] - read[1]).mean(2), rtol=1e-5)


def test_what_really_happened_is_read_once_for_all_futures_of_a_window(
    probe: StateProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = RECORDED.repeat(4, axis=0)
    futures = RANDOM.integers(0, 256, groups.shape, dtype=np.uint8)
    read, seen = StateProbe.read, []

    def counted(self: StateProbe, frames: Any) -> Any:
        seen.append(len(frames))
        return read(self, frames)

    monkeypatch.setattr(StateProbe, "read", counted)
    found = PositionReward(probe)(futures, groups, INSTRUCTIONS * 4, ACTIONS.repeat(4, axis=0))["positions"]
    assert sum(seen) == (4 * N + N) * T
    for row in (0, 5, 4 * N - 1):
        each = slice(row, row + 1)
        alone = PositionReward(probe)(futures[each], groups[each], INSTRUCTIONS[:1], ACTIONS[:1])["positions"]
        np.testing.assert_allclose(found[each], alone, rtol=0.01)
