"""The student is taught along the way: the gap to its teacher is measured, closes, or ends the run."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_benchmark import make_benchmark, toy_model

from roboalign_core.benchmark import Benchmark, Origin, Split
from roboalign_core.episodes import AugmentationConfig, EpisodeStore, StoreSpec
from roboalign_core.episodes.identity import identities
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json
from roboalign_core.judge import ServerJudge
from roboalign_core.judge.parser import ReplyError
from roboalign_core.judge.protocol import Judge, Judgement, Video
from roboalign_core.reward import RewardModel
from roboalign_core.reward.config import RewardModelConfig, TextConfig, VisionConfig
from roboalign_core.reward.data import RewardData
from roboalign_core.reward.student import RewardNetwork
from roboalign_core.rubric import HIGHEST, KEYS, Scores
from roboalign_core.tensors import load_tensors
from roboalign_core.training.bundle import _check_order
from roboalign_core.training.grpo.config import GuardConfig
from roboalign_core.training.grpo.imagination import Futures, Prompts
from roboalign_core.training.grpo.online.drift import drift
from roboalign_core.training.grpo.online.replay import Replay, rollouts
from roboalign_core.training.grpo.online.student import MixedRewardStage, _mixed
from roboalign_core.training.grpo.policy import Groups
from roboalign_core.training.grpo.stage import GrpoStage
from roboalign_core.training.grpo.watch import Guard
from roboalign_core.training.reward import RewardStageConfig
from roboalign_core.training.verb import TrainConfig, train

Taught = Callable[..., TrainConfig]
LEARN: dict[str, Any] = {"pairs": 6, "shortest": 2, "validation": 4}
ONLINE: dict[str, Any] = {"every": 2, "rollouts": 8, "steps": 2, "alarm": 10.0, "learn": LEARN}


class Strict(Judge):
    """A teacher to whom brightness is all; from some question on it fails."""

    def __init__(self, scale: float = 0.2, fails: int = 10**9, error: RoboAlignError | None = None) -> None:
        self.scale, self.fails, self.error = scale, fails, error
        self.asked: list[int] = []

    @property
    def name(self) -> str:
        return "strict"

    def describe(self) -> Mapping[str, Any]:
        return {"scale": self.scale}

    def judge(self, videos: Sequence[Video]) -> Judgement:
        self.asked.append(len(videos))
        if len(self.asked) > self.fails and self.error:
            raise self.error
        raw = np.stack([self.opinion(video.frames) for video in videos])
        return Judgement(Scores(raw), np.zeros_like(raw), ((),) * len(videos))

    def opinion(self, frames: Any) -> Any:
        return (self.scale * frames[1:].mean() / 255 * HIGHEST).astype(np.float32)


def small_model() -> RewardModelConfig:
    """A student that takes no time at all."""
    text = TextConfig(width=16, layers=1, heads=2, expansion=2, dropout=0.1, words=8, buckets=64)
    vision = VisionConfig(patch_width=8, cell_width=16, blocks=1, slots=4, width=16, layers=1, heads=2, dropout=0.1)
    return replace(toy_model(), frames=4, text=text, vision=vision)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the student knew before."""
    return make_benchmark(tmp_path_factory.mktemp("online") / "benchmark", videos=20).path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has learned nothing yet: about half of every score."""
    folder = tmp_path_factory.mktemp("online") / "student"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        RewardModel(small_model(), RewardNetwork(small_model())).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def taught(settings: Callable[..., TrainConfig], world_model: Path, benchmark: Path, student: Path) -> Taught:
    """Settings of a run of 4 steps with 2 lessons; ``changes`` are settings of ``stage.online``."""

    def make(out: Path, length: int = 4, judge: Mapping[str, Any] | None = None, **changes: Any) -> TrainConfig:
        config = settings("grpo", out, length, world_model, rewards=["student"], online={**ONLINE, **changes})
        config.stage["reward_model"] = str(student)
        config.benchmark, config.judge = str(benchmark), judge or {"name": "server", "model": "strict"}
        return config

    return make


def teach(config: TrainConfig, teacher: Judge) -> Mapping[str, Any]:
    """Train with that teacher in place of a server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("roboalign_core.training.grpo.online.build.make_judge", lambda *given, **more: teacher)
        return train(config)


