"""The stage draws what it should, watches itself, leaves what a reader needs, and refuses what makes no sense."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from roboalign_core.errors import RoboAlignError
from roboalign_core.tensors import load_tensors
from roboalign_core.training.data import TrainingData
from roboalign_core.training.grpo.build import build_stage
from roboalign_core.training.grpo.config import GrpoStageConfig, GuardConfig
from roboalign_core.training.grpo.imagination import Futures, Prompts
from roboalign_core.training.grpo.objective import advantages, objective
from roboalign_core.training.grpo.policy import Categorical, Central, Groups
from roboalign_core.training.grpo.rewards import Mixture
from roboalign_core.training.grpo.stage import GrpoStage
from roboalign_core.training.grpo.watch import Guard
from roboalign_core.training.loop import Trainer
from roboalign_core.training.verb import TrainConfig, _settings, train
from roboalign_core.world_model import WorldModel

Settings = Callable[..., TrainConfig]
POLICIES = [("frame", "central"), ("frame", "categorical"), ("token", "categorical")]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def make_stage(config: TrainConfig, reward: Mixture | None = None) -> GrpoStage:
    """As the command makes it."""
    _, settings = _settings(config.stage)
    torch.manual_seed(0)
    data = TrainingData(config.data, (32, 32))
    return build_stage(settings, Path(config.world_model), data, config.augmentation, config.loop, reward)


# -- learning -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("order", "policy"), POLICIES)
def test_one_update_of_what_was_just_drawn_is_on_policy(
    settings: Settings, tmp_path: Path, world_model: Path, monkeypatch: pytest.MonkeyPatch, order: str, policy: str
) -> None:
    """Ratios of exactly 1, and no divergence from the reference before anything was learned."""
    config = settings("grpo", tmp_path / "run", world_model=world_model, updates=1, order=order, policy=policy)
    stage, given, weigh = make_stage(config), [], objective

    def seen(new: torch.Tensor, old: torch.Tensor, *others: Any) -> Any:
        given.append(torch.equal(new, old))
        return weigh(new, old, *others)

    monkeypatch.setattr("roboalign_core.training.grpo.stage.objective", seen)
    losses = [loss.item() for update in stage.updates() for loss in update]
    assert given == [True] * 4
    if policy == "categorical":  # where every token counts, so that normalised advantages cancel
        assert sum(losses) == pytest.approx(0, abs=1e-6)
    assert stage.figures()["divergence"] == 0
    assert stage.figures()["clipped"] == 0


@pytest.mark.parametrize("discount", [0.5, None])
def test_tokens_are_paid_for_what_follows_from_their_frame(
    settings: Settings, tmp_path: Path, world_model: Path, monkeypatch: pytest.MonkeyPatch, discount: float | None
) -> None:
    """Brightness is of each frame: within a group each frame is held against the same frame of the others."""
    stage = make_stage(settings("grpo", tmp_path / "run", world_model=world_model, updates=1, discount=discount))
    scores, given, weigh = {}, [], objective

    def seen(new: torch.Tensor, old: torch.Tensor, reference: torch.Tensor, advantage: torch.Tensor, *rest: Any) -> Any:
        given.append(advantage)
        return weigh(new, old, reference, advantage, *rest)

    monkeypatch.setattr("roboalign_core.training.grpo.stage.objective", seen)
    stage.on_batch = lambda futures, found: scores.update(found)
    for update in stage.updates():
        list(update)
    brightness = torch.from_numpy(scores["brightness"])
    paid = torch.from_numpy(stage.reward.returns(scores, 3, discount))
    expected = advantages(paid.unflatten(0, (4, -1))).flatten(0, 1).float()
    tokens = torch.cat(given).unflatten(1, (3, -1))
    torch.testing.assert_close(tokens, expected[..., None].expand_as(tokens))
    same = (expected[:, 1:] == expected[:, :1]).all()
    assert bool(same) == (discount is None)
    assert (brightness[:, 1:] != brightness[:, :1]).any()


@pytest.mark.parametrize(("order", "policy"), POLICIES)
def test_gradients_add_up_however_they_are_dealt_out(
    settings: Settings, tmp_path: Path, world_model: Path, order: str, policy: str
) -> None:
    gradients = []
    for micro in (1, 3, 4):
        stage = make_stage(
            settings(
                "grpo", tmp_path / "run", world_model=world_model, updates=1, micro=micro, order=order, policy=policy
            )
        )
        for loss in next(stage.updates()):
            loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in stage.module.policy.parameters() if p.grad is not None]))
    for other in gradients[1:]:
        assert (other - gradients[0]).norm() < 0.05 * gradients[0].norm()  # bfloat16, where it is native


def test_only_tokens_that_were_drawn_count(settings: Settings, tmp_path: Path, world_model: Path) -> None:
    """Those of which the network is sure neither learn nor thin out what the others learn."""
    stage = make_stage(settings("grpo", tmp_path / "run", world_model=world_model, updates=1, exploration=0.3))
    assert isinstance(stage.drawing, Central)
    for update in stage.updates():
        for loss in update:
            loss.backward()
    figures = stage.figures()
    assert 0 < figures["drawn"] < 1
    assert figures["entropy"] > 0
    stage.drawing = Central(1e-3)
    stage.module.zero_grad()
    for loss in next(stage.updates()):
        assert loss.item() == 0
        loss.backward()
    assert stage.figures()["drawn"] == 0
    assert all(not p.grad.any() for p in stage.module.policy.parameters() if p.grad is not None)


def test_every_window_is_learned_from_in_every_epoch(settings: Settings, tmp_path: Path, world_model: Path) -> None:
    config = settings("grpo", tmp_path / "run", world_model=world_model, updates=2, epochs=3)
    updates = [len(list(update)) for update in make_stage(config).updates()]
    assert updates == [2] * 6  # of 4 windows, 2 an update, 1 at once


def test_held_out_episodes_are_never_drawn(
    settings: Settings, tmp_path: Path, world_model: Path, store: Path, new_store: Callable[..., Path]
) -> None:
    stage = make_stage(settings("grpo", tmp_path / "run", world_model=world_model))
    held = stage.validation.prompts.actions[:, 0]
    actions = {tuple(row) for prompts in [stage.prompts.draw(400)] for row in prompts.actions.flatten(0, 1).tolist()}
    assert not {tuple(row) for row in held.tolist()} & actions

    other = new_store(tmp_path / "other", episodes=3, first=50)
    config = settings("grpo", tmp_path / "run", world_model=world_model)
    config.stage["validation"]["data"] = [str(other)]
    stage = make_stage(config)
    theirs = {tuple(row) for row in TrainingData([str(other)], (32, 32)).caches[0].actions.tolist()}
    assert {tuple(row) for row in stage.validation.prompts.actions.flatten(0, 1).tolist()} <= theirs
    assert set(stage.prompts.draw(4).instructions) <= {"go left", "go right"}


def test_prompts_of_several_stores_keep_their_instructions(
    settings: Settings, tmp_path: Path, world_model: Path, store: Path, new_store: Callable[..., Path]
) -> None:
    other = new_store(tmp_path / "other", episodes=5, first=51)
    data = TrainingData([str(store), str(other)], (32, 32))
    clip = data.sampler(4, settings("grpo", tmp_path, world_model=world_model).augmentation, 0).sample(60)
    assert set(clip.episode.tolist()) & set(range(16, 21))
    texts = [cache.instructions[e] for cache in data.caches for e in range(len(cache))]
    assert data.instructions(clip.episode) == [texts[e] for e in clip.episode.tolist()]
    frames = data.frames(clip.episode, clip.start)
    actions = data.actions(clip.episode, clip.start)
    assert torch.equal(actions, clip.actions[:, 0])
    assert frames.shape == clip.frames[:, 0].shape


def test_a_frame_repeats_where_the_recorded_one_changed() -> None:
    frames = torch.zeros(1, 4, 2, 2, 3, dtype=torch.uint8)
    frames[0, 1:] = 100  # the recorded future changes once, in its first frame
    tokens = Groups(torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 3, 1), torch.zeros(2, 3, 1))
    windows = Prompts(frames, torch.zeros(1, 3, 1), [""])
    still = np.array([[True, True, False], [False, True, True]])
    futures = Futures(windows, tokens, np.zeros((2, 4, 2, 2, 3), np.uint8), still)
    assert futures.repetition(0.05) == 0.5
    assert futures.repetition(0.5) == 0.0


# -- what a run leaves ----------------------------------------------------------------------------------------------


def test_what_a_run_leaves(settings: Settings, tmp_path: Path, world_model: Path) -> None:
    config = settings("grpo", tmp_path / "run", steps=4, world_model=world_model)
    results = train(config)
    logged = metrics(tmp_path / "run")
    assert [entry["step"] for entry in logged] == [1, 2, 3, 4]
    expected = {"loss", "reward", "reward_spread", "reward_brightness", "divergence", "entropy", "clipped", "ties"}
    expected |= {"drawn"}
    expected |= {"repetition_rate", "tokens_prefilled", "tokens_sampled", "tokens_prefilled_ancestor", "grad", "lr"}
    assert (
        expected | {f"held_out_{name}" for name in ("score", "reward", "repetition_rate", "step")} <= logged[0].keys()
    )
    assert [entry["held_out_step"] for entry in logged] == [0, 2, 2, 4]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {"reward", "divergence", "held_out_score"} <= set(events.Tags()["scalars"])
    picture = events.Images("recorded_best_worst")[0]
    assert (picture.width, picture.height) == (4 * 32, 3 * 32)
    assert results["tokens_prefilled"] == 4 * (16 + 4 + 2 + 4 * 2 * 2)  # context, frame, action; 4 futures, 2 actions
    assert results["tokens_prefilled_ancestor"] == 4 * 4 * ((16 + 6) + (16 + 12) + (16 + 18))
    assert results["prefill_share"] == pytest.approx(152 / 1344)
    assert results["validation_best"] >= results["validation_start"]
    assert results["validation_name"] == "psnr"
    assert results["parameters"] == sum(p.numel() for p in make_stage(config).module.policy.parameters())
    assert results["stopped"] == ""


def test_the_best_weights_on_held_out_windows_are_exported(
    settings: Settings, tmp_path: Path, world_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of step 2, if that is when the score was best; ``keep=last`` exports what training ended with."""
    scores = {0: 1.0, 2: 3.0, 4: 2.0}
    for keep in ("best", "last"):
        config = settings("grpo", tmp_path / keep, steps=4, world_model=world_model)
        config.stage["validation"]["keep"] = keep
        seen: list[dict[str, torch.Tensor]] = []
        validate = GrpoStage._validate

        def judged(self: GrpoStage, kept: list[Any] = seen, real: Any = validate) -> None:
            kept.append({key: value.clone() for key, value in self.module.policy.state_dict().items()})
            found = {"score": scores[self.steps], "reward": 0.0, "repetition_rate": 0.0}
            self.validation = lambda model, order: found  # type: ignore[assignment]
            real(self)

        with monkeypatch.context() as patch:
            patch.setattr(GrpoStage, "_validate", judged)
            results = train(config)
        assert results["validation_best_step"] == 2
        assert (results["validation_start"], results["validation_best"]) == (1.0, 3.0)
        expected = seen[1 if keep == "best" else 2]["backbone.norm.weight"].bfloat16()
        weights = load_tensors(tmp_path / keep / "model" / "dynamics" / "model.safetensors")
        assert torch.equal(weights["model.norm.weight"], expected)


