"""What a planner asks of the world model, and planning in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import CEMConfig, CEMPlanner, ImaginationServer, imagination
from roboalign_core.planning.futures import Futures
from roboalign_core.reward.progress import ProgressConfig, ProgressHead, ProgressModel
from roboalign_core.world_model import DualBranchTokenizer, WorldModel
from roboalign_core.world_model.decoding import Decoder, KeyValueCache
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.rollout import Imagination

TASK = "push the red cube left"


@pytest.fixture
def server(world_model: WorldModel, objective: ProgressModel, frame: np.ndarray) -> ImaginationServer:
    server = ImaginationServer(world_model, objective)
    server.reset(frame, TASK)
    return server


def test_shapes(server: ImaginationServer, candidates: np.ndarray) -> None:
    scores = server.score(candidates)
    assert scores.shape == (6,)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert scores.std() > 0, "candidates must matter"
    frames = server.imagine(candidates[0])
    assert frames.shape == (4, 32, 32, 3)
    assert frames.dtype == np.uint8


@pytest.mark.parametrize("horizon", [1, 2, 3, 5])
def test_any_horizon_up_to_the_model_s(server: ImaginationServer, horizon: int) -> None:
    assert server.score(np.zeros((2, horizon, 2), np.float32)).shape == (2,)


def test_candidates_are_scored_each_for_itself(server: ImaginationServer, candidates: np.ndarray) -> None:
    together = server.score(candidates)
    np.testing.assert_allclose(server.score(candidates[::-1]), together[::-1], rtol=1e-5, atol=1e-5)
    for index in range(len(candidates)):
        np.testing.assert_allclose(
            server.score(candidates[index : index + 1])[0], together[index], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
    ],
    ids=["GPU", "Python", "CPU"],
)
def test_short_memory_means_smaller_batches_from_then_on(
    server: ImaginationServer, candidates: np.ndarray, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    expected = server.score(candidates)
    tried: list[int] = []

    def limited(world_model: WorldModel, features: Any, start: Imagination, bins: torch.Tensor) -> Futures:
        tried.append(len(bins))
        if len(bins) > 2:
            raise error
        return Futures(world_model, features, start, bins)

    monkeypatch.setattr(imagination, "Futures", limited)
    for _ in range(2):
        np.testing.assert_allclose(server.score(candidates), expected, atol=1e-5)
    assert tried == [6, 3, 2, 2, 2, 2, 2, 2]


def test_other_errors_and_memory_for_not_even_one_are_passed_on(
    server: ImaginationServer, candidates: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (RuntimeError("a bug"), torch.OutOfMemoryError("CUDA out of memory")):
        monkeypatch.setattr(imagination, "Futures", Mock(side_effect=error))
        with pytest.raises(type(error), match=str(error)):
            server.score(candidates)


def test_a_score_is_the_objective_on_the_imagined_frames(
    server: ImaginationServer,
    world_model: WorldModel,
    objective: ProgressModel,
    frame: np.ndarray,
    candidates: np.ndarray,
) -> None:
    """Half the progress at the end, half its mean over all four frames, measured from the first frame."""
    context = world_model.encode(torch.from_numpy(frame)[None])
    bins = world_model.action_bins(candidates)
    imagination = Imagination(world_model, context, len(candidates), "frame")
    expected = []
    with torch.no_grad():
        for step in range(4):
            imagination.step(bins[:, step])
            expected.append(imagination.expected)
    progress = objective.score(context.features.latent, torch.stack(expected, dim=1), TASK)
    assert progress.shape == (6, 4)
    np.testing.assert_allclose(server.score(candidates), (progress[:, 3] + progress.mean(1)) / 2, rtol=1e-5, atol=1e-5)
    rollout = world_model.rollout(frame, candidates, mode="plain", order="frame")
    difference = server.imagine(candidates[1]).astype(int) - rollout.frames[1]
    assert np.abs(difference).max() <= 1  # a batch of one adds up in another order


def test_a_frame_is_run_through_the_transformer_once(
    server: ImaginationServer, candidates: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often candidates come; and who scores one alone sees it for the price of its last frame."""
    passes: list[tuple[int, ...]] = []
    hidden = Decoder.hidden

    def watch(decoder: Decoder, ids: torch.Tensor, cache: KeyValueCache) -> torch.Tensor:
        passes.append(tuple(ids.shape))
        return hidden(decoder, ids, cache)

    monkeypatch.setattr(Decoder, "hidden", watch)
    start, steps = [(1, 20)], [2, 6, 6, 6]  # 16 + 4 tokens; two of an action, four of the frame before
    for _ in range(2):
        server.score(candidates)
        assert passes == [*start, *((6, tokens) for tokens in steps)]
        passes.clear()
        start = []
    server.score(candidates[:1])
    seen = server.imagine(candidates[0])
    assert passes == [(1, tokens) for tokens in steps]
    other = server.imagine(candidates[1])
    assert len(passes) == 8
    assert (other != seen).any()
    server.observe(np.zeros_like(seen[0]))
    assert (server.imagine(candidates[1]) != other).any(), "another frame, another future"