@pytest.fixture(scope="module")
def whole(taught: Taught, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was never interrupted; tests do not change it."""
    run = tmp_path_factory.mktemp("online") / "whole"
    teach(taught(run), Strict())
    return run


def without_seconds(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != "seconds"}


def metrics(run: Path) -> list[dict[str, float]]:
    return [without_seconds(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(found: Path, expected: Path) -> None:
    """After 4 steps: policy, student, moments, random numbers, logs, rollouts and what is exported."""
    last = Path("checkpoints") / "step-00000004"
    names = sorted(path.name for path in (expected / last).iterdir())
    assert names == sorted(path.name for path in (found / last).iterdir())
    assert {"student.safetensors", "student_optimizer.safetensors"} <= set(names)
    for name in names:
        if name != "state.json":
            ours, theirs = (load_tensors(run / last / name) for run in (found, expected))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    states = [without_seconds(read_json(run / last / "state.json")) for run in (found, expected)]
    assert states[0] == states[1]
    assert metrics(found) == metrics(expected)
    for part in ("model", "online"):
        files = [
            sorted(path.relative_to(run / part) for path in (run / part).rglob("*.*") if "judgements" not in path.parts)
            for run in (found, expected)
        ]
        assert files[0] == files[1]
        for path in files[0]:
            if (found / part / path).is_file() and path.name != "rows.npz":  # an archive with times in it
                assert (found / part / path).read_bytes() == (expected / part / path).read_bytes(), path


# -- teaching -------------------------------------------------------------------------------------------------------


def test_the_gap_to_the_teacher_closes(taught: Taught, tmp_path: Path) -> None:
    teacher = Strict()
    results = teach(taught(tmp_path / "run", 3, rollouts=12, steps=30, lr=5e-3), teacher)
    logged = metrics(tmp_path / "run")
    assert [entry["drift_step"] for entry in logged] == [0, 0, 2]
    first, _, last = logged
    assert first["drift_total"] > 2  # a student that knows nothing is far too kind
    assert first["drift_bias"] == pytest.approx(first["drift_total"])
    assert first["drift_total_after"] < 0.3 * first["drift_total"]
    assert last["drift_total"] < 0.3 * first["drift_total"]  # on rollouts that it never saw
    assert last["reward"] < 0.5 * first["reward"]  # what the policy is paid by now
    assert all(f"drift_{key}" in first for key in KEYS)
    assert teacher.asked == [12, 12]
    assert results["rollouts_judged"] == 24
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("drift_step")] == [0, 0, 2]
    assert {"drift_total", "drift_bias", "student_loss", "student_validation_mae"} <= set(events.Tags()["scalars"])


def test_rollouts_are_kept_as_a_benchmark(whole: Path, store: Path) -> None:
    kept, teacher = Benchmark.open(whole / "online"), Strict()
    kept.verify(deep=True)
    assert len(kept.pairs) == 16
    for pair in kept.pairs:
        assert (pair.origin, pair.labeller, pair.source) == (Origin.GENERATED, "judge:strict", "toy")
        np.testing.assert_array_equal(teacher.opinion(kept.frames(pair)), pair.scores)  # the very pixels
        assert kept.episode(pair).actions.shape == (4, 2)
    facts = [json.loads(pair.provenance) for pair in kept.pairs]
    assert [fact["step"] for fact in facts] == [0] * 8 + [2] * 8
    second = [(fact["student"], pair.scores) for fact, pair in zip(facts, kept.pairs, strict=True)][8:]
    gap = np.mean([abs(sum(student) - sum(teacher)) for student, teacher in second])
    assert metrics(whole)[-1]["drift_total"] == pytest.approx(gap, abs=1e-4)
    for lesson in (kept.pairs[:8], kept.pairs[8:]):
        assert len({kept.frames(pair)[0].tobytes() for pair in lesson}) == 4  # of all 4 windows
    recordings = identities(EpisodeStore.open(store))
    assert {pair.parent for pair in kept.pairs} <= set(recordings)  # windows of an episode stay in one split
    assert len(set(recordings)) == 16


def new_lesson(replay: Replay, step: int, seed: int) -> Futures:
    """Adds 2 futures each of a window of one store and of another, which nobody liked."""
    random = np.random.default_rng(seed)
    imagined = random.integers(0, 256, (4, 4, 32, 32, 3), dtype=np.uint8)
    tokens = Groups(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2, 3, 1), torch.zeros(4, 3, 1))
    specs = [StoreSpec(5.0, 32, 32, ("x", "y"), source, "top") for source in ("toy", "other")]
    told, recordings = ["go left", "go right"], [f"toy:{seed}", f"other:{seed}"]
    windows = Prompts(torch.full((2, 4, 32, 32, 3), seed).byte(), torch.ones(2, 3, 2), told, specs, recordings)
    futures = Futures(windows, tokens, imagined, np.zeros((4, 3), bool))
    nothing = Scores(np.zeros((4, 6), np.float32))
    replay.add(step, rollouts(futures, range(4)), nothing, nothing, "judge:nobody")
    return futures


def test_rollouts_of_several_stores_and_what_a_killed_process_left(tmp_path: Path) -> None:
    replay = Replay(tmp_path, (32, 32), {})
    lessons = [new_lesson(replay, step, step + 1) for step in (0, 10)]
    imagined = np.concatenate([futures.imagined for futures in lessons])
    assert [pair.source for pair in replay.pairs] == ["toy", "toy", "other", "other"] * 2
    for pair, frames in zip(replay.pairs, imagined, strict=True):
        np.testing.assert_array_equal(replay.frames(pair), frames)
    names = sorted(path.name for path in (tmp_path / "stores").iterdir())
    assert names == [f"online-{step:08d}-{source}-top" for step in (0, 10) for source in ("other", "toy")]

    (tmp_path / "benchmark.json").unlink()  # killed while a third lesson was being kept
    (tmp_path / "stores" / "online-00000020-toy-top").mkdir()
    again = Replay(tmp_path, (32, 32), {})
    again.load(4)
    kept = Benchmark.open(tmp_path)
    kept.verify(deep=True)
    assert kept.pairs == again.pairs == replay.pairs[:4]
    np.testing.assert_array_equal(again.frames(again.pairs[3]), imagined[3])
    with pytest.raises(RoboAlignError, match="expected at least 8 rollouts, found 4"):
        again.load(8)
    new_lesson(Replay(tmp_path, (32, 32), {}), 0, 5)  # a run without a checkpoint begins anew
    assert len(Benchmark.open(tmp_path).pairs) == 4


def test_the_student_that_was_taught_is_exported(whole: Path, benchmark: Path) -> None:
    files = {path.name for path in (whole / "model" / "reward").iterdir()}
    assert files == {"config.json", "reward.safetensors", "provenance.json"}
    exported = load_tensors(whole / "model" / "reward" / "reward.safetensors")
    trained = load_tensors(whole / "checkpoints" / "step-00000004" / "student.safetensors")
    assert all(torch.equal(exported[key], value.bfloat16()) for key, value in trained.items())
    assert RewardModel.from_pretrained(whole / "model").config == small_model()
    about = read_json(whole / "model" / "reward" / "provenance.json")
    assert (about["teacher"], about["lessons"], about["rollouts"], about["steps"]) == ({"scale": 0.2}, 2, 16, 4)
    assert about["benchmark"] == [Benchmark.open(benchmark).info["sha256"]]


def test_it_may_take_the_place_of_the_student_at_the_start(whole: Path, student: Path, tmp_path: Path) -> None:
    """In a bundle, whose later runs overwrite only what they build on."""
    before, after = tmp_path / "reward", tmp_path / "aligned"
    shutil.copytree(student, before / "model" / "reward")
    shutil.copytree(whole / "model", after / "model")
    identity = read_json(whole / "run.json")["identity"]
    identity["stage"]["reward_model"] = str(before / "model")
    write_json(after / "run.json", {"identity": identity})
    _check_order([before, after])
    with pytest.raises(RoboAlignError, match=r"both hold reward"):
        _check_order([after, before])


def test_batches_are_mixed_and_held_rollouts_are_not_learned(whole: Path, benchmark: Path, student: Path) -> None:
    replay = Replay(whole / "online", (32, 32), {})
    replay.pairs = [
        replace(pair, split=Split.VALIDATION if pair.number < 4 else Split.TRAIN)
        for pair in Benchmark.open(whole / "online").pairs
    ]
    weights = RewardModel.from_pretrained(student, dtype=torch.float32)
    off = AugmentationConfig(photometric=False, geometric=False)
    learn = RewardStageConfig(**{**LEARN, "pairs": 4000})
    data = RewardData(str(benchmark), (32, 32))
    stage = MixedRewardStage(learn, data, replay, 0.25, ["go left", "go right"], weights, off, 0)
    known = len(stage.pairs)
    assert (stage._draw() < known).all()  # no rollouts yet
    stage.take()
    assert [pair.number for pair in stage.pairs[known:]] == list(range(4, 16))
    np.testing.assert_allclose(stage.labels[known:] * HIGHEST, [pair.scores for pair in replay.pairs[4:]], rtol=1e-5)
    rows = stage._draw()
    assert (rows >= known).mean() == pytest.approx(0.25, abs=0.03)
    assert set(rows[rows >= known]) == set(range(known, known + 12))
    shares = stage.shares.copy()
    stage.take()
    np.testing.assert_array_equal(stage.shares, shares)
    stage.calibrate(stage.looked, shown=False)
    assert stage.errors.keys() == {"student_validation_mae", "student_rollouts_mae"}


def test_calibration_is_on_a_mixture() -> None:
    known = torch.zeros(2, 30, 6), torch.zeros(30, 6)
    fresh = torch.ones(2, 4, 6), torch.ones(4, 6)
    many = torch.ones(2, 300, 6), torch.ones(300, 6)  # more rollouts than pairs of the benchmark
    for some, share in itertools.product((fresh, many), (0.0, 0.25, 0.5, 0.9, 1.0)):
        logits, labels = _mixed(known, some, share)
        assert logits.shape[1] == len(labels)
        assert labels.mean().item() == logits.mean().item() == pytest.approx(share, abs=0.04)


def test_the_gap_in_figures() -> None:
    teacher = Scores(np.array([[3, 2, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]], np.float32))
    student = Scores(np.array([[2, 2, 1, 1, 1, 2], [1, 0, 0, 0, 0, 0.5], [1, 1, 0, 0, 0, 0]], np.float32))
    found = drift(student, teacher)
    assert [found[f"drift_{key}"] for key in KEYS] == pytest.approx([2 / 3, 0, 1 / 3, 0, 0, 0.5 / 3])
    assert found["drift_total"] == pytest.approx((1 + 1.5 + 1) / 3)
    assert found["drift_bias"] == pytest.approx((-1 + 1.5 - 1) / 3)
    assert found["drift_spearman"] == pytest.approx(1)
    assert "drift_spearman" not in drift(student, Scores(np.ones((3, 6), np.float32)))


# -- the alarm ------------------------------------------------------------------------------------------------------


def test_a_student_that_stays_away_from_its_teacher_ends_the_run(
    taught: Taught, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = taught(tmp_path / "run", 9, alarm=0.5, patience=2, lr=1e-9, share=0.0)  # it cannot learn
    with caplog.at_level(logging.WARNING):
        results = teach(config, Strict())
    assert results["steps"] == 3  # the lessons are at steps 0 and 2
    assert results["stopped"].startswith("drift_total ")
    assert results["stopped"].endswith(" above 0.5 at step 2")
    assert sum("drift alarm" in line for line in caplog.messages) == 2
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    again = teach(config, Strict())
    assert (again["steps"], again["stopped"]) == (3, results["stopped"])


def test_an_alarm_that_passes_is_forgiven() -> None:
    guard = Guard(GuardConfig())
    assert [guard.check(step, "drift_total", gap, 2.0, 2) for step, gap in enumerate([3, 1, 3])] == [1, 0, 1]
    other = Guard(GuardConfig())
    other.load_state(json.loads(json.dumps(guard.state())))
    assert not other.stopped
    assert other.check(3, "drift_total", float("nan"), 2.0, 2) == 2
    assert other.stopped == "drift_total nan above 2 at step 3"


# -- resume ---------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_bit_by_bit(
    taught: Taught, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a lesson after the newest checkpoint had been given, and its rollouts were on disk."""
    run = tmp_path / "run"
    draw = GrpoStage._draw
    for after, count in ((0, 8), (2, 16)):
        calls: list[int] = []

        def interrupted(self: GrpoStage, calls: list[int] = calls, after: int = after) -> Any:
            calls.append(1)
            batch = draw(self)  # with a lesson, after which no checkpoint is written
            if len(calls) > after:
                raise KeyboardInterrupt
            return batch

        with monkeypatch.context() as patch:
            patch.setattr(GrpoStage, "_draw", interrupted)
            with pytest.raises(KeyboardInterrupt):
                teach(taught(run), Strict())
        assert len(Benchmark.open(run / "online").pairs) == count
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]
    teach(taught(run), Strict())
    assert_same_run(run, whole)


