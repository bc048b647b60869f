"""The command ``roboalign train stage=…``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from roboalign_core.bundled import resolve_model
from roboalign_core.episodes.augment import AugmentationConfig
from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.choose import judge_settings
from roboalign_core.precision import find_device, native_dtype
from roboalign_core.reward.config import RewardModelConfig
from roboalign_core.reward.data import RewardData
from roboalign_core.training.checkpoints import CHECKPOINTS, Checkpoints
from roboalign_core.training.data import TrainingData
from roboalign_core.training.decoder import DecoderStage, DecoderStageConfig
from roboalign_core.training.dynamics import DynamicsStage, DynamicsStageConfig
from roboalign_core.training.grpo.build import build_stage
from roboalign_core.training.grpo.config import GrpoStageConfig
from roboalign_core.training.grpo.online.build import build_distillation, make_teacher
from roboalign_core.training.judge import JudgeStage, JudgeStageConfig
from roboalign_core.training.loop import LoopConfig, Stage, Trainer, UpdatesStage
from roboalign_core.training.pairs import PairData
from roboalign_core.training.parallel import Replica
from roboalign_core.training.probe import ProbeStage, ProbeStageConfig
from roboalign_core.training.progress import ProgressStage, ProgressStageConfig
from roboalign_core.training.reward import RewardStage, RewardStageConfig, reward_data
from roboalign_core.training.state import STATE, StateRange
from roboalign_core.training.tokenizer import TokenizerStage, TokenizerStageConfig
from roboalign_core.training.windows import WindowCache, WindowSource
from roboalign_core.verb import Verb
from roboalign_core.world_model.config import DynamicsConfig, TokenizerConfig, WorldModelConfig
from roboalign_core.world_model.model import WorldModel, load_config, load_tokenizer

logger = logging.getLogger(__name__)


@dataclass
class ModelConfig:
    """Sizes of the networks (``configs/model/``); what depends on the robot is read from the data.

    Attributes:
        tokenizer, dynamics, action_bins, window: see :class:`WorldModelConfig`.
        action_percentile: per cent of the actions beyond either end of the binned range; 0: minimum to maximum.
    """

    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    action_bins: int = 256
    action_percentile: float = 1.0
    window: int = 8


@dataclass
class TrainConfig:
    """One training run.

    Attributes:
        data: folders of episode stores; of benchmarks for ``judge``.
        benchmark: folder of a benchmark, which the stage ``reward`` learns from instead; with ``stage.online.every``,
            what the student of ``grpo`` goes on learning.
        out: run folder; the same command goes on where it stopped.
        world_model: what the stage builds on: the tokenizer's model folder for ``dynamics``, a world model for
            ``decoder``, ``grpo`` and ``progress``.
        stage: the stage's name and settings (``configs/stage/``).
        judge: with ``stage.online.every``, the teacher's name and settings (``configs/judge/``).
        model, reward_model, augmentation, loop: see their classes.
    """

    data: list[str] = field(default_factory=list)
    benchmark: str = ""
    out: str = MISSING
    world_model: str = ""
    stage: Any = MISSING
    judge: Any = None
    model: ModelConfig = field(default_factory=ModelConfig)
    reward_model: RewardModelConfig = field(default_factory=RewardModelConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def train(config: TrainConfig) -> Mapping[str, Any]:
    """Train one stage; returns its last figures."""
    name, settings = _settings(config.stage)
    build, _ = STAGES[name]
    loop = asdict(config.loop)
    find_device(config.loop.device)
    torch.manual_seed(config.loop.seed)
    data = _learned_from(config, name, settings)
    stage = build(config, settings, data)
    kept = {key: value for key, value in asdict(settings).items() if key != "cache"}  # where it lies changes nothing
    online = getattr(stage, "online", None)
    if not online:
        kept.pop("online", None)
    identity = {
        "stage": {"name": name, **kept},
        "model": asdict(config.reward_model if name == "reward" else config.model),
        "augmentation": asdict(config.augmentation),
        "loop": {key: value for key, value in loop.items() if key not in ("checkpoint_every", "log_every")},
        "data": data.identity,
        "world_model": config.world_model,
        **({"online": online.identity} if online else {}),
    }
    trainer: type[Any] = Replica if getattr(stage, "replica", False) else Trainer
    figures = trainer(stage, config.loop, Path(config.out), identity).train()
    parameters = sum(p.numel() for p in stage.module.parameters())
    return {"episodes": data.episodes, "parameters": parameters, **figures}


def _learned_from(config: TrainConfig, name: str, settings: Any) -> TrainingData | RewardData | PairData:
    """Episodes, or the pairs of benchmarks."""
    online = name == "grpo" and settings.online.every
    if config.judge is not None and not online:
        raise RoboAlignError(f"judge: expected none without stage=grpo stage.online.every=N, found {config.judge}")
    if online and not config.benchmark:
        raise RoboAlignError(
            "benchmark: expected the folder of the student's benchmark for stage.online, found nothing; "
            "set benchmark=FOLDER"
        )
    if name == "reward":
        return _pairs(config, settings)
    if config.benchmark and not online:
        raise RoboAlignError(
            "benchmark: expected nothing, only stage=reward learns from one, and stage=grpo with stage.online.every, "
            f"found {config.benchmark!r}"
        )
    return PairData(config.data) if name == "judge" else TrainingData(config.data, _frame_size(config))


def _pairs(config: TrainConfig, settings: RewardStageConfig) -> RewardData:
    if config.data or config.world_model:
        found = f"data={config.data}" if config.data else f"world_model={config.world_model}"
        raise RoboAlignError(f"stage reward: expected benchmark=FOLDER alone, found {found}")
    if not config.benchmark:
        raise RoboAlignError("benchmark: expected the folder of a benchmark, found nothing; set benchmark=FOLDER")
    if config.reward_model.positions and not settings.recordings:
        names = ", ".join(config.reward_model.positions)
        raise RoboAlignError(f"stage.recordings: expected stores that record the positions {names}, found none")
    return reward_data(config.benchmark, settings, config.reward_model)


def _frame_size(config: TrainConfig) -> tuple[int, int]:
    """Of the model that the stage builds on, where there is one: its tokenizer decides, not ``config.model``."""
    if config.world_model:
        return load_config(resolve_model(config.world_model)).image_size
    return config.model.tokenizer.height, config.model.tokenizer.width


def _settings(stage: Any) -> tuple[str, Any]:
    """Name and checked settings of the stage."""
    name = stage.get("name") if isinstance(stage, dict) else None
    if name not in STAGES:
        raise RoboAlignError(f"stage: expected one of {', '.join(STAGES)}, found {name!r}")
    rest = {key: value for key, value in stage.items() if key != "name"}
    try:
        return name, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(STAGES[name][1]), rest))
    except OmegaConfBaseException as error:
        raise RoboAlignError(f"stage {name}: {' '.join(str(error).split())}") from error


def _tokenizer(config: TrainConfig, settings: TokenizerStageConfig, data: TrainingData) -> Stage:
    if config.world_model:
        raise RoboAlignError(f"world_model: expected nothing, a tokenizer starts anew, found {config.world_model!r}")
    model = WorldModelConfig(
        tokenizer=config.model.tokenizer,
        dynamics=config.model.dynamics,
        action_dim=data.action_dim,
        action_bins=config.model.action_bins,
        fps=data.fps,
        window=config.model.window,
        **data.action_range(config.model.action_bins, config.model.action_percentile),
    )
    sampler = data.sampler(settings.distance + model.tokenizer.context_frames, config.augmentation, config.loop.seed)
    return TokenizerStage(settings, model, sampler, config.loop.device)


def _dynamics(config: TrainConfig, settings: DynamicsStageConfig, data: TrainingData) -> Stage:
    folder = _needed(config, "the model folder of a trained tokenizer")
    model = replace(load_config(folder), dynamics=config.model.dynamics, window=config.model.window)
    if model.tokenizer.composite != config.model.tokenizer.composite:
        raise RoboAlignError(
            f"world_model: expected a tokenizer with composite={config.model.tokenizer.composite}, as the recipe says, "
            f"found {model.tokenizer.composite} in {folder}"
        )
    if model.action_dim != data.action_dim:
        raise RoboAlignError(
            f"data: expected actions of width {model.action_dim} as {folder} has, found {data.action_dim}"
        )
    if settings.state.columns and config.augmentation.geometric:
        raise RoboAlignError(
            "augmentation.geometric: expected false with stage.state.columns, because shifted and zoomed frames no "
            "longer show what the recorded state says, found true"
        )
    longest = max(settings.lengths)
    if longest > model.dynamics.max_frames:
        raise RoboAlignError(f"stage.lengths: expected at most max_frames {model.dynamics.max_frames}, found {longest}")
    if settings.own_drift >= model.dynamics.max_frames:
        limit = model.dynamics.max_frames - 1
        raise RoboAlignError(f"stage.own_drift: expected at most {limit} (max_frames - 1), found {settings.own_drift}")
    device = torch.device(config.loop.device)
    # In the number format of inference, so that the codes learned from are the codes met later.
    tokenizer = load_tokenizer(folder, model).to(device, native_dtype(device)).eval().requires_grad_(False)

    def source() -> WindowSource:
        samplers = {
            span: data.sampler(
                span,
                config.augmentation,
                config.loop.seed,
                **asdict(settings.balance),
                extra=STATE if settings.state.columns else "",
            )
            for span in (settings.span(length, model.tokenizer.context_frames) for length in settings.lengths)
        }
        state = StateRange.of(data, settings.state.columns)
        return WindowSource(settings, model, tokenizer, samplers, state, device)

    if model.dynamics.positions and longest < model.dynamics.max_frames:
        logger.warning(
            "stage.lengths: positions of frames %d to %d are not trained with lengths %s",
            longest,
            model.dynamics.max_frames - 1,
            settings.lengths,
        )

    def coded(length: int) -> WindowCache:
        # With samplers of its own, so that the run draws the same whether it builds or finds.
        depends = {
            "data": data.digest,
            "augmentation": asdict(config.augmentation),
            "balance": asdict(settings.balance),
            "state": settings.state.columns,
        }
        folder = Path(settings.cache or Path(config.out) / "windows")
        return WindowCache.open_or_build(folder, source(), length, depends, config.loop.seed)

    stage = DynamicsStage(settings, source(), coded if settings.cached else None)
    if settings.start and _begins(config):
        stage.start_from(settings.start, config.world_model)
    return stage


def _begins(config: TrainConfig) -> bool:
    """Whether this run goes on from no checkpoint of its own."""
    return Checkpoints(Path(config.out) / CHECKPOINTS).newest() is None


def _decoder(config: TrainConfig, settings: DecoderStageConfig, data: TrainingData) -> Stage:
    folder = _needed(config, "a trained world model")
    world_model = WorldModel.from_pretrained(folder, config.loop.device)
    span = settings.distance + world_model.config.tokenizer.context_frames
    sampler = data.sampler(span, config.augmentation, config.loop.seed)
    return DecoderStage(settings, world_model, load_tokenizer(folder, world_model.config), sampler)


def _progress(config: TrainConfig, settings: ProgressStageConfig, data: TrainingData) -> Stage:
    folder = _needed(config, "a trained world model")
    return ProgressStage(settings, WorldModel.from_pretrained(folder, config.loop.device), data, config.loop.seed)


def _probe(config: TrainConfig, settings: ProbeStageConfig, data: TrainingData) -> Stage:
    return ProbeStage(settings, data.size, data, config.loop.seed, config.loop.device)


def _grpo(config: TrainConfig, settings: GrpoStageConfig, data: TrainingData) -> UpdatesStage:
    folder, run = _needed(config, "a trained world model"), Path(config.out)
    teacher_name = judge_settings(config.judge)[0] if settings.online.every else ""
    if config.augmentation.geometric and "oracle" in (*settings.rewards, teacher_name):
        raise RoboAlignError(
            "augmentation.geometric: expected false with an oracle, which reads where things are, and in shifted and "
            "zoomed frames they are elsewhere, found true"
        )
    stage = build_stage(settings, folder, data, config.augmentation, config.loop)
    if settings.start and _begins(config):
        stage.start_from(settings.start, config.world_model)
    if settings.online.every:
        teacher = make_teacher(settings, folder, run, data, config.judge)
        stage.online = build_distillation(
            settings, folder, run, data, stage.reward, teacher, config.benchmark, config.augmentation, config.loop
        )
    return stage


def _reward(config: TrainConfig, settings: RewardStageConfig, data: RewardData) -> Stage:
    loop = config.loop
    stage = RewardStage(settings, config.reward_model, data, config.augmentation, loop.seed, loop.device)
    if settings.start and _begins(config):
        stage.start_from(settings.start)
    return stage


def _judge(config: TrainConfig, settings: JudgeStageConfig, data: PairData) -> Stage:
    if config.world_model:
        raise RoboAlignError(f"world_model: expected nothing, a judge sees videos alone, found {config.world_model!r}")
    if config.loop.optimizer != "adamw":
        raise RoboAlignError(f"loop.optimizer: expected adamw for a LoRA adapter, found {config.loop.optimizer!r}")
    stage = JudgeStage(settings, data, config.loop.seed, config.loop.device)
    if config.loop.minutes and stage.processes.count > 1:
        raise RoboAlignError("loop.minutes: expected 0 with several processes, whose clocks differ, found a limit")
    return stage


def _needed(config: TrainConfig, what: str) -> Path:
    if not config.world_model:
        raise RoboAlignError(f"world_model: expected {what}, found nothing; set world_model=FOLDER")
    return resolve_model(config.world_model)


STAGES: dict[str, tuple[Callable[[TrainConfig, Any, Any], Stage | UpdatesStage], type]] = {
    "tokenizer": (_tokenizer, TokenizerStageConfig),
    "dynamics": (_dynamics, DynamicsStageConfig),
    "decoder": (_decoder, DecoderStageConfig),
    "grpo": (_grpo, GrpoStageConfig),
    "progress": (_progress, ProgressStageConfig),
    "probe": (_probe, ProbeStageConfig),
    "reward": (_reward, RewardStageConfig),
    "judge": (_judge, JudgeStageConfig),
}

VERB = Verb("train", "train one stage of a model; resumes by itself", TrainConfig, train)