def test_a_future_that_broke_off_is_not_gone_on_from(
    server: ImaginationServer, candidates: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = server.imagine(candidates[0])
    server.score(candidates[1:2])
    draw, calls = Imagination.draw, []

    def failing(imagination: Imagination) -> torch.Tensor:
        calls.append(1)
        found = draw(imagination)
        if len(calls) == 2:
            raise RuntimeError("interrupted")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Imagination, "draw", failing)
        with pytest.raises(RuntimeError, match="interrupted"):
            server.score(candidates[:1])
    np.testing.assert_array_equal(server.imagine(candidates[0]), expected)


def test_what_is_expected_depends_on_the_action(world_model: WorldModel, frame: np.ndarray) -> None:
    """And is the same in both decoding orders for the first frame, where both hold the same tokens."""
    context = world_model.encode(torch.from_numpy(frame)[None])
    bins = world_model.action_bins(np.array([[[-1, 0]], [[1, 0]]], np.float32))[:, 0]
    seen = []
    with torch.no_grad():
        for order in ("frame", "token"):
            imagination = Imagination(world_model, context, 2, order)
            imagination.step(bins)
            seen.append(imagination.expected)
    assert seen[0].shape == (2, world_model.config.dynamics.dim)
    assert (seen[0][0] - seen[0][1]).abs().max() > 1e-4
    torch.testing.assert_close(seen[0], seen[1])


def test_the_task_the_reference_and_the_frame_matter(
    server: ImaginationServer, frame: np.ndarray, candidates: np.ndarray
) -> None:
    first = server.score(candidates)
    server.observe(255 - frame)
    moved = server.score(candidates)
    server.reset(255 - frame, TASK)
    other_reference = server.score(candidates)
    server.reset(frame, "reach the blue cylinder")
    other_task = server.score(candidates)
    server.reset(frame, TASK)
    np.testing.assert_array_equal(server.score(candidates), first)
    for other in (moved, other_reference, other_task):
        assert np.abs(other - first).max() > 1e-4
    assert np.abs(other_reference - moved).max() > 1e-4


def test_the_caller_may_reuse_its_frame_buffer(
    server: ImaginationServer, frame: np.ndarray, candidates: np.ndarray
) -> None:
    later = np.roll(frame, 5, axis=0)
    server.observe(later)
    expected = server.score(candidates)
    buffer = frame.copy()
    server.reset(buffer, TASK)
    buffer[:] = later  # the next frame, into the same memory
    server.observe(buffer)
    np.testing.assert_array_equal(server.score(candidates), expected)


class Watcher:
    """An objective that notes the contexts of what it is to judge."""

    instructions = ()

    def __init__(self) -> None:
        self.contexts: list[torch.Tensor] = []

    def check_instruction(self, instruction: str) -> None: ...

    def reset(self, frame: np.ndarray, instruction: str) -> None: ...

    def observe(self, frame: np.ndarray) -> None: ...

    def score(self, futures: Futures) -> np.ndarray:
        self.contexts.append(futures._features.latent)
        return np.zeros(len(futures), np.float32)


