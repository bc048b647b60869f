"""The stage ``reward``: it learns, resumes bit by bit, and refuses what cannot be."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from toy_benchmark import toy_model, toy_settings
from toy_recordings import make_recordings, patch_oracle

from roboalign_core.benchmark import Benchmark, Split
from roboalign_core.benchmark.benchmark import finish
from roboalign_core.benchmark.pairs import scores_of
from roboalign_core.episodes import AugmentationConfig
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.ranking import auc
from roboalign_core.files import read_json
from roboalign_core.judge import Judgement
from roboalign_core.judge.table import JudgementTable
from roboalign_core.reward import RewardModel
from roboalign_core.reward.damages import Damaged
from roboalign_core.reward.data import PairVideos, RewardData, read_judgements
from roboalign_core.rubric import HIGHEST, KEYS, Scores
from roboalign_core.tensors import load_tensors
from roboalign_core.training.checkpoints import Checkpoints, mean_weights
from roboalign_core.training.loop import LoopConfig, Trainer
from roboalign_core.training.reward import RewardStage, RewardStageConfig, _augmented
from roboalign_core.training.verb import TrainConfig, train


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def new_stage(toy: Benchmark, augmentation: AugmentationConfig | None = None, **changes: Any) -> RewardStage:
    config = RewardStageConfig(**{"pairs": 8, "shortest": 4, "validation": 10, **changes})
    data = RewardData(str(toy.path), toy_model().size, config.judgements, config.labellers)
    off = AugmentationConfig(photometric=False, geometric=False)
    return RewardStage(config, toy_model(), data, augmentation or off, 0, "cpu")


# -- learning -------------------------------------------------------------------------------------------------------


def test_it_learns_what_the_video_shows_and_the_instruction_asks(toy: Benchmark, toy_student: Path) -> None:
    values = metrics(toy_student)
    assert np.mean([entry["mae"] for entry in values[-20:]]) < 0.5 * np.mean([entry["mae"] for entry in values[:20]])
    assert values[-1]["validation_mae"] < 0.5 * values[0]["validation_mae"]
    model = RewardModel.from_pretrained(toy_student / "model", dtype=torch.float32)
    videos = PairVideos(toy, model.config.size)
    pairs = toy.subset(Split.TEST)
    scores = model.score([videos.frames(pair) for pair in pairs], [pair.instruction for pair in pairs])
    labels = scores_of(pairs).raw
    following, smooth = KEYS.index("instruction_following"), KEYS.index("temporal_consistency")
    assert auc(labels[:, following] >= 2, scores.raw[:, following]) > 0.9
    assert auc(labels[:, smooth] > 0.5, scores.raw[:, smooth]) > 0.95


def test_what_a_run_leaves(toy_student: Path) -> None:
    assert read_json(toy_student / "run.json")["identity"]["stage"]["name"] == "reward"
    files = sorted(str(path.relative_to(toy_student / "model")) for path in (toy_student / "model").rglob("*.*"))
    assert files == ["reward/config.json", "reward/reward.safetensors"]
    calibration = RewardModel.from_pretrained(toy_student / "model").calibration
    assert calibration.scale != [1.0] * 6
    assert max(calibration.floor) < 0.5


def test_validation_pairs_are_never_trained_on(toy: Benchmark) -> None:
    stage = new_stage(toy)
    assert {pair.split for pair in stage.pairs} == {Split.TRAIN}
    assert len(stage.pairs) == len(toy.subset(Split.TRAIN))


# -- batches --------------------------------------------------------------------------------------------------------


def test_weights_choose_what_is_learned(toy: Benchmark) -> None:
    torch.manual_seed(0)
    stage = new_stage(toy, weights=[0.0, 0.0, 0.0, 2.0, 0.0, 0.0], short_share=0.0)
    loss, _ = stage.loss()
    loss.backward()
    gradient = stage.module.heads.weight.grad
    assert gradient is not None
    touched = gradient.unflatten(0, (-1, len(KEYS))).abs().sum((0, 2)) > 0
    assert touched.tolist() == [False, False, False, True, False, False]


def test_the_loss_is_huber_s_of_every_head_s_own_sample(toy: Benchmark) -> None:
    torch.manual_seed(0)
    stage = new_stage(toy, delta=0.1, weights=[1.0, 2.0, 0.0, 1.0, 0.5, 3.0], short_share=0.0)
    seen: dict[str, Any] = {}
    draw, logits = stage._draw, stage._logits
    stage._draw = lambda: seen.setdefault("rows", draw())  # type: ignore[method-assign]
    stage._logits = lambda *rest: seen.setdefault("logits", logits(*rest))  # type: ignore[method-assign]
    stage.steps = 1  # no look at the validation split
    loss, figures = stage.loss()
    found, labels = seen["logits"].sigmoid().detach().numpy(), stage.labels[seen["rows"]]
    error = np.abs(found - labels)
    huber = np.where(error < 0.1, error**2 / 2, 0.1 * (error - 0.05)) @ (np.array([1, 2, 0, 1, 0.5, 3]) / 7.5)
    shares = stage.shares[:, seen["rows"]]
    assert loss.item() == pytest.approx((huber * shares).sum() / shares.sum(), rel=1e-4)
    assert figures["mae"] == pytest.approx(np.abs(found.mean(0) - labels).mean(), rel=1e-4)
    assert stage.shares.mean() == pytest.approx(1, abs=0.1)
    assert not np.array_equal(stage.shares[0], stage.shares[1])


def test_balanced_draws(toy: Benchmark) -> None:
    def drawn(**changes: Any) -> Counter[tuple[str, float]]:
        stage = new_stage(toy, pairs=600, **changes)
        rows = stage._draw()
        return Counter((stage.pairs[row].origin.value, stage.pairs[row].scores[0]) for row in rows)

    plain, even = drawn(), drawn(balance=["origin", "instruction_following"], balance_share=1.0)
    assert len(even) == len(plain) == 6
    assert max(plain.values()) / min(plain.values()) > 2
    assert max(even.values()) / min(even.values()) < 1.6


def test_short_steps_look_at_fewer_frames(toy: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = new_stage(toy, short_share=1.0, shortest=3)
    counts = []

    def note(pairs: Any, count: int, augmentation: Any) -> Any:
        counts.append(count)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "_logits", note)
    for _ in range(60):
        with pytest.raises(KeyboardInterrupt):
            stage.loss()
    assert set(counts) == {3, 4, 5, 6, 7, 8}


def test_videos_of_several_lengths_in_one_batch(toy: Benchmark, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = new_stage(toy)
    stage.module.eval()
    pairs = stage.pairs[:6]
    whole = stage.data.videos.frames
    lengths = {pair.number: 4 + 3 * (index % 3) for index, pair in enumerate(pairs)}
    monkeypatch.setattr(stage.data.videos, "frames", lambda pair: whole(pair)[: lengths[pair.number]])
    with torch.no_grad():
        together = stage._logits(pairs, 8, None)
        alone = [stage._logits([pair], 8, None) for pair in pairs]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), atol=1e-4, rtol=1e-4)


def test_all_frames_of_a_clip_move_and_change_colour_alike() -> None:
    random = np.random.default_rng(0)
    frame = random.integers(60, 200, (1, 1, 1, 32, 32, 3), dtype=np.uint8)
    still = torch.from_numpy(
        np.concatenate([np.tile(frame, (3, 1, 5, 1, 1, 1)), np.tile(frame, (3, 1, 5, 1, 1, 1))], 1)
    )
    moved = _augmented(still, AugmentationConfig(brightness=0.2, zoom=0.2, shift=0.1), np.random.default_rng(1))
    assert moved.shape == still.shape
    assert (moved == moved[:, :, :1]).all()
    assert not torch.equal(moved[0], moved[1])
    geometric = AugmentationConfig(photometric=False, zoom=0.2, shift=0.1)
    only = _augmented(still, geometric, np.random.default_rng(1))
    torch.testing.assert_close(only[:, 0], only[:, 1])  # how much a place changed goes where the place goes
    torch.testing.assert_close(moved[:, 1], only[:, 1])


def test_words_lose_themselves_but_not_their_letters(toy: Benchmark) -> None:
    stage = new_stage(toy, word_dropout=0.5)
    ids = torch.stack([stage.ids[pair.instruction] for pair in stage.pairs[:50]])
    without = stage._without_words(ids)
    assert torch.equal(without[..., 1:], ids[..., 1:])
    words = ids[..., 0] > 0
    lost = (without[..., 0] != ids[..., 0])[words].float().mean()
    assert 0.4 < lost < 0.6
    assert (without[..., 1] > 0)[words].all()


# -- recordings -----------------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(toy: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    """A run on a benchmark that says what it holds back, and on recordings beside it."""
    patch_oracle(monkeypatch)
    root = tmp_path / "benchmark"
    root.mkdir()
    (root / "stores").symlink_to(toy.path / "stores")
    finish(root, toy.pairs, {"splits": {"train": 0.8, "test": 0.2}, "seed": 0})
    store = make_recordings(tmp_path / "recorded", 40)
    settings = toy_settings(root, tmp_path / "run", recordings=[str(store)], recordings_share=0.75)
    return replace(settings, reward_model=replace(toy_model(), positions=["thing.x"]))


def test_frames_are_read_as_positions_of_what_was_recorded(recorded: TrainConfig) -> None:
    steps = replace(recorded.loop, steps=60)
    train(replace(recorded, loop=steps))
    values = metrics(Path(recorded.out))
    assert np.mean([entry["position_error"] for entry in values[-10:]]) < 0.5 * values[0]["position_error"]
    assert RewardModel.from_pretrained(Path(recorded.out) / "model").config.positions == ["thing.x"]


def test_what_a_part_s_positions_cost(recorded: TrainConfig) -> None:
    data = RewardData(recorded.benchmark, (32, 32), "", [], recorded.stage["recordings"], ["thing.x"])
    config = RewardStageConfig(pairs=8, shortest=4)
    stage = RewardStage(config, recorded.reward_model, data, recorded.augmentation, 0, "cpu")
    assert data.recordings is not None
    parts = [data.recordings.draw(stage.random, 12) for _ in range(3)]  # whole: 12 frames, 8 of which are looked at
    truth = torch.from_numpy(np.stack([part.positions[[0, 2, 3, 5, 6, 8, 9, 11]] for part in parts]))
    off = truth.clone()
    off[0, 0, 0] += 2.0  # beyond BETA: |2| − 0.05 of one of 24
    assert stage._misplaced(off, parts, data.recordings.std).item() == pytest.approx(1.95 / 24, rel=1e-4)
    unit = 2.0 * float(data.recordings.std[0]) / 24
    assert stage.figures["position_error"] == pytest.approx(unit, rel=1e-4)
    for part in parts:
        part.positions[:] = np.nan
    assert stage._misplaced(off, parts, data.recordings.std).item() == 0


def test_half_a_batch_comes_from_recordings(recorded: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    data = RewardData(recorded.benchmark, (32, 32), "", [], recorded.stage["recordings"], ["thing.x"])
    config = RewardStageConfig(pairs=10, shortest=4, recordings_share=0.4)
    stage = RewardStage(config, recorded.reward_model, data, recorded.augmentation, 0, "cpu")
    seen: dict[str, Any] = {}
    huber = stage._huber
    monkeypatch.setattr(stage, "_huber", lambda batches: seen.setdefault("batches", batches) and huber(batches))
    stage.loss()
    assert [len(labels) for _, labels, _ in seen["batches"]] == [4, 6]
    assert all(logits.shape[1] == len(labels) == shares.shape[1] for logits, labels, shares in seen["batches"])


def test_recordings_are_part_of_what_a_run_is(recorded: TrainConfig, tmp_path: Path) -> None:
    train(replace(recorded, loop=replace(recorded.loop, steps=1)))
    make_recordings(tmp_path / "other", 20)
    stage = {**recorded.stage, "recordings": [str(tmp_path / "other")]}
    with pytest.raises(RoboAlignError, match=r"expected a checkpoint of this configuration"):
        train(replace(recorded, stage=stage, loop=replace(recorded.loop, steps=1)))


def test_what_recordings_need(recorded: TrainConfig, toy: Benchmark) -> None:
    with pytest.raises(RoboAlignError, match=r"expected stores that record the positions thing.x, found none"):
        train(replace(recorded, stage={**recorded.stage, "recordings": []}))
    with pytest.raises(
        RoboAlignError, match="expected episodes of more than 20 frames, as the model looks at, found one of 12"
    ):
        train(replace(recorded, reward_model=replace(recorded.reward_model, frames=20)))
    with pytest.raises(RoboAlignError, match="expected the splits and the seed of `benchmark build`"):
        train(replace(recorded, benchmark=str(toy.path)))
    assert not Path(recorded.out).exists()


# -- damaged --------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(recorded: TrainConfig) -> TrainConfig:
    """A run on the same recordings, shown beside themselves after damage."""
    stage = {**recorded.stage, "recordings": [], "damaged": recorded.stage["recordings"], "damaged_share": 0.75}
    return replace(recorded, stage=stage, reward_model=replace(recorded.reward_model, positions=[]))


def damaged_stage(settings: TrainConfig, **changes: Any) -> RewardStage:
    data = RewardData(settings.benchmark, (32, 32), damaged=settings.stage["damaged"])
    config = RewardStageConfig(**{"pairs": 8, "shortest": 4, **changes})
    return RewardStage(config, settings.reward_model, data, settings.augmentation, 0, "cpu")


def test_it_learns_which_of_two_videos_is_damaged(damaged: TrainConfig) -> None:
    train(replace(damaged, loop=replace(damaged.loop, steps=80)))
    seen = [entry["damage_seen"] for entry in metrics(Path(damaged.out))]
    assert np.mean(seen[-10:]) > 0.85
    assert np.mean(seen[-10:]) > np.mean(seen[:5])


def test_what_is_said_of_damage_costs(damaged: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = damaged_stage(damaged, weights=[1.0, 0, 0, 1.0, 0, 0], delta=0.25)
    frames, scores = np.zeros((9, 32, 32, 3), np.uint8), np.full((2, 2, 6), 0.5, np.float32)
    scores[0, :, 3] = 1.0, 0.2  # the first lost 0.8 of a score, the second nothing
    drawn = [Damaged(frames, frames[:8], "move it right", scores[k], judged) for k, judged in enumerate((True, False))]
    found = torch.full((1, 4, 6), 0.5)
    found[0, :, 3] = torch.tensor([0.9, 0.5, 0.4, 0.3])  # clean, clean, damaged, damaged
    found[0, 1, 0] = 0.6  # what came of the task, where no oracle judged it; what it lost is asked
    monkeypatch.setattr(stage, "_alike", lambda videos, ids, augmentation: found.logit())
    near = 0.5 * np.square([0.1, 0.2, 0.2]).sum() / 4 / 2  # of four videos and two weighed scores; 0.6 is not asked
    lost = (0.25 * (0.3 - 0.125) + 0.5 * 0.2**2 + 0.5 * 0.1**2) / 2 / 2  # off by 0.3, beyond delta; 0.2; and 0.1
    order = math.log1p(math.exp(-0.5 * HIGHEST[3] / 0.5))  # of the first alone
    assert stage._beside(drawn, 8).item() == pytest.approx(near + lost + 0.05 * order, rel=1e-4)
    assert stage.figures["damage_seen"] == 1.0


def test_shares_of_a_batch_add_up(damaged: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, seen = damaged_stage(damaged, pairs=20, damaged_share=0.5), dict[str, int]()
    beside, huber = stage._beside, stage._huber
    monkeypatch.setattr(stage, "_beside", lambda drawn, count: seen.update(drawn=len(drawn)) or beside(drawn, count))
    monkeypatch.setattr(
        stage, "_huber", lambda batches: seen.update(pairs=sum(len(one[1]) for one in batches)) or huber(batches)
    )
    stage.loss()
    assert seen == {"drawn": 5, "pairs": 10}
    alone = damaged_stage(damaged, pairs=20, damaged_share=1.0)
    alone.loss()[0].backward()  # nothing but damaged videos
    with pytest.raises(RoboAlignError, match=r"damaged_share: expected room for at least one video and its damage"):
        damaged_stage(damaged, pairs=8, damaged_share=0.05)
    with pytest.raises(RoboAlignError, match=r"damaged_share \+ stage.recordings_share: expected at most 1, found 1.2"):
        RewardStageConfig(damaged=["a"], recordings=["b"], damaged_share=0.6, recordings_share=0.6)


def test_a_run_begins_with_the_weights_of_another(damaged: TrainConfig, tmp_path: Path) -> None:
    short = replace(damaged, loop=replace(damaged.loop, steps=2))
    train(short)
    stage = {**damaged.stage, "start": [damaged.out]}
    train(replace(short, out=str(tmp_path / "more"), stage=stage, loop=replace(short.loop, lr=1e-12)))
    first, second = (
        load_tensors(run / "model" / "reward" / "reward.safetensors") for run in (Path(damaged.out), tmp_path / "more")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(RoboAlignError, match=r"absent"):
        train(replace(short, out=str(tmp_path / "third"), stage={**stage, "start": [str(tmp_path / "absent")]}))


def test_a_run_begins_with_the_mean_of_others(tmp_path: Path) -> None:
    weights = {"one": {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}}
    weights["two"] = {"w": torch.tensor([3.0, 5.0]), "n": torch.tensor(3)}
    weights["short"] = {"w": torch.tensor([1.0]), "n": torch.tensor(3)}
    for name, tensors in weights.items():
        Checkpoints(tmp_path / name / "checkpoints").save(1, {"model": tensors}, {})
    found = mean_weights([str(tmp_path / "one"), str(tmp_path / "two")])
    assert found["w"].tolist() == [2.0, 3.5]
    assert torch.equal(found["n"], torch.tensor(3))
    with pytest.raises(RoboAlignError, match=r"short: weights do not fit.* w: expected \(2,\), found \(1,\)"):
        mean_weights([str(tmp_path / "one"), str(tmp_path / "short")])


# -- judgements -----------------------------------------------------------------------------------------------------


def judgements(path: Path, numbers: list[int], scores: np.ndarray, **columns: Any) -> Path:
    table = {"number": numbers, **{key: scores[:, k] for k, key in enumerate(KEYS)}, **columns}
    pq.write_table(pa.table(table), path)
    return path


def test_a_teacher_s_scores_take_the_place_of_the_benchmark_s(toy: Benchmark, tmp_path: Path) -> None:
    numbers = [pair.number for pair in toy.pairs if pair.number % 2]
    scores = np.tile([1.5, 2.0, 0.5, 1.0, 0.0, 1.0], (len(numbers), 1))
    path = judgements(tmp_path / "j.parquet", [*numbers, numbers[0]], np.concatenate([scores, scores[:1] * 0]))
    stage = new_stage(toy, judgements=str(path))
    assert all(pair.number % 2 for pair in stage.pairs)
    np.testing.assert_allclose(stage.labels[1], [0.5, 1, 0.5, 1, 0, 0.5])
    np.testing.assert_allclose(stage.labels[0], [0.25, 0.5, 0.25, 0.5, 0, 0.25])  # judged twice: the mean
    identity = RewardData(str(toy.path), (32, 32)).identity
    assert stage.data.identity[:1] == identity
    assert len(stage.data.identity) == 2


def test_a_judge_s_table_belongs_to_the_pairs_that_it_saw(toy: Benchmark, tmp_path: Path) -> None:
    reseeded = [replace(pair, instruction=f"{pair.instruction}!") for pair in toy.pairs]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "stores").symlink_to(toy.path / "stores")
    other = finish(tmp_path / "other", reseeded, {})
    scores = np.ones((len(toy.pairs), 6), np.float32)
    about = {"model": "judge", "pairs": toy.info["sha256"]["pairs.parquet"]}
    judged = JudgementTable(tmp_path / "judge.parquet", about)
    judged.add(range(len(toy.pairs)), Judgement(Scores(scores), scores * 0, ((),) * len(toy.pairs)))
    judged.finish()
    assert len(read_judgements(judged.path, toy)) == len(toy.pairs)
    with pytest.raises(RoboAlignError, match=r"judge\.parquet: expected judgements of the pairs of .*other \(SHA-256"):
        read_judgements(judged.path, other)
    for text, message in ((b"{", "expected JSON"), (b"[]", "expected an object"), (b"{}", r"another .* \(None\)")):
        table = pq.read_table(judged.path).replace_schema_metadata({"roboalign.judge": text})
        pq.write_table(table, tmp_path / "damaged.parquet")
        with pytest.raises(RoboAlignError, match=rf"damaged\.parquet: .*{message}"):
            read_judgements(tmp_path / "damaged.parquet", toy)


def test_damaged_judgements_are_refused(toy: Benchmark, tmp_path: Path) -> None:
    good, last = np.ones((2, 6)), len(toy.pairs) - 1
    for path, message in (
        (tmp_path / "none.parquet", "expected a table of judgements, found nothing"),
        (judgements(tmp_path / "a.parquet", [0, 999], good), f"number: expected 0 to {last}, found 0 to 999"),
        (
            judgements(tmp_path / "b.parquet", [0, 1], good * 3),
            "manipulation_success of video 0: expected 0 to 2, found 3",
        ),
        (judgements(tmp_path / "c.parquet", [0, None], good), "expected the column number without empty cells"),
    ):
        with pytest.raises(RoboAlignError, match=message):
            read_judgements(path, toy)
    (tmp_path / "d.parquet").write_text("PAR1")
    with pytest.raises(RoboAlignError, match="expected a readable parquet file"):
        read_judgements(tmp_path / "d.parquet", toy)


# -- resume ---------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_bit_by_bit(toy: Benchmark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config(name: str) -> TrainConfig:
        settled = toy_settings(toy.path, tmp_path / name, pairs=6, validate_every=4, validation=6, short_share=0.5)
        model = replace(settled.reward_model, text=replace(settled.reward_model.text, dropout=0.2))
        loop = replace(settled.loop, checkpoint_every=2)
        return replace(settled, reward_model=model, augmentation=AugmentationConfig(), loop=loop)

    train(config("whole"))
    update, calls = Trainer._update, list[int]()

    def counted(self: Trainer) -> Any:
        calls.append(1)
        if len(calls) > 3:
            self.stage.loss()  # draws are made, weights are not changed
            raise KeyboardInterrupt
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", counted)
        with pytest.raises(KeyboardInterrupt):
            train(config("broken"))
    train(config("broken"))
    whole, broken = (tmp_path / name for name in ("whole", "broken"))
    for name in ("model", "optimizer", "random"):
        first, second = (
            load_tensors(run / "checkpoints" / "step-00000006" / f"{name}.safetensors") for run in (whole, broken)
        )
        assert all(torch.equal(first[key], second[key]) for key in first | second), name
    for path in (whole / "model" / "reward").iterdir():
        assert path.read_bytes() == (broken / "model" / "reward" / path.name).read_bytes()
    drop: Callable[[dict[str, float]], dict[str, float]] = lambda entry: {**entry, "seconds": 0}  # noqa: E731
    assert [drop(entry) for entry in metrics(whole)] == [drop(entry) for entry in metrics(broken)]


def test_another_benchmark_or_size_does_not_resume(toy: Benchmark, tmp_path: Path) -> None:
    config = toy_settings(toy.path, tmp_path / "run", steps=1, pairs=4, validation=4)
    train(config)
    with pytest.raises(RoboAlignError, match=r"expected a checkpoint of this configuration.*\(model"):
        train(replace(config, reward_model=replace(config.reward_model, heads=3)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "stores").symlink_to(toy.path / "stores")
    finish(tmp_path / "other", toy.pairs[:-1], {})
    with pytest.raises(RoboAlignError, match=r"expected a checkpoint of this configuration.*\(data"):
        train(replace(config, benchmark=str(tmp_path / "other")))


# -- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"benchmark": ""}, "benchmark: expected the folder of a benchmark, found nothing"),
        ({"benchmark": "/nowhere"}, "/nowhere: expected a finished benchmark"),
        ({"data": ["store"]}, r"stage reward: expected benchmark=FOLDER alone, found data=\['store'\]"),
        ({"world_model": "tabletop"}, "stage reward: expected benchmark=FOLDER alone, found world_model=tabletop"),
        ({"stage": {"name": "reward", "balance": ["colour"]}}, "stage.balance: expected some of origin.*'colour'"),
        ({"stage": {"name": "reward", "weights": [1.0]}}, "stage.weights: expected 6 numbers"),
        ({"stage": {"name": "reward", "delta": 0.0}}, "stage.delta: expected a number above 0"),
        ({"stage": {"name": "reward", "recordings_share": 2.0}}, "stage.recordings_share: expected a share"),
        ({"stage": {"name": "reward", "positions_weight": -1.0}}, "stage.positions_weight: expected a number of 0"),
        ({"stage": {"name": "reward", "shortest": 20}}, "stage.shortest: expected at most 8 frames, found 20"),
        (
            {"stage": {"name": "reward", "labellers": ["human"]}},
            "expected pairs of the split train by human, found none",
        ),
        ({"stage": {"name": "probe"}}, "benchmark: expected nothing, only stage=reward learns from one"),
    ],
)
def test_nothing_is_written_for_a_run_that_cannot_be(
    toy: Benchmark, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    config = replace(toy_settings(toy.path, tmp_path / "run"), **changes)
    with pytest.raises(RoboAlignError, match=message):
        train(config)
    assert not (tmp_path / "run").exists()


def test_a_benchmark_without_validation_is_refused(toy: Benchmark, tmp_path: Path) -> None:
    (tmp_path / "stores").symlink_to(toy.path / "stores")
    kept = [pair for pair in toy.pairs if pair.split is not Split.VALIDATION]
    finish(tmp_path, [replace(pair, number=number) for number, pair in enumerate(kept)], {})
    with pytest.raises(RoboAlignError, match="expected pairs of the split validation, found none"):
        train(toy_settings(tmp_path, tmp_path / "run"))


def test_an_instruction_that_is_too_long_is_found_before_training(toy: Benchmark, tmp_path: Path) -> None:
    (tmp_path / "stores").symlink_to(toy.path / "stores")
    first = replace(toy.pairs[0], instruction="one two three four five six seven eight nine")
    finish(tmp_path, [first, *toy.pairs[1:]], {})
    with pytest.raises(RoboAlignError, match="expected at most 8 words, found 9 in 'one two"):
        train(toy_settings(tmp_path, tmp_path / "run"))


def test_the_yaml_holds_the_defaults() -> None:
    from omegaconf import OmegaConf

    from roboalign_core.configs import config_dir

    value: Any = OmegaConf.to_container(OmegaConf.load(config_dir() / "stage" / "reward.yaml"))
    stage = {key: item for key, item in value["stage"].items() if key != "name"}
    assert RewardStageConfig(**stage) == RewardStageConfig()
    LoopConfig(**value["loop"])