@pytest.mark.parametrize("order", ["frame", "token"])
def test_the_validation_draws_the_same_noise_each_time(
    settings: Settings, tmp_path: Path, world_model: Path, order: str
) -> None:
    """At a temperature, too, equal weights are judged alike; the training's own draws are not touched."""
    model, found = WorldModel.from_pretrained(world_model), {}
    for temperature in (0.0, 1.0):
        config = settings("grpo", tmp_path / "run", world_model=world_model, order=order, policy="categorical")
        config.stage["validation"]["temperature"] = temperature
        stage, before = make_stage(config), torch.get_rng_state()
        found[temperature] = stage.validation(model, order)
        assert stage.validation(model, order) == found[temperature]
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0.0] != found[1.0]


def test_a_run_starts_from_the_mean_of_others(settings: Settings, tmp_path: Path, world_model: Path) -> None:
    """Also the weights that are kept in case none is better; the reference stays the world model."""
    runs = [tmp_path / str(seed) for seed in range(2)]
    for seed, run in enumerate(runs):
        config = settings("grpo", run, steps=2, world_model=world_model)
        config.loop.seed, config.loop.lr = seed, 1e-2
        config.stage["validation"]["keep"] = "last"
        train(config)
    config = settings("grpo", tmp_path / "mean", steps=1, world_model=world_model, start=[str(run) for run in runs])
    config.loop.lr = 1e-12
    config.stage["validation"]["keep"] = "last"
    train(config)
    models = [WorldModel.from_pretrained(run / "model", "cpu", torch.float32) for run in (*runs, tmp_path / "mean")]
    first, second, mean = (model.dynamics.table() for model in models)
    assert (first - second).norm() > 10 * ((first + second) / 2 - mean).norm()  # bfloat16 is what is left
    policies = [load_tensors(run / "checkpoints" / "step-00000002" / "model.safetensors") for run in runs]
    found = load_tensors(tmp_path / "mean" / "checkpoints" / "step-00000001" / "model.safetensors")
    for part in ("policy", "best"):
        first, second, mean = (one[f"{part}.backbone.norm.weight"] for one in (*policies, found))
        if part == "policy":
            assert not torch.equal(first, second)
            torch.testing.assert_close(mean, (first + second) / 2)
        torch.testing.assert_close(mean, found["policy.backbone.norm.weight"])
    assert metrics(tmp_path / "mean")[0]["divergence"] > 0
    with pytest.raises(RoboAlignError, match=r"stage\.start: nowhere: expected a run with world_model=.*found None"):
        train(settings("grpo", tmp_path / "third", world_model=world_model, start=["nowhere"]))