def test_the_newest_frames_are_the_context(
    world_model: WorldModel, objective: ProgressModel, frame: np.ndarray, candidates: np.ndarray
) -> None:
    """None of before an episode, none of before a gap."""
    config = replace(world_model.config, tokenizer=replace(world_model.config.tokenizer, context_frames=2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, watcher = WorldModel(config, DualBranchTokenizer(config.tokenizer), Dynamics(config)), Watcher()
    server = ImaginationServer(model, watcher)
    frames = [np.roll(frame, 3 * step, axis=0) for step in range(4)]
    server.reset(frames[0], TASK)
    server.score(candidates)
    for each, follows in zip(frames[1:], (True, True, False), strict=True):
        server.observe(each, follows)
        server.score(candidates)
    planner = CEMPlanner(model, watcher, replace(SETTINGS, iterations=1))
    planner.plan(frames[3], TASK, reference=frames[0])
    planner.plan(frames[3], TASK, reference=frames[0], seen=frames[1:3])
    for found, pair in zip(watcher.contexts, ((0, 0), (0, 1), (1, 2), (3, 3), (3, 3), (2, 3)), strict=True):
        seen = torch.from_numpy(np.stack([frames[index] for index in pair]))
        assert torch.equal(found, model.encode(seen[None]).features.latent), pair
    assert len(torch.cat(watcher.contexts).unique(dim=0)) == 5, "contexts that are all alike prove little"
    with pytest.raises(RoboAlignError, match=r"objective: expected .*\(32, 32, 32\).* found \(16, 32, 32\)"):
        ImaginationServer(model, objective)


# -- bad input ------------------------------------------------------------------------------------------------------


def test_nothing_works_before_reset(world_model: WorldModel, objective: ProgressModel, frame: np.ndarray) -> None:
    server = ImaginationServer(world_model, objective)
    for call in (
        lambda: server.observe(frame),
        lambda: server.score(np.zeros((1, 2, 2), np.float32)),
        lambda: server.imagine(np.zeros((2, 2), np.float32)),
    ):
        with pytest.raises(RoboAlignError, match=r"expected reset\(frame, instruction\) before"):
            call()


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("", "expected a sentence"),
        ("   ", "expected a sentence"),
        (None, "expected a sentence"),
        ("dance", r"expected one of \[push the red cube left; reach the blue cylinder\], found 'dance'"),
    ],
)
def test_instructions_that_are_none_are_refused(
    server: ImaginationServer, frame: np.ndarray, candidates: np.ndarray, instruction: str, message: str
) -> None:
    before = server.score(candidates)
    with pytest.raises(RoboAlignError, match=f"instruction: {message}"):
        server.reset(255 - frame, instruction)
    np.testing.assert_array_equal(server.score(candidates), before)


