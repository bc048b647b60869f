"""A stage out of its settings: world model, reference, rewards, windows to train and to validate on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from roboalign_core.benchmark.oracles import require_oracle
from roboalign_core.bundled import resolve_model
from roboalign_core.episodes.augment import AugmentationConfig
from roboalign_core.episodes.clips import split_episodes
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.evaluation.probed import ProbedOracle
from roboalign_core.training.data import TrainingData
from roboalign_core.training.decoder import DECODER
from roboalign_core.training.grpo.config import GrpoStageConfig
from roboalign_core.training.grpo.imagination import Prompts, PromptSampler
from roboalign_core.training.grpo.judges import OracleReward, PositionReward, StudentReward, load_student
from roboalign_core.training.grpo.rewards import FRAME_REWARDS, Mixture, Reward, perceptual_reward
from roboalign_core.training.grpo.stage import GrpoStage
from roboalign_core.training.grpo.watch import Validation
from roboalign_core.training.loop import LoopConfig
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.embedding import TokenEmbedding
from roboalign_core.world_model.model import WorldModel

PLAIN = AugmentationConfig(photometric=False, geometric=False)


def build_stage(
    config: GrpoStageConfig,
    folder: Path,
    data: TrainingData,
    augmentation: AugmentationConfig,
    loop: LoopConfig,
    reward: Mixture | None = None,
) -> GrpoStage:
    """The stage on the world model in ``folder``; ``reward`` in place of the one that ``config`` names.

    Raises:
        RoboAlignError: world model, reference, rewards and data do not fit each other.
        MissingExtraError: a reward needs a package that is not installed.
    """
    model = WorldModel.from_pretrained(folder, loop.device)
    _check_fit(config, model, data, str(folder))
    policy = trainable(WorldModel.from_pretrained(folder, loop.device, torch.float32))
    reference = _reference(config, folder, model, loop.device)
    world = World(config, folder, loop.device, [store.spec.source for store in data.stores])
    mixture = reward or _mixture(world, config.rewards, config.weights or {})
    score = _mixture(world, [config.validation.score], {})
    if set(score.names) & set(mixture.names):
        raise RoboAlignError(
            f"stage.validation.score: expected none of the training's rewards ({', '.join(mixture.names)}), "
            f"found {', '.join(score.names)}"
        )
    past = model.config.tokenizer.context_frames - 1
    prompts, held = _windows(config, data, augmentation, loop.seed, past)
    validation = Validation(held, score, mixture, config.validation.temperature)
    return GrpoStage(config, model, policy, reference, prompts, mixture, validation)


def trainable(model: WorldModel) -> Dynamics:
    """The dynamics of a float32 world model, with an embedding of codes that stays the sum of their parts."""
    dynamics, table = model.dynamics, model.dynamics.table()
    embedding = TokenEmbedding(model.config).to(model.device)
    embedding.take(table)
    dynamics.embedding = embedding
    return dynamics


def _check_fit(config: GrpoStageConfig, model: WorldModel, data: TrainingData, where: str) -> None:
    limit = model.config.dynamics.max_frames - 1
    if config.frames > limit:
        raise RoboAlignError(f"stage.frames: expected at most {limit} (max_frames - 1), found {config.frames}")
    if model.config.action_dim != data.action_dim:
        raise RoboAlignError(
            f"data: expected actions of width {model.config.action_dim} as {where} has, found {data.action_dim}"
        )


def _reference(config: GrpoStageConfig, folder: Path, model: WorldModel, device: str) -> Dynamics:
    """The frozen dynamics that the divergence is measured from; its tokens must mean the same."""
    where = resolve_model(config.reference) if config.reference else folder
    reference = WorldModel.from_pretrained(where, device, torch.float32)
    for name, expected, found in (
        ("layout", model.config.layout, reference.config.layout),
        ("tokenizer", model.config.tokenizer, reference.config.tokenizer),
        ("range of actions", _actions(model), _actions(reference)),
    ):
        if found != expected:
            raise RoboAlignError(
                f"stage.reference: {where}: expected the {name} of {folder}, {expected}, found {found}"
            )
    if reference.config.dynamics.max_frames <= config.frames:
        raise RoboAlignError(
            f"stage.reference: {where}: expected positions for {config.frames + 1} frames (dynamics.max_frames), "
            f"found {reference.config.dynamics.max_frames}"
        )
    theirs = reference.tokenizer.to(model.dtype).state_dict()
    for name, value in model.tokenizer.state_dict().items():
        if not name.startswith(DECODER) and not torch.equal(value, theirs[name]):
            raise RoboAlignError(f"stage.reference: {where}: expected the tokenizer of {folder}, found another {name}")
    return trainable(reference)


def _actions(model: WorldModel) -> tuple[list[float], list[float]]:
    return model.config.action_low, model.config.action_high


def _mixture(world: World, names: Sequence[str], weights: Mapping[str, float]) -> Mixture:
    unknown = [name for name in names if name not in REWARDS]
    if unknown:
        raise RoboAlignError(f"stage.rewards: expected names among {', '.join(REWARDS)}, found {unknown[0]!r}")
    return Mixture([REWARDS[name](world) for name in names], weights)


def _windows(
    config: GrpoStageConfig, data: TrainingData, augmentation: AugmentationConfig, seed: int, past: int
) -> tuple[PromptSampler, Prompts]:
    """What prompts are drawn from, and the windows to validate on, which are always the same and not augmented.

    A window's context begins ``past`` frames before it.
    """
    length, judged = past + config.frames + 1, config.validation
    if judged.data:
        held, kept, source = None, None, TrainingData(judged.data, data.size)
        if source.action_dim != data.action_dim:
            raise RoboAlignError(
                f"stage.validation.data: expected actions of width {data.action_dim}, found {source.action_dim}"
            )
    else:
        kept, held = split_episodes(data.episodes, judged.holdout, seed)
        source = data
    sampler = data.sampler(length, augmentation, seed, **asdict(config.balance), episodes=kept)
    fixed = source.sampler(length, PLAIN, seed, **asdict(config.balance), episodes=held)
    return PromptSampler(data, sampler, past), PromptSampler(source, fixed, past).draw(judged.windows)


@dataclass(frozen=True)
class World:
    """What a reward may be made from.

    Attributes:
        config: of the stage.
        folder: the world model that training starts from.
        device: where rewards are computed.
        sources: of the recordings.
    """

    config: GrpoStageConfig
    folder: Path
    device: str
    sources: Sequence[str]

    def probe(self) -> StateProbe:
        """The state probe that the stage names."""
        return StateProbe.from_pretrained(self.config.probe or self.folder)

    def oracle(self) -> ProbedOracle:
        """The rules of the recordings' simulator, on what the probe reads."""
        if len(set(self.sources)) != 1:
            found = ", ".join(sorted(set(self.sources)))
            raise RoboAlignError(f"stage.rewards: oracle: expected recordings of one source, found {found}")
        return ProbedOracle(require_oracle(self.sources[0]), self.probe())


def _frame_reward(name: str) -> Callable[[World], Reward]:
    return lambda world: FRAME_REWARDS[name]()


REWARDS: dict[str, Callable[[World], Reward]] = {
    **{name: _frame_reward(name) for name in FRAME_REWARDS},
    "lpips": lambda world: perceptual_reward(world.device),
    "positions": lambda world: PositionReward(world.probe()),
    "oracle": lambda world: OracleReward(world.oracle()),
    "student": lambda world: StudentReward(load_student(world.config.reward_model or str(world.folder), world.device)),
}
"""What ``stage.rewards`` and ``stage.validation.score`` may name, made from settings, world model and recordings."""