@pytest.mark.parametrize("name", ["divergence", "repetition"])
def test_an_alarm_ends_the_run_for_good(
    settings: Settings, tmp_path: Path, world_model: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = settings(
        "grpo",
        tmp_path / "run",
        steps=9,
        world_model=world_model,
        guard={"divergence": 100.0, name: 1e-12, "patience": 2},
    )
    if name == "repetition":
        monkeypatch.setattr(Futures, "repetition", lambda self, threshold: 0.25)
    results = train(config)
    assert results["steps"] == 2
    assert results["stopped"].startswith(f"{name} ")
    assert results["stopped"].endswith(" at step 2")
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    again = train(config)
    assert (again["steps"], again["stopped"]) == (2, results["stopped"])


def test_one_alarm_is_forgiven() -> None:
    guard = Guard(GuardConfig(divergence=1.0, repetition=0.5, patience=2))
    for step, value in enumerate([2.0, 0.5, 2.0, float("nan")]):
        assert not guard.stopped
        guard.watch(step, value, 0.0)
    assert guard.stopped == "divergence nan above 1 at step 3"
    other = Guard(guard.config)
    other.load_state(json.loads(json.dumps(guard.state())))
    assert other.stopped == guard.stopped


def test_a_reward_model_can_be_taught_on_what_is_imagined_now(
    settings: Settings, tmp_path: Path, world_model: Path
) -> None:
    config = settings("grpo", tmp_path / "run", steps=5, world_model=world_model)
    stage, seen = make_stage(config), []
    stage.on_batch_every = 2

    def teach(futures: Futures, scores: Mapping[str, Any]) -> None:
        seen.append((stage.steps, futures.imagined.shape, scores["brightness"].shape, len(futures.instructions)))
        assert np.array_equal(futures.imagined[:, 0], futures.recorded[:, 0])

    stage.on_batch = teach
    Trainer(stage, config.loop, tmp_path / "run", {}).train()
    assert seen == [(step, (16, 4, 32, 32, 3), (16, 3), 16) for step in (0, 2, 4)]


# -- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group": 1}, "stage.group: expected at least 2 futures"),
        ({"prompts": 0}, "stage.prompts: expected at least 1"),
        ({"updates": 3}, r"stage.updates: expected a divisor of prompts \(4\), found 3"),
        ({"order": "diagonal"}, "stage.order: expected one of"),
        ({"policy": "greedy"}, "stage.policy: expected one of .*, found 'greedy'"),
        ({"policy": "central", "order": "token"}, "stage.policy: expected categorical with order=token"),
        ({"exploration": 0.0}, "stage.exploration: expected a number above 0, found 0"),
        ({"discount": 1.5}, r"stage.discount: expected a number in \[0, 1\] or null, found 1.5"),
        ({"discount": float("nan")}, r"stage.discount: expected a number in \[0, 1\] or null, found nan"),
        ({"clip": 1.0}, r"stage.clip: expected a number in \(0, 1\), found 1"),
        ({"divergence_weight": -1.0}, "stage.divergence_weight: expected a number of 0 or more"),
        ({"rewards": []}, "stage.rewards: expected at least one"),
        ({"rewards": ["beauty"]}, "stage.rewards: expected names among .*, found 'beauty'"),
        ({"rewards": ["mae"], "weights": {"mse": 1.0}}, "reward weights: expected names among mae, found 'mse'"),
        ({"rewards": ["psnr"]}, r"stage.validation.score: expected none of the training's rewards \(psnr\)"),
        ({"validation": {"every": 0}}, "stage.validation.every: expected at least 1"),
        ({"validation": {"holdout": 0.0}}, "stage.validation.holdout: expected a share"),
        ({"validation": {"temperature": float("nan")}}, "stage.validation.temperature: expected a finite number of 0"),
        ({"validation": {"keep": "both"}}, "stage.validation.keep: expected one of"),
        ({"guard": {"divergence": 0.0}}, "stage.guard.divergence: expected a number above 0"),
        ({"frames": 6}, r"stage.frames: expected at most 5 \(max_frames - 1\), found 6"),
        ({"rewards": ["positions"]}, "probe.json"),
        ({"updates": 2.5}, "stage grpo: "),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    settings: Settings, tmp_path: Path, world_model: Path, changes: dict[str, Any], message: str
) -> None:
    config = settings("grpo", tmp_path / "run", world_model=world_model, **changes)
    with pytest.raises(RoboAlignError, match=message):
        train(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("order", "policy", "kind"),
    [("frame", "", Central), ("token", "", Categorical), ("frame", "categorical", Categorical)],
)
def test_the_order_decides_how_futures_are_drawn_where_nobody_does(
    settings: Settings, tmp_path: Path, world_model: Path, order: str, policy: str, kind: type
) -> None:
    stage = make_stage(settings("grpo", tmp_path / "run", world_model=world_model, order=order, policy=policy))
    assert isinstance(stage.drawing, kind)


