"""Online distillation out of its settings: teacher, student, benchmark, rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from roboalign_core.episodes.augment import AugmentationConfig
from roboalign_core.errors import RoboAlignError
from roboalign_core.evaluation.probe import StateProbe
from roboalign_core.judge.choose import judge_settings, make_judge
from roboalign_core.judge.oracle import ProbedJudge
from roboalign_core.judge.protocol import Judge
from roboalign_core.reward.model import RewardModel
from roboalign_core.tensors import digest
from roboalign_core.training.data import TrainingData
from roboalign_core.training.grpo.config import GrpoStageConfig
from roboalign_core.training.grpo.judges import StudentReward
from roboalign_core.training.grpo.online.distillation import Distillation
from roboalign_core.training.grpo.online.replay import Replay
from roboalign_core.training.grpo.online.student import MixedRewardStage, Student
from roboalign_core.training.grpo.rewards import Mixture
from roboalign_core.training.loop import LoopConfig
from roboalign_core.training.reward import RewardStageConfig, reward_data

FOLDER = "online"  # in the run folder
_CACHE = Path("judgements") / "cache"  # of the teacher's replies, where `benchmark annotate` has its own


def build_distillation(
    config: GrpoStageConfig,
    folder: Path,
    run: Path,
    data: TrainingData,
    mixture: Mixture,
    teacher: Judge,
    benchmark: str,
    augmentation: AugmentationConfig,
    loop: LoopConfig,
) -> Distillation:
    """The distillation of ``teacher`` into the student among the rewards of ``mixture``.

    Args:
        config: of the stage.
        folder: of the world model.
        run: the run folder; rollouts go to ``online/`` in it.
        data: what is imagined from.
        mixture: the policy's reward.
        teacher: who is asked.
        benchmark: folder of what the student learned from, so that it does not forget that.
        augmentation: of the student's videos.
        loop: seed, device, clip.

    Raises:
        RoboAlignError: there is no student among the rewards, no benchmark there, or they do not fit each other.
    """
    scorer = _scorer(mixture)
    learn = _learn(config.online.learn)
    pairs = reward_data(benchmark, learn, scorer.config)
    whole = RewardModel.from_pretrained(config.reward_model or str(folder), loop.device, torch.float32)
    identity = {
        "teacher": dict(teacher.describe()),
        "benchmark": pairs.identity,
        "student": digest(whole.network.state_dict()),
    }
    replay = Replay(run / FOLDER, scorer.config.size, identity)
    told = [text for store in data.stores for text in store.instructions]
    stage = MixedRewardStage(learn, pairs, replay, config.online.share, told, whole, augmentation, loop.seed)
    student = Student(scorer, stage, config.online, loop.clip)
    return Distillation(config.online, teacher, student, replay, identity, loop.seed)


def make_teacher(config: GrpoStageConfig, folder: Path, run: Path, data: TrainingData, settings: Any) -> Judge:
    """The judge that ``settings`` (as of ``configs/judge/``) name; an oracle judges what the state probe reads.

    Raises:
        RoboAlignError: unknown settings, or the oracle could not judge what is imagined from ``data``.
    """
    name, _ = judge_settings(settings)
    if name != "oracle":
        return make_judge({**settings, "progress": False}, cache=str(run / FOLDER / _CACHE))
    judge = ProbedJudge(StateProbe.from_pretrained(config.probe or folder))
    for store in data.stores:
        judge.check(store.spec.source, store.instructions)
    return judge


def _scorer(mixture: Mixture) -> RewardModel:
    models = [reward.student for reward in mixture.rewards if isinstance(reward, StudentReward)]
    if len(models) != 1 or not isinstance(models[0], RewardModel):
        raise RoboAlignError(
            f"stage.online: expected the reward 'student' among stage.rewards, found {', '.join(mixture.names)}"
        )
    return models[0]


def _learn(settings: dict[str, Any]) -> RewardStageConfig:
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RewardStageConfig), settings))
    except OmegaConfBaseException as error:
        raise RoboAlignError(f"stage.online.learn: {' '.join(str(error).split())}") from error
    except RoboAlignError as error:
        raise RoboAlignError(f"stage.online.learn: {error}") from error
    learn = cast(RewardStageConfig, found)
    if learn.start:
        raise RoboAlignError(
            f"stage.online.learn.start: expected nothing beside stage.reward_model, found {learn.start}"
        )
    if learn.taken >= 1:
        raise RoboAlignError(
            f"stage.online.learn: expected damaged_share + recordings_share below 1, found {learn.taken:.2f}"
        )
    return learn