def test_frames_that_are_none_are_refused(server: ImaginationServer, frame: np.ndarray, candidates: np.ndarray) -> None:
    before = server.score(candidates)
    for bad in (frame.astype(np.float32), frame[..., :2], frame[None], None):
        for call in (lambda bad=bad: server.reset(bad, TASK), lambda bad=bad: server.observe(bad)):
            with pytest.raises(RoboAlignError, match="frame: expected a uint8 array"):
                call()
    np.testing.assert_array_equal(server.score(candidates), before)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((3, 4, 3), np.float32), "width 2, found 3"),
        (np.zeros((4, 2), np.float32), "1 to 5 frames"),
        (np.zeros((0, 4, 2), np.float32), "1 to 5 frames"),
        (np.zeros((3, 0, 2), np.float32), "1 to 5 frames"),
        (np.zeros((3, 6, 2), np.float32), "1 to 5 frames"),
        (np.full((3, 4, 2), np.nan, np.float32), "NaN"),
    ],
    ids=["width", "two axes", "no candidates", "no steps", "too long", "NaN"],
)
def test_actions_that_are_none_are_refused(server: ImaginationServer, bad: np.ndarray, message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        server.score(bad)


def test_one_sequence_is_imagined_not_a_batch(server: ImaginationServer, candidates: np.ndarray) -> None:
    with pytest.raises(RoboAlignError, match="actions: expected"):
        server.imagine(candidates)


def test_an_objective_of_another_world_model_is_refused(world_model: WorldModel) -> None:
    config = ProgressConfig([TASK], state=["x", "y"], cells=64, channels=32, dim=32, width=16, slots=3, hidden=16)
    with pytest.raises(RoboAlignError, match=r"objective: expected .*\(16, 32, 32\).* found \(64, 32, 32\)"):
        ImaginationServer(world_model, ProgressModel(config, ProgressHead(config)))


# -- planner --------------------------------------------------------------------------------------------------------

SETTINGS = CEMConfig(candidates=24, horizon=4, iterations=3, elites=4, answer="best")


def test_a_plan(world_model: WorldModel, objective: ProgressModel, frame: np.ndarray) -> None:
    plan = CEMPlanner(world_model, objective, SETTINGS).plan(frame, TASK)
    assert plan.actions.shape == (4, 2)
    assert np.abs(plan.actions).max() <= 1
    assert plan.scores.shape == (24,)
    assert plan.frames.shape == (4, 32, 32, 3)
    server = ImaginationServer(world_model, objective)
    server.reset(frame, TASK)
    assert plan.score == pytest.approx(float(server.score(plan.actions[None])[0]), rel=1e-5)
    np.testing.assert_array_equal(plan.frames, server.imagine(plan.actions))


def test_a_plan_is_better_than_chance(world_model: WorldModel, objective: ProgressModel, frame: np.ndarray) -> None:
    server = ImaginationServer(world_model, objective)
    server.reset(frame, TASK)
    chance = server.score(np.random.default_rng(0).uniform(-1, 1, (64, 4, 2)).astype(np.float32))
    assert CEMPlanner(world_model, objective, SETTINGS).plan(frame, TASK).score >= np.quantile(chance, 0.9)


def test_the_same_planner_plans_the_same(world_model: WorldModel, objective: ProgressModel, frame: np.ndarray) -> None:
    first, again = (CEMPlanner(world_model, objective, SETTINGS).plan(frame, TASK) for _ in range(2))
    np.testing.assert_array_equal(first.actions, again.actions)


def test_planning_measures_from_the_reference(
    world_model: WorldModel, objective: ProgressModel, frame: np.ndarray
) -> None:
    now = np.roll(frame, 7, axis=1)
    plan = CEMPlanner(world_model, objective, SETTINGS).plan(now, TASK, reference=frame)
    server = ImaginationServer(world_model, objective)
    server.reset(frame, TASK)
    server.observe(now)
    assert plan.score == pytest.approx(float(server.score(plan.actions[None])[0]), rel=1e-5)


def test_a_warm_start_is_where_the_search_begins(
    world_model: WorldModel, objective: ProgressModel, frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = CEMPlanner(world_model, objective, SETTINGS)
    seen: list[np.ndarray] = []
    score: Callable[[np.ndarray], np.ndarray] = planner.server.score
    monkeypatch.setattr(planner.server, "score", lambda actions: seen.append(actions) or score(actions))
    start = np.linspace(-0.8, 0.8, 8, dtype=np.float32).reshape(4, 2)
    planner.plan(frame, TASK, warm_start=start)
    np.testing.assert_array_equal(seen[0][0], start)


def test_a_horizon_beyond_the_model_s_is_refused(
    world_model: WorldModel, objective: ProgressModel, frame: np.ndarray
) -> None:
    with pytest.raises(RoboAlignError, match="1 to 5 frames"):
        CEMPlanner(world_model, objective, CEMConfig(horizon=6)).plan(frame, TASK)