def test_the_settings_mirror_their_file() -> None:
    node = OmegaConf.load(Path(__file__).resolve().parents[2] / "configs" / "stage" / "grpo.yaml").stage
    written = {key: value for key, value in OmegaConf.to_container(node).items() if key != "name"}
    assert written == OmegaConf.to_container(OmegaConf.structured(GrpoStageConfig))


def test_references_that_do_not_fit_are_refused(
    settings: Settings, tmp_path: Path, world_model: Path, new_world_model: Callable[..., Path]
) -> None:
    others = {
        "expected the layout": new_world_model(tmp_path / "bins", action_bins=8),
        "expected the range of actions": new_world_model(tmp_path / "range", action_high=[2.0, 2.0]),
        "expected the tokenizer of .*, found another": new_world_model(tmp_path / "seed", seed=1),
        "model 'nowhere'": "nowhere",
    }
    for message, reference in others.items():
        config = settings("grpo", tmp_path / "run", world_model=world_model, reference=str(reference))
        with pytest.raises(RoboAlignError, match=message):
            train(config)
        assert not (tmp_path / "run").exists()


def test_a_reference_of_its_own_is_what_divergence_is_measured_from(
    settings: Settings, tmp_path: Path, world_model: Path, new_world_model: Callable[..., Path]
) -> None:
    other = WorldModel.from_pretrained(world_model, dtype=torch.float32)
    with torch.no_grad():
        other.dynamics.frame_head.out.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other", torch.float32)
    config = settings("grpo", tmp_path / "run", world_model=world_model, updates=1, reference=str(tmp_path / "other"))
    stage = make_stage(config)
    for update in stage.updates():
        list(update)
    assert stage.figures()["divergence"] > 1e-3