def test_a_failing_teacher_leaves_a_run_to_go_on_with(taught: Taught, tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(RoboAlignError, match=r"stage.online, lesson at step 2: no answer; .* goes on at the newest"):
        teach(taught(run), Strict(fails=1, error=RoboAlignError("no answer")))
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]
    assert len(Benchmark.open(run / "online").pairs) == 8
    assert not (run / "model").exists()
    assert not list(run.rglob("*.tmp*"))
    teach(taught(run), Strict())
    assert_same_run(run, whole)


def test_rollouts_without_a_readable_reply_are_left_out(taught: Taught, tmp_path: Path) -> None:
    class Mumbling(Strict):
        def judge(self, videos: Sequence[Video]) -> Judgement:
            if len(videos) > 1 or self.asked.count(1) == 2:
                self.asked.append(len(videos))
                raise ReplyError("gibberish")
            return super().judge(videos)

    with pytest.raises(RoboAlignError, match="expected at most unjudged=0 rollouts without scores, found 1; gibberish"):
        teach(taught(tmp_path / "strict", 1), Mumbling())
    teach(taught(tmp_path / "run", 1, unjudged=1), Mumbling())
    assert len(Benchmark.open(tmp_path / "run" / "online").pairs) == 7


def test_replies_are_paid_for_once_and_a_budget_is_kept(
    taught: Taught, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("httpx2", reason="the extra judge is not installed")
    asked: list[str] = []

    def answer(self: ServerJudge, client: Any, stop: Any, question: Any) -> tuple[str, ReplyError | None]:
        self.budget.request()
        asked.append(question.key)
        reply = json.dumps({key: int(question.key[place], 16) % 2 for place, key in enumerate(KEYS)})
        return reply, self._keep(question, reply)

    def config(requests: int) -> TrainConfig:
        budget = {"requests": requests}
        return taught(
            tmp_path / "run", 3, {"name": "server", "model": "m", "sampling": {"samples": 2}, "budget": budget}
        )

    monkeypatch.setattr(ServerJudge, "_answer", answer)
    with pytest.raises(RoboAlignError, match="lesson at step 2: judge budget: requests: expected at most 20"):
        train(config(20))
    assert len(asked) == 20
    train(config(40))  # another budget is no other run
    assert len(asked) == len(set(asked)) > 20
    assert not set(asked[:20]) & set(asked[20:]), "what was answered before the budget ended is not asked again"


def test_another_teacher_or_missing_rollouts_do_not_go_on(taught: Taught, tmp_path: Path) -> None:
    config = taught(tmp_path / "run", 1)
    teach(config, Strict())
    with pytest.raises(RoboAlignError, match=r"expected a checkpoint of this configuration.*online"):
        teach(config, Strict(scale=0.5))
    (tmp_path / "run" / "online" / "pairs.parquet").unlink()
    with pytest.raises(RoboAlignError, match="expected a table of pairs, found nothing"):
        teach(config, Strict())


# -- off, and bad input ---------------------------------------------------------------------------------------------


def test_off_by_default(settings: Callable[..., TrainConfig], tmp_path: Path, world_model: Path, student: Path) -> None:
    config = settings("grpo", tmp_path / "run", 2, world_model, rewards=["student"], reward_model=str(student))
    results = train(config)
    assert not any(name.startswith(("drift", "student")) or name == "rollouts_judged" for name in results)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000002"
    names = {path.name for path in checkpoint.iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "random.safetensors", "state.json"}
    state = read_json(checkpoint / "state.json")
    assert "online" not in {**state["stage"], **state["identity"], **state["identity"]["stage"]}
    assert not (tmp_path / "run" / "online").exists()
    assert not (tmp_path / "run" / "model" / "reward").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": -1}, "stage.online.every: expected at least 0, found -1"),
        ({"rollouts": 17}, r"stage.online.rollouts: expected at most 16 \(prompts x group\), found 17"),
        ({"unjudged": 8}, "stage.online.unjudged: expected 0 to 7, fewer than rollouts, found 8"),
        ({"share": 1.5}, "stage.online.share: expected a share"),
        ({"optimizer": "sgd"}, "stage.online.optimizer: expected one of adamw, muon"),
        ({"alarm": 0.0}, "stage.online.alarm: expected a number above 0"),
        ({"learn": {"colour": 1}}, "stage.online.learn: Key 'colour' not in"),
        ({"learn": {"pairs": 0}}, "stage.online.learn: stage.pairs: expected at least 1"),
        ({"learn": {"start": ["runs/reward"]}}, "stage.online.learn.start: expected nothing"),
        ({"learn": {"damaged": ["a"], "damaged_share": 1.0}}, "stage.online.learn: expected damaged_share"),
        ({"learn": {"shortest": 9}}, "stage.shortest: expected at most 4 frames, found 9"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    taught: Taught, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RoboAlignError, match=message):
        teach(taught(tmp_path / "run", **changes), Strict())
    assert not (tmp_path / "run").exists()


def test_what_is_needed_is_asked_for(taught: Taught, tmp_path: Path) -> None:
    config = taught(tmp_path / "run")
    rewards = {**config.stage, "rewards": ["mae"]}
    for changes, message in (
        ({"benchmark": ""}, "benchmark: expected the folder of the student's benchmark for stage.online"),
        ({"judge": None}, "judge: expected one of server, qwen, oracle, found None"),
        ({"stage": rewards}, "stage.online: expected the reward 'student' among stage.rewards, found mae"),
        ({"stage": {**config.stage, "online": {}}}, "judge: expected none without stage=grpo stage.online.every=N"),
        ({"stage": {**config.stage, "online": {}}, "judge": None}, "benchmark: expected nothing, only stage=reward"),
    ):
        with pytest.raises(RoboAlignError, match=message):
            teach(replace(config, **changes), Strict())
        assert not (tmp_path / "run").exists()
