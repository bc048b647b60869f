"""What a planner maximises: progress, the student's opinion of whole videos, or both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from toy_world import toy_student

from roboalign_core.configs import config_dir
from roboalign_core.errors import RoboAlignError
from roboalign_core.planning import (
    OBJECTIVES,
    CEMConfig,
    CEMPlanner,
    ImaginationServer,
    JointObjective,
    ObjectiveConfig,
    ProgressObjective,
    StudentObjective,
    load_objective,
    objective_config,
)
from roboalign_core.planning.futures import Futures
from roboalign_core.planning.objective import JOINT_WEIGHTS, TASK_WEIGHTS
from roboalign_core.reward.model import FOLDER, RewardModel
from roboalign_core.reward.progress import ProgressModel
from roboalign_core.rubric import KEYS
from roboalign_core.world_model import WorldModel
from roboalign_core.world_model.rollout import Imagination

TASK = "push the red cube left"
FOLLOWING, SUCCESS = KEYS.index("instruction_following"), KEYS.index("manipulation_success")


@pytest.fixture(scope="module")
def student() -> RewardModel:
    """At most 5 frames of 16×16, half the size of the world model's; random weights."""
    return toy_student()


@pytest.fixture
def later(frame: np.ndarray) -> list[np.ndarray]:
    """Three more frames of the episode."""
    return [np.roll(frame, shift, axis=1) for shift in (1, 3, 4)]


def watched(world_model: WorldModel, judge: Any, frames: list[np.ndarray]) -> ImaginationServer:
    """A server that has seen these frames of an episode."""
    server = ImaginationServer(world_model, judge)
    server.reset(frames[0], TASK)
    for each in frames[1:]:
        server.observe(each)
    return server


def opinions(
    world_model: WorldModel, student: RewardModel, frames: list[np.ndarray], candidates: np.ndarray
) -> np.ndarray:
    """(N, 6) shares, from whole videos, one by one."""
    imagined = world_model.rollout(frames[-1], candidates, mode="plain", order="frame").frames
    videos = [np.concatenate([np.stack(frames), each]) for each in imagined]
    return student.score(videos, TASK).normalised


# -- student --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("past", "kept"), [(0, 4), (1, 1), (3, 3), (9, 4)])
def test_the_student_judges_what_was_seen_and_what_is_imagined_as_one_video(
    world_model: WorldModel,
    student: RewardModel,
    frame: np.ndarray,
    later: list[np.ndarray],
    candidates: np.ndarray,
    past: int,
    kept: int,
) -> None:
    frames = [frame, *later]
    found = watched(world_model, StudentObjective(student, past=past), frames).score(candidates)
    expected = opinions(world_model, student, frames[-kept:], candidates)[:, [FOLLOWING, SUCCESS]].mean(1)
    assert found.dtype == np.float32
    assert found.std() > 0, "candidates must matter"
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_past_matters_to_the_student(
    world_model: WorldModel, student: RewardModel, frame: np.ndarray, later: list[np.ndarray], candidates: np.ndarray
) -> None:
    whole = StudentObjective(student, past=0)
    seen = watched(world_model, whole, [frame, *later]).score(candidates)
    assert np.abs(watched(world_model, whole, [later[-1]]).score(candidates) - seen).max() > 1e-4
    server = watched(world_model, whole, [255 - frame, frame])
    for each in (frame, *later):  # a reset forgets what was before
        server.reset(each, TASK) if each is frame else server.observe(each)
    np.testing.assert_array_equal(server.score(candidates), seen)


def test_weights_choose_dimensions(
    world_model: WorldModel, student: RewardModel, frame: np.ndarray, candidates: np.ndarray
) -> None:
    shares = opinions(world_model, student, [frame], candidates)
    weights = {"physics_adherence": 3.0, "manipulation_success": 1.0}
    found = watched(world_model, StudentObjective(student, weights), [frame]).score(candidates)
    np.testing.assert_allclose(
        found, (3 * shares[:, KEYS.index("physics_adherence")] + shares[:, SUCCESS]) / 4, atol=1e-5
    )


