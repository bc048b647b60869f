"""The student reward model, distilled from the scores of a benchmark (RoboAlign-R1, A3)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from roboalign_core.benchmark import Pair, Split
from roboalign_core.episodes.augment import AugmentationConfig, augment
from roboalign_core.errors import RoboAlignError
from roboalign_core.precision import autocast
from roboalign_core.reward.calibration import Calibration
from roboalign_core.reward.config import RewardModelConfig
from roboalign_core.reward.damages import Damaged
from roboalign_core.reward.data import RewardData
from roboalign_core.reward.model import FOLDER, RewardModel
from roboalign_core.reward.recordings import Array, Part
from roboalign_core.reward.student import RewardNetwork
from roboalign_core.reward.summary import chosen, summarise
from roboalign_core.reward.text import tokenise
from roboalign_core.rubric import HIGHEST, KEYS, OUTCOME
from roboalign_core.tensors import load_into
from roboalign_core.training.checkpoints import mean_weights
from roboalign_core.training.state import BETA

_BATCH = 64  # videos that are scored at once on the validation split
_POINTS = 0.5  # by which a total has to be lower for the order to be as good as certain
_SAME = 1e-3  # points: totals that differ by less have no order
_ORDER = 0.05  # weight of the order's loss beside that of the scores
_BALANCE = ("origin", "source", "labeller", "degradation", "instruction", "total", *KEYS)


@dataclass
class RewardStageConfig:
    """What the stage learns, and from what.

    Attributes:
        pairs: a step.
        weights: of the six dimensions' losses, in the order of the rubric.
        delta: of the Huber loss on scores in [0, 1]: errors beyond it count linearly.
        shortest: fewest frames of a video that are looked at.
        short_share: steps that look at fewer frames than the model's, as videos shorter than that have.
        word_dropout: words of which the model sees the letters alone, as of a word that it never saw.
        balance: of ``origin``, ``source``, ``labeller``, ``degradation``, ``instruction``, ``total`` or keys of the
            rubric; every combination of their values is drawn equally often (scores rounded to whole numbers).
        balance_share: pairs that are drawn so; the others are drawn uniformly.
        judgements: a parquet table of a teacher's scores that take the place of the benchmark's.
        labellers: learn only from pairs that one of these scored; none: from all.
        recordings: folders of stores of simulated episodes, parts of which are learned beside the pairs, under any
            instruction, with the positions that ``reward_model.positions`` names.
        recordings_share: of a batch that such parts are.
        positions_weight: of the loss of the positions, beside that of the scores.
        damaged: folders of stores of episodes, recorded by cameras or simulators, that are shown beside themselves
            after damage, to learn what that takes whatever the scene, see :class:`Damages`.
        damaged_share: of a batch that such videos are, the damaged and the others.
        damaged_weight: of the loss of these: their scores, what is lost, and the order; beside that of the others.
        start: run folders of this stage whose newest weights, the mean of them, this run starts from; anew where none.
        validate_every: steps from one look at the validation split to the next.
        validation: pairs of that split that such a look takes.
    """

    pairs: int = 64
    weights: list[float] = field(default_factory=lambda: [1.0] * len(KEYS))
    delta: float = 0.25
    shortest: int = 8
    short_share: float = 0.25
    word_dropout: float = 0.1
    balance: list[str] = field(default_factory=list)
    balance_share: float = 0.5
    judgements: str = ""
    labellers: list[str] = field(default_factory=list)
    recordings: list[str] = field(default_factory=list)
    recordings_share: float = 0.5
    positions_weight: float = 0.1
    damaged: list[str] = field(default_factory=list)
    damaged_share: float = 0.25
    damaged_weight: float = 1.0
    start: list[str] = field(default_factory=list)
    validate_every: int = 50
    validation: int = 128

    def __post_init__(self) -> None:
        for name in ("pairs", "shortest", "validate_every", "validation"):
            if getattr(self, name) < 1:
                raise RoboAlignError(f"stage.{name}: expected at least 1, found {getattr(self, name)}")
        for name in ("short_share", "word_dropout", "balance_share", "recordings_share", "damaged_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise RoboAlignError(f"stage.{name}: expected a share in [0, 1], found {getattr(self, name)}")
        if self.taken > 1:
            found = f"{self.taken:.2f}"
            raise RoboAlignError(f"stage.damaged_share + stage.recordings_share: expected at most 1, found {found}")
        if len(self.weights) != len(KEYS) or min(self.weights) < 0 or not sum(self.weights) > 0:
            raise RoboAlignError(
                f"stage.weights: expected {len(KEYS)} numbers of 0 or more, not all 0, found {self.weights}"
            )
        for name in ("positions_weight", "damaged_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RoboAlignError(f"stage.{name}: expected a number of 0 or more, found {getattr(self, name)}")
        if not self.delta > 0:
            raise RoboAlignError(f"stage.delta: expected a number above 0, found {self.delta}")
        unknown = [name for name in self.balance if name not in _BALANCE]
        if unknown:
            raise RoboAlignError(f"stage.balance: expected some of {', '.join(_BALANCE)}, found {unknown[0]!r}")

    @property
    def taken(self) -> float:
        """Share of a batch that recordings are, with damage or without, so that no pairs of the benchmark are there."""
        return self.damaged_share * bool(self.damaged) + self.recordings_share * bool(self.recordings)


def reward_data(benchmark: str, config: RewardStageConfig, model: RewardModelConfig) -> RewardData:
    """What the stage is to learn from; see :class:`RewardData` for errors."""
    return RewardData(
        benchmark,
        model.size,
        config.judgements,
        config.labellers,
        config.recordings,
        model.positions,
        config.damaged,
        model.text.words,
    )


class RewardStage:
    """Regress the six scores with a dimension-weighted Huber loss.

    Every head weighs the pairs and recordings differently (by draws from Poisson(1), the bootstrap of Efron 1979), so
    that their disagreement says how much a score hangs on those that happened to be there; what is shown beside its
    damage counts the same for all.
    """

    def __init__(
        self,
        config: RewardStageConfig,
        model: RewardModelConfig,
        data: RewardData,
        augmentation: AugmentationConfig,
        seed: int,
        device: str,
    ) -> None:
        if config.shortest > model.frames:
            raise RoboAlignError(f"stage.shortest: expected at most {model.frames} frames, found {config.shortest}")
        if data.recordings and data.recordings.shortest <= model.frames:
            raise RoboAlignError(
                f"stage.recordings: expected episodes of more than {model.frames} frames, as the model looks at, found "
                f"one of {data.recordings.shortest}"
            )
        self.compared = min(config.pairs // 2, round(config.pairs * config.damaged_share / 2)) if data.damages else 0
        if data.damages and not self.compared:
            raise RoboAlignError(
                f"stage.damaged_share: expected room for at least one video and its damage among {config.pairs} pairs, "
                f"found {config.damaged_share}"
            )
        self.config, self.model, self.data, self.augmentation = config, model, data, augmentation
        self.device = torch.device(device)
        self.pairs, self.labels = data.pairs[Split.TRAIN], data.labels[Split.TRAIN]
        # ids of every instruction, found once; also refuses those that are too long
        told = [text for source in (data.recordings, data.damages) if source for text in source.instructions]
        different = sorted({*told, *(pair.instruction for pairs in data.pairs.values() for pair in pairs)})
        self.ids = dict(zip(different, tokenise(different, model.text), strict=True))
        self.module = RewardNetwork(model).to(self.device)
        self.random = np.random.default_rng(seed)
        draws = np.random.default_rng([seed, 1])
        self.shares = draws.poisson(1.0, (model.heads, len(self.pairs))).astype(np.float32)
        episodes = data.recordings.count if data.recordings else 0
        self.recorded_shares = draws.poisson(1.0, (model.heads, episodes)).astype(np.float32)
        held = len(data.pairs[Split.VALIDATION])
        self.looked = np.sort(draws.permutation(held)[: config.validation])
        raw = np.rint(self.labels * HIGHEST)
        self.groups = _groups(self.pairs, raw, config.balance) if config.balance else []
        self.steps, self.figures = 0, dict[str, float]()

    def start_from(self, runs: Sequence[str]) -> None:
        """Begin with the newest weights of other runs of this stage, see :func:`mean_weights`.

        Raises:
            RoboAlignError: no such run, or one of another size.
        """
        load_into(self.module, mean_weights(runs), ", ".join(runs))

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        """Huber loss of a fresh batch; the mean error of the normalised scores, also on the validation split."""
        rows = self._draw()
        count = self.model.frames
        if self.random.random() < self.config.short_share:
            count = int(self.random.integers(self.config.shortest, count + 1))
        losses, batches = [], []
        if self.data.damages:
            rows = rows[2 * self.compared :]
            drawn = [self.data.damages.draw(self.random, count + 1) for _ in range(self.compared)]
            losses.append(self.config.damaged_weight * self._beside(drawn, count))
        if self.data.recordings and (fresh := round(self.config.pairs * self.config.recordings_share)):
            rows, parts = rows[fresh:], [self.data.recordings.draw(self.random, count + 1) for _ in range(fresh)]
            logits, positions = self._recorded(parts, count)
            misplaced = self._misplaced(positions, parts, self.data.recordings.std)
            losses.append(self.config.positions_weight * misplaced)
            shares = self.recorded_shares[:, [part.episode for part in parts]]
            batches.append((logits, np.stack([part.scores for part in parts]), shares))
        if len(rows):
            logits = self._logits([self.pairs[row] for row in rows], count, self.augmentation)
            batches.append((logits, self.labels[rows], self.shares[:, rows]))
        if batches:
            losses.append(self._huber(batches))
        loss = torch.stack(losses).sum()
        if self.steps % self.config.validate_every == 0:
            self.figures["validation_mae"] = self._error()
        self.steps += 1
        return loss, dict(self.figures)

    def _huber(self, batches: Sequence[tuple[Tensor, Array, Array]]) -> Tensor:
        """Loss of logits (heads, B, 6), labels (B, 6) and every head's shares (heads, B), of one or two batches."""
        found = torch.cat([logits for logits, _, _ in batches], dim=1).sigmoid()
        labels = torch.from_numpy(np.concatenate([labels for _, labels, _ in batches])).to(self.device)
        shares = torch.from_numpy(np.concatenate([shares for _, _, shares in batches], axis=1)).to(self.device)
        weights = torch.tensor(self.config.weights, device=self.device)
        each = F.huber_loss(found, labels.expand_as(found), reduction="none", delta=self.config.delta)
        self.figures["mae"] = (found.detach().mean(0) - labels).abs().mean().item()
        return (each @ (weights / weights.sum()) * shares).sum() / shares.sum().clamp(min=1)

    def _beside(self, drawn: Sequence[Damaged], count: int) -> Tensor:
        """How wrong is what is said of videos and of the same after damage: of each, of what is lost, and of the order.

        Huber's loss of the scores, and of by how much each is lower after the damage; and the log loss of which of the
        two has the higher total (Bradley and Terry 1952): where the scores of a strange scene are off, they must not
        outweigh what was damaged. What came of the task is asked of what an oracle judged; elsewhere only what the
        damage takes of it is.
        """
        videos = [summarise(one.clean, count) for one in drawn] + [summarise(one.damaged, count) for one in drawn]
        logits = self._alike(videos, self._ids([one.instruction for one in drawn] * 2), None)
        found = logits.sigmoid().unflatten(1, (2, -1))  # (heads, 2, pairs, 6)
        truth = torch.from_numpy(np.stack([one.scores for one in drawn], axis=1)).to(self.device)
        weights, highest = (torch.tensor(each, device=self.device) for each in (self.config.weights, HIGHEST))
        asked = torch.ones_like(truth)
        asked[:, [not one.judged for one in drawn], :OUTCOME] = 0
        single = F.huber_loss(found, truth.expand_as(found), reduction="none", delta=self.config.delta) * asked
        lost, meant = found[:, 0] - found[:, 1], truth[0] - truth[1]
        both = F.huber_loss(lost, meant.expand_as(lost), reduction="none", delta=self.config.delta)
        totals = (lost.mean(0) * highest).sum(-1)[(meant * highest).sum(-1) > _SAME]
        if len(totals):
            self.figures["damage_seen"] = (totals.detach() > 0).float().mean().item()
        order = F.softplus(-totals / _POINTS).sum() / max(len(totals), 1)
        shares = weights / weights.sum()
        return (single @ shares).mean() + (both @ shares).mean() + _ORDER * order

    def _misplaced(self, positions: Tensor, parts: Sequence[Part], std: Array) -> Tensor:
        """Smooth L1 of positions (B, F, K), where they are known; ``std`` (K,) brings them to their columns' units."""
        picked = [part.positions[chosen(len(part.frames), positions.shape[1])] for part in parts]
        truth = torch.from_numpy(np.stack(picked)).to(self.device)
        known = truth.isfinite()
        if not known.any():
            return positions.new_zeros(())
        errors = (positions - truth)[known]
        unit = torch.from_numpy(std).to(self.device).expand_as(truth)[known]
        self.figures["position_error"] = (errors.detach().abs() * unit).mean().item()
        return F.smooth_l1_loss(errors, torch.zeros_like(errors), beta=BETA)

    def state(self) -> dict[str, Any]:
        """Of the draws, and the last look at the validation split."""
        return {"random": self.random.bit_generator.state, "steps": self.steps, "figures": self.figures}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.random.bit_generator.state = state["random"]
        self.steps, self.figures = state["steps"], dict(state["figures"])

    def export(self, folder: Path) -> None:
        """The student, calibrated on the validation split."""
        calibration = self.calibrate(np.arange(len(self.data.pairs[Split.VALIDATION])))
        RewardModel(self.model, self.module, calibration).save_pretrained(folder / FOLDER)

    def calibrate(self, rows: NDArray[np.int64], shown: bool = True) -> Calibration:
        """Of the student as it is, on these pairs of the validation split; ``shown``: with a progress bar."""
        logits = self._logits_of([self.data.pairs[Split.VALIDATION][row] for row in rows], shown)
        return Calibration.fit(logits, torch.from_numpy(self.data.labels[Split.VALIDATION][rows]))

    # -- batches ----------------------------------------------------------------------------------------------------

    def _draw(self) -> NDArray[np.int64]:
        rows = self.random.integers(0, len(self.data.pairs[Split.TRAIN]), self.config.pairs)
        if self.groups:
            balanced = self.random.random(self.config.pairs) < self.config.balance_share
            for place in np.flatnonzero(balanced):
                rows[place] = self.random.choice(self.groups[self.random.integers(len(self.groups))])
        return rows

    def _logits(self, pairs: Sequence[Pair], count: int, augmentation: AugmentationConfig | None) -> Tensor:
        """Logits (heads, B, 6) of videos at ``count`` frames; those with fewer go through the network by themselves."""
        summaries = [summarise(self._frames(pair), count) for pair in pairs]
        return self._alike(summaries, self._ids([pair.instruction for pair in pairs]), augmentation)

    def _alike(
        self, summaries: Sequence[NDArray[np.uint8]], ids: Tensor, augmentation: AugmentationConfig | None
    ) -> Tensor:
        """Logits (heads, B, 6) of summaries, of which those of one length go through the network together."""
        lengths = np.array([summary.shape[1] for summary in summaries])
        parts, order = [], []
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            videos = np.stack([summaries[row] for row in rows])
            parts.append(self._judge(videos, ids[torch.from_numpy(rows)], augmentation)[0])
            order.append(rows)
        back = torch.from_numpy(np.argsort(np.concatenate(order))).to(self.device)
        return torch.cat(parts, dim=1)[:, back]

    def _recorded(self, parts: Sequence[Part], count: int) -> tuple[Tensor, Tensor]:
        """Logits (heads, B, 6) and positions (B, F, K) of parts of recordings, none of which are moved about."""
        videos = np.stack([summarise(part.frames, count) for part in parts])
        ids = self._ids([part.instruction for part in parts])
        return self._judge(videos, ids, replace(self.augmentation, geometric=False))

    def _ids(self, instructions: Sequence[str]) -> Tensor:
        ids = torch.stack([self.ids[instruction] for instruction in instructions])
        return ids[:, : int((ids != 0).any(-1).sum(1).max())]

    def _judge(
        self, summaries: NDArray[np.uint8], words: Tensor, augmentation: AugmentationConfig | None
    ) -> tuple[Tensor, Tensor]:
        videos = torch.from_numpy(summaries)
        if augmentation is not None:
            videos = _augmented(videos, augmentation, self.random)
            words = self._without_words(words)
        return self.module.read(videos.to(self.device), words.to(self.device))

    def _frames(self, pair: Pair) -> NDArray[np.uint8]:
        return self.data.videos.frames(pair)

    def _without_words(self, ids: Tensor) -> Tensor:
        """Ids (B, words, ids a word) without the first id, the word's own, of some words."""
        dropped = torch.from_numpy(self.random.random(ids.shape[:2]) < self.config.word_dropout)
        ids = ids.clone()
        ids[..., 0][dropped] = 0
        return ids

    # -- validation -------------------------------------------------------------------------------------------------

    def _error(self) -> float:
        pairs = self.data.pairs[Split.VALIDATION]
        logits = self._evaluate([pairs[row] for row in self.looked])
        labels = torch.from_numpy(self.data.labels[Split.VALIDATION][self.looked])
        return (logits.sigmoid().mean(0) - labels).abs().mean().item()

    def _logits_of(self, pairs: Sequence[Pair], shown: bool) -> Tensor:
        """Logits (heads, N, 6) of any number of pairs."""
        starts = track(range(0, len(pairs), _BATCH), "calibrating", disable=not shown)
        return torch.cat([self._evaluate(pairs[start : start + _BATCH]) for start in starts], dim=1)

    @torch.no_grad()
    def _evaluate(self, pairs: Sequence[Pair]) -> Tensor:
        """Logits (heads, B, 6) as the trained model gives them, on the CPU."""
        training = self.module.training
        self.module.eval()
        with autocast(self.device):
            logits = self._logits(pairs, self.model.frames, None)
        self.module.train(training)
        return logits.cpu()


def _augmented(videos: Tensor, config: AugmentationConfig, random: np.random.Generator) -> Tensor:
    """Summaries (B, 2, F, H, W, 3): colours changed and moved, and how much they changed moved alike."""
    again = copy.deepcopy(random)  # the amounts of the motion are drawn first
    with torch.autocast("cpu", enabled=False):
        colours = augment(videos[:, 0], config, random)
        return torch.stack([colours, augment(videos[:, 1], replace(config, photometric=False), again)], dim=1)


def _groups(pairs: Sequence[Pair], raw: NDArray[np.float32], names: Sequence[str]) -> list[NDArray[np.int64]]:
    """Rows of the pairs with each combination of values; ``raw`` (N, 6) are their scores in whole numbers."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for row, pair in enumerate(pairs):
        scores = {"total": raw[row].sum(), **dict(zip(KEYS, raw[row], strict=True))}
        applied = tuple(each.name for each in pair.degradations)
        values = tuple(
            scores.get(name, applied if name == "degradation" else getattr(pair, name, "")) for name in names
        )
        found.setdefault(values, []).append(row)
    return [np.array(rows) for _, rows in sorted(found.items())]