def test_many_candidates_are_looked_at_in_blocks(
    world_model: WorldModel, student: RewardModel, frame: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = np.random.default_rng(0).uniform(-1, 1, (7, 2, 2)).astype(np.float32)
    server = watched(world_model, student, [frame])
    whole = server.score(candidates)
    monkeypatch.setattr("roboalign_core.planning.objective.BATCH", 3)
    np.testing.assert_allclose(server.score(candidates), whole, atol=1e-5)


def test_the_student_takes_any_sentence_and_nothing_else(
    world_model: WorldModel, student: RewardModel, frame: np.ndarray, candidates: np.ndarray
) -> None:
    server = ImaginationServer(world_model, student)
    with pytest.raises(RoboAlignError, match=r"expected reset\(frame, instruction\) before"):
        server.score(candidates)
    server.reset(frame, "sweep everything off the table")
    before = server.score(candidates)
    for bad in ("", "  ", None, "word " * 65):
        with pytest.raises(RoboAlignError, match="instruction: expected"):
            server.reset(255 - frame, bad)  # type: ignore[arg-type]
    np.testing.assert_array_equal(server.score(candidates), before)


# -- both -----------------------------------------------------------------------------------------------------------


def joint(
    world_model: WorldModel, progress: ProgressModel, student: RewardModel, worth: float, finalists: int
) -> JointObjective:
    return JointObjective(ProgressObjective(world_model, progress), StudentObjective(student), worth, finalists)


@pytest.mark.parametrize("finalists", [1, 3, 6])
def test_the_student_has_a_say_on_the_finalists(
    world_model: WorldModel,
    objective: ProgressModel,
    student: RewardModel,
    frame: np.ndarray,
    candidates: np.ndarray,
    finalists: int,
) -> None:
    progress, opinion = (watched(world_model, judge, [frame]).score(candidates) for judge in (objective, student))
    expected = progress.copy()
    best = np.argsort(-progress)[:finalists]
    expected[best] += 1000 * opinion[best]  # more than anything that random weights say of progress
    found = watched(world_model, joint(world_model, objective, student, 1000.0, finalists), [frame]).score(candidates)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_those_too_far_behind_are_not_shown_to_the_student(
    world_model: WorldModel, objective: ProgressModel, student: RewardModel, frame: np.ndarray, candidates: np.ndarray
) -> None:
    progress, opinion = (watched(world_model, judge, [frame]).score(candidates) for judge in (objective, student))
    third, fourth = np.sort(progress)[[-3, -4]]
    worth = float(progress.max() - (third + fourth) / 2)
    near = progress > fourth
    found = watched(world_model, joint(world_model, objective, student, worth, 6), [frame]).score(candidates)
    np.testing.assert_allclose(found, progress + worth * opinion * near, atol=1e-5)


def test_only_finalists_are_drawn(
    world_model: WorldModel,
    objective: ProgressModel,
    student: RewardModel,
    frame: np.ndarray,
    candidates: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []
    decode = world_model.decode

    def watch(codes: torch.Tensor, features: Any) -> torch.Tensor:
        drawn.append(len(codes))
        return decode(codes, features)

    monkeypatch.setattr(world_model, "decode", watch)
    watched(world_model, objective, [frame]).score(candidates)
    assert drawn == [], "progress needs no pixels"
    watched(world_model, joint(world_model, objective, student, 1000.0, 2), [frame]).score(candidates)
    assert sum(drawn) == 2 * candidates.shape[1]


def test_both_refuse_what_either_does_not_know(
    world_model: WorldModel, objective: ProgressModel, student: RewardModel, frame: np.ndarray, candidates: np.ndarray
) -> None:
    server = watched(world_model, joint(world_model, objective, student, 1000.0, 2), [frame])
    before = server.score(candidates)
    with pytest.raises(RoboAlignError, match="found 'dance'"):
        server.reset(255 - frame, "dance")
    np.testing.assert_array_equal(server.score(candidates), before)


# -- futures --------------------------------------------------------------------------------------------------------


def test_frames_of_some_candidates_are_those_of_a_rollout(
    world_model: WorldModel, frame: np.ndarray, candidates: np.ndarray
) -> None:
    futures = imagined(world_model, frame, candidates)
    rollout = world_model.rollout(frame, candidates, mode="plain", order="frame").frames
    for rows in (np.array([4, 1]), np.arange(6)):
        np.testing.assert_array_equal(futures.frames(rows), rollout[rows])


def imagined(world_model: WorldModel, frame: np.ndarray, candidates: np.ndarray) -> Futures:
    context = world_model.encode(torch.from_numpy(frame)[None])
    start = Imagination(world_model, context, 1, "frame")
    return Futures(world_model, context.features, start, world_model.action_bins(candidates))


def test_those_that_are_kept_go_on_as_if_the_others_were_there(
    world_model: WorldModel, frame: np.ndarray, candidates: np.ndarray
) -> None:
    everyone, some = (imagined(world_model, frame, candidates) for _ in range(2))
    some.expected(2)
    some.keep(np.array([4, 1, 3]))
    some.expected(3)
    some.keep(np.array([2, 0]))
    assert some.rows.tolist() == [3, 4]
    assert len(some) == 6
    torch.testing.assert_close(some.expected(), everyone.expected()[[3, 4]])
    np.testing.assert_array_equal(some.frames(np.array([4, 3])), everyone.frames(np.array([4, 3])))
    with pytest.raises(RoboAlignError, match=r"expected candidates of \[3, 4\], found \[4, 1\]"):
        some.frames(np.array([4, 1]))


# -- halving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("finishers", "many"), [(0.5, [5, 3]), (0.2, [4, 2]), (0.01, [4, 1])])
def test_those_behind_are_left_there(
    world_model: WorldModel,
    objective: ProgressModel,
    frame: np.ndarray,
    candidates: np.ndarray,
    finishers: float,
    many: list[int],
) -> None:
    """Of six candidates, four steps: some after the first step and some after the third."""
    start = world_model.encode(torch.from_numpy(frame)[None]).features.latent
    progress = objective.score(start, imagined(world_model, frame, candidates).expected(), TASK)
    reached = np.stack([(progress[:, step - 1] + progress[:, :step].mean(1)) / 2 for step in (1, 3, 4)], axis=1)
    first = np.argsort(-reached[:, 0])[: many[0]]
    second = first[np.argsort(-reached[first, 1])[: many[1]]]
    expected = np.where(np.isin(range(6), first), reached[:, 1], reached[:, 0])
    expected = np.minimum(expected, reached[second, 2].min())
    expected[second] = reached[second, 2]
    judge = ProgressObjective(world_model, objective, finishers)
    found = watched(world_model, judge, [frame]).score(candidates)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert (found != watched(world_model, objective, [frame]).score(candidates)).any()
    one = watched(world_model, judge, [frame]).score(candidates[:1])
    np.testing.assert_allclose(one, reached[:1, 2], rtol=1e-5, atol=1e-5)


def test_no_time_goes_into_those_left_behind(
    world_model: WorldModel, objective: ProgressModel, frame: np.ndarray, candidates: np.ndarray
) -> None:
    futures = imagined(world_model, frame, candidates)
    judge = ProgressObjective(world_model, objective, 0.5)
    judge.reset(frame, TASK)
    sizes = []
    act = Imagination.act
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Imagination, "act", lambda self, bins: sizes.append(len(bins)) or act(self, bins))
        judge.score(futures)
    assert sizes == [6, 5, 5, 3]


@pytest.mark.parametrize("horizon", [1, 2, 3, 5])
def test_any_horizon_can_be_halved(
    world_model: WorldModel, objective: ProgressModel, frame: np.ndarray, horizon: int
) -> None:
    server = watched(world_model, ProgressObjective(world_model, objective, 0.34), [frame])
    moves = np.random.default_rng(0).uniform(-1, 1, (6, horizon, 2)).astype(np.float32)
    assert np.isfinite(server.score(moves)).all()


def test_the_student_sees_none_that_was_left_behind(
    world_model: WorldModel, objective: ProgressModel, student: RewardModel, frame: np.ndarray, candidates: np.ndarray
) -> None:
    """Though more could be finalists than go on."""
    progress = ProgressObjective(world_model, objective, 0.5)
    judge = JointObjective(progress, StudentObjective(student, JOINT_WEIGHTS), 1000.0, 6)
    without = watched(world_model, progress, [frame]).score(candidates)
    opinion = watched(world_model, StudentObjective(student, JOINT_WEIGHTS), [frame]).score(candidates)
    found = watched(world_model, judge, [frame]).score(candidates)
    futures = imagined(world_model, frame, candidates)
    progress.score(futures)
    assert len(futures.rows) == 3
    np.testing.assert_allclose(found, without + 1000 * opinion * np.isin(range(6), futures.rows), rtol=1e-5, atol=1e-4)


# -- planner --------------------------------------------------------------------------------------------------------

SETTINGS = CEMConfig(candidates=16, horizon=3, iterations=2, elites=4)


def test_a_planner_takes_the_student(world_model: WorldModel, student: RewardModel, frame: np.ndarray) -> None:
    plan = CEMPlanner(world_model, student, SETTINGS).plan(frame, TASK)
    assert plan.actions.shape == (3, 2)
    score = watched(world_model, student, [frame]).score(plan.actions[None])
    assert plan.score == pytest.approx(float(score[0]), abs=1e-5)
    chance = np.random.default_rng(0).uniform(-1, 1, (64, 3, 2)).astype(np.float32)
    assert plan.score > np.median(watched(world_model, student, [frame]).score(chance))


def test_a_planner_shows_the_student_the_whole_episode(
    world_model: WorldModel, student: RewardModel, frame: np.ndarray, later: list[np.ndarray]
) -> None:
    whole = StudentObjective(student, past=0)
    planner = CEMPlanner(world_model, whole, SETTINGS)
    plan = planner.plan(later[-1], TASK, reference=frame, seen=later[:-1])
    score = watched(world_model, whole, [frame, *later]).score(plan.actions[None])
    assert plan.score == pytest.approx(float(score[0]), abs=1e-5)
    with pytest.raises(RoboAlignError, match="expected a reference before the 2 frames"):
        planner.plan(later[-1], TASK, seen=later[:-1])


# -- configuration --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(
    world_model: WorldModel, objective: ProgressModel, student: RewardModel, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model folder with head and student beside it."""
    path = tmp_path_factory.mktemp("model")
    world_model.save_pretrained(path)
    objective.save_pretrained(path)
    student.save_pretrained(path / FOLDER)
    return path


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_yaml_says_what_the_defaults_are(name: str) -> None:
    defaults = ObjectiveConfig(name)
    settings = yaml.safe_load((config_dir() / "objective" / f"{name}.yaml").read_text())
    settings.pop("defaults", None)
    assert settings.pop("name") == name
    assert settings, "what belongs to it"
    assert objective_config({"name": name, **settings}) == defaults
    assert not settings.pop("weights", None)  # none: the usual ones
    assert settings == {key: getattr(defaults, key) for key in settings}


def test_what_counts_where_no_weights_are_named() -> None:
    assert ObjectiveConfig("student").weights == TASK_WEIGHTS
    assert ObjectiveConfig("both").weights == dict.fromkeys(KEYS, 1.0)
    own = {"physics_adherence": 2.0}
    assert objective_config({"name": "both", "weights": own}).weights == own


@pytest.mark.parametrize(
    ("name", "kind"), [("progress", ProgressObjective), ("student", StudentObjective), ("both", JointObjective)]
)
def test_weights_come_from_beside_the_world_model(
    world_model: WorldModel, folder: Path, frame: np.ndarray, candidates: np.ndarray, name: str, kind: type
) -> None:
    judge = load_objective(ObjectiveConfig(name), world_model, str(folder))
    assert isinstance(judge, kind)
    assert np.isfinite(watched(world_model, judge, [frame]).score(candidates)).all()


def test_weights_that_lie_elsewhere_are_named(
    world_model: WorldModel, objective: ProgressModel, student: RewardModel, tmp_path: Path
) -> None:
    objective.save_pretrained(tmp_path / "head")
    student.save_pretrained(tmp_path / "student")
    config = ObjectiveConfig("both", progress_model=str(tmp_path / "head"), reward_model=str(tmp_path / "student"))
    assert isinstance(load_objective(config, world_model, "nowhere"), JointObjective)


@pytest.mark.parametrize("name", ["student", "both"])
def test_a_missing_student_is_named_with_a_way_out(
    world_model: WorldModel, objective: ProgressModel, tmp_path: Path, name: str
) -> None:
    objective.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    expected = rf"objective {name}: .*expected a reward model.* or choose the objective progress"
    with pytest.raises(RoboAlignError, match=expected):
        load_objective(ObjectiveConfig(name), world_model, str(tmp_path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ObjectiveConfig("fame"), "expected one of progress, student, both, found 'fame'"),
        (lambda: ObjectiveConfig("student", past=-1), "past: expected a number of 0 or more, found -1"),
        (lambda: ObjectiveConfig(finishers=0.0), "finishers: expected a share above 0 and at most 1, found 0.0"),
        (lambda: ObjectiveConfig(finishers=float("nan")), "finishers: expected a share .* found nan"),
        (lambda: ObjectiveConfig("both", worth=-0.5), "worth: expected a finite number of 0 or more, found -0.5"),
        (lambda: ObjectiveConfig("both", finalists=0), "finalists: expected at least 1, found 0"),
        (lambda: ObjectiveConfig(weights={"beauty": 1.0}), "weights: expected keys of .*, found beauty"),
        (
            lambda: ObjectiveConfig(weights={"physics_adherence": 0}),
            "weights: expected finite numbers .* above 0, found",
        ),
        (lambda: ObjectiveConfig(weights={"physics_adherence": -1.0}), "weights: expected finite numbers of 0 or more"),
        (lambda: ObjectiveConfig(weights={"physics_adherence": float("nan")}), "weights: expected finite numbers"),
        (lambda: objective_config("both"), r"found 'both'; choose one with objective=NAME, in a study with objective@"),
        (lambda: objective_config({"name": "both", "worths": 1}), "objective: .*worths"),
        (lambda: objective_config({"name": "both", "worth": "most"}), "objective: .*most"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        make()


def test_given_weights_replace_the_usual_ones() -> None:
    weights = {"physics_adherence": 2.0}
    assert objective_config({"name": "student", "weights": weights}).weights == weights
