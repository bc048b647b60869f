"""The stage: imagine groups of futures, score them, move the dynamics towards the better ones."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from roboalign_core.precision import autocast
from roboalign_core.tensors import load_into
from roboalign_core.training.checkpoints import check_world_model, mean_weights, newest_weights
from roboalign_core.training.dynamics import for_inference
from roboalign_core.training.grpo.config import GrpoStageConfig
from roboalign_core.training.grpo.imagination import Futures, PromptSampler, TokenCost, imagine
from roboalign_core.training.grpo.objective import advantages, objective, ties
from roboalign_core.training.grpo.online.distillation import Distillation
from roboalign_core.training.grpo.policy import Categorical, Central, Groups, Policy, code_logits
from roboalign_core.training.grpo.rewards import Array, Mixture
from roboalign_core.training.grpo.watch import Guard, Validation
from roboalign_core.world_model.codes import CodeLogits
from roboalign_core.world_model.dynamics import Dynamics
from roboalign_core.world_model.embedding import TokenEmbedding
from roboalign_core.world_model.model import WorldModel
from roboalign_core.world_model.rollout import Order

logger = logging.getLogger(__name__)

Hook = Callable[[Futures, Mapping[str, Array]], None]
"""Futures and their scores, (N,) or (N, T) each: where a reward model is taught on what the policy imagines now."""


class Weights(nn.Module):
    """The policy, and the weights that the validation liked best so far (frozen; checkpoints hold both)."""

    def __init__(self, policy: Dynamics) -> None:
        super().__init__()
        self.policy, self.best = policy, copy.deepcopy(policy).requires_grad_(False)


@dataclass(frozen=True)
class Batch:
    """Futures with what learning needs of them.

    Attributes:
        groups: N = P·G futures as tokens.
        advantages: (N, T), of the tokens of each frame.
        widths: (N, T, m, K) as they were at drawing time, see :class:`~roboalign_core.training.grpo.policy.Policy`.
        old, reference: (N, T, m) log-probabilities of the policy that drew them, and of the reference.
    """

    groups: Groups
    advantages: Tensor
    widths: Tensor
    old: Tensor
    reference: Tensor

    @cached_property
    def drawn(self) -> Tensor:
        """(N, T, m) bool: tokens that could have been others. No other one counts."""
        return (self.widths > 0).any(-1)


class GrpoStage:
    """GRPO on the dynamics' tokens (RoboAlign-R1, A4, stage 3; RLVR-World)."""

    def __init__(
        self,
        config: GrpoStageConfig,
        world_model: WorldModel,
        policy: Dynamics,
        reference: Dynamics,
        prompts: PromptSampler,
        reward: Mixture,
        validation: Validation,
    ) -> None:
        """``world_model`` codes and draws frames; ``policy`` learns, in float32, ``reference`` stays.

        ``on_batch``, where it is set, is called with what was imagined and its scores every ``on_batch_every`` steps.
        ``drawing`` is how futures are drawn and what probability they had.
        ``online``, where it is set, teaches the student among the rewards, every ``config.online.every`` steps.
        """
        self.config, self.world_model, self.prompts = config, world_model, prompts
        self.module, self.reference = Weights(policy), reference.requires_grad_(False)
        self.reward, self.validation, self.guard = reward, validation, Guard(config.guard)
        self.on_batch: Hook | None = None
        self.on_batch_every = 1
        self.online: Distillation | None = None
        self.steps = 0
        self._order = cast(Order, config.order)
        self.drawing: Policy = Central(config.exploration) if config.drawing == "central" else Categorical()
        self._validated: dict[str, float] = {}  # of the newest weights that were judged
        self._judged: dict[str, float] = {}  # of the best ones, of those at the start, and when that was
        self._figures: dict[str, float] = {}
        self._strips: dict[str, NDArray[np.uint8]] = {}

    def start_from(self, runs: Sequence[str], world_model: str) -> None:
        """Begin with the mean of the newest policies of other runs of this stage (Ramé et al. 2024, arXiv 2406.16768).

        Of the embedding the mean of the tables: the network in it begins at random in each run (see :func:`trainable
        <roboalign_core.training.grpo.build.trainable>`), and the mean of two such networks is neither.

        Raises:
            RoboAlignError: no such run, or one on another world model.
        """
        check_world_model(runs, world_model)
        policy, tables = self.module.policy, []
        for run in runs:
            load_into(self.module, newest_weights(Path(run)), run)
            tables.append(policy.table().detach())
        load_into(self.module, mean_weights(runs), ", ".join(runs))
        cast(TokenEmbedding, policy.embedding).take(torch.stack(tables).mean(0))

    @property
    def stopped(self) -> str:
        """Why training ended by itself; empty while it goes on."""
        return self.guard.stopped

    def updates(self) -> Iterator[Iterator[Tensor]]:
        """A step: futures are drawn once; each update sums the losses that it is made of."""
        if not self._judged:
            self._validate()
        batch = self._draw()
        self._figures["drawn"] = batch.drawn.float().mean().item()
        sums = dict.fromkeys(("divergence", "clipped", "entropy"), 0.0)
        size = len(batch.groups) // self.config.updates
        for _ in range(self.config.epochs):
            for start in range(0, len(batch.groups), size):
                yield self._losses(batch, slice(start, start + size), sums)
        self.steps += 1
        passes = self.config.epochs * self.config.updates
        self._figures |= {name: value / passes for name, value in sums.items()}
        if self.steps % self.config.validation.every == 0:
            self._validate()
        self.guard.watch(self.steps, self._figures["divergence"], self._figures["repetition_rate"])
        if self.stopped:
            logger.warning("training ends: %s", self.stopped)

    def _losses(self, batch: Batch, starts: slice, sums: dict[str, float]) -> Iterator[Tensor]:
        """Losses of the windows ``starts``, some at a time; their sum is the mean over all tokens that were drawn."""
        group = batch.groups.size
        total = max(1, int(batch.drawn[starts.start * group : starts.stop * group].sum()))
        for rows in self._parts(starts):
            each = slice(rows.start * group, rows.stop * group)
            draws = self.drawing.draws(self._logits(self.module.policy, batch.groups[rows]), batch.widths[each])
            drawn = batch.drawn[each].flatten(1)
            found = objective(
                draws.log_prob(batch.groups.codes[each]).flatten(1),
                batch.old[each].flatten(1),
                batch.reference[each].flatten(1),
                batch.advantages[each].repeat_interleave(batch.drawn.shape[-1], 1),
                drawn,
                self.config.clip,
                self.config.divergence_weight,
            )
            share = int(drawn.sum()) / total
            sums["divergence"] += share * found.divergence
            sums["clipped"] += share * found.clipped
            with torch.no_grad():
                sums["entropy"] += draws.entropy().sum().item() / total
            yield share * found.loss

    def _parts(self, starts: slice) -> Iterator[slice]:
        """Of the windows ``starts``, those that are computed at once."""
        for first in range(starts.start, starts.stop, self.config.micro):
            yield slice(first, min(first + self.config.micro, starts.stop))

    def _logits(self, dynamics: Dynamics, groups: Groups) -> CodeLogits:
        with autocast(self.world_model.device):
            return code_logits(dynamics, groups, self._order)

    def _draw(self) -> Batch:
        """Imagine and score."""
        config, model = self.config, self._for_inference(self.module.policy)
        futures = imagine(model, self.prompts.draw(config.prompts), config.group, self._order, self.drawing.picker)
        scores = self.reward(futures.imagined, futures.recorded, futures.instructions, futures.actions)
        if self.on_batch is not None and self.steps % self.on_batch_every == 0:
            self.on_batch(futures, scores)
        if self.online is not None and self.steps % self.config.online.every == 0:
            self.online.lesson(self.steps, futures, scores, self.guard)
        shape = (config.prompts, config.group)
        self._note(futures, scores, torch.from_numpy(self.reward.total(scores)).unflatten(0, shape))
        returns = torch.from_numpy(self.reward.returns(scores, config.frames, config.discount)).unflatten(0, shape)
        gained = advantages(returns).flatten(0, 1).float().to(model.device)
        return Batch(futures.groups, gained, *self._as_drawn(futures.groups))

    def _as_drawn(self, groups: Groups) -> tuple[Tensor, Tensor, Tensor]:
        """Widths, and log-probabilities now and of the reference, before anything is learned from ``groups``.

        By the very kernels that training runs, which are others where gradients are off: so that equal weights agree to
        the bit.
        """
        frozen = copy.deepcopy(self.module.policy).requires_grad_(False)
        found, size = [], len(groups) // self.config.updates
        for start in range(0, len(groups), size):
            for rows in self._parts(slice(start, start + size)):
                own, theirs = (self._logits(dynamics, groups[rows]) for dynamics in (frozen, self.reference))
                widths, codes = self.drawing.widths(own), groups[rows].codes
                logs = [self.drawing.draws(logits, widths).log_prob(codes) for logits in (own, theirs)]
                found.append((widths, *logs))
        widths, old, reference = (torch.cat(parts) for parts in zip(*found, strict=True))
        return widths, old, reference

    def _note(self, futures: Futures, scores: Mapping[str, Array], rewards: Tensor) -> None:
        config, layout = self.config, self.module.policy.layout
        cost = TokenCost.of(layout, config.prompts, config.group, config.frames)
        self._figures |= {
            "reward": rewards.mean().item(),
            "reward_spread": rewards.std(1, correction=0).mean().item(),
            **{f"reward_{name}": float(values.mean()) for name, values in scores.items()},
            "ties": ties(rewards).float().mean().item(),
            "repetition_rate": futures.repetition(self.world_model.config.tokenizer.still_threshold),
            "tokens_prefilled": float(cost.prefilled),
            "tokens_sampled": float(cost.sampled),
            "tokens_prefilled_ancestor": float(cost.ancestor),
        }
        order = rewards[0].argsort(descending=True).tolist()
        rows = [futures.recorded[0], *(futures.imagined[index] for index in (order[0], order[-1]))]
        self._strips = {"recorded_best_worst": np.concatenate([np.concatenate(list(row), axis=1) for row in rows])}

    def _validate(self) -> None:
        """Judge the policy as it is; the best weights so far are kept."""
        found = self.validation(self._for_inference(self.module.policy), self._order)
        self._validated = {**found, "step": self.steps}
        if not self._judged:
            self._judged = {"start": found["score"], "start_reward": found["reward"]}
        if found["score"] > self._judged.get("best", -np.inf):
            self._judged |= {"best": found["score"], "best_reward": found["reward"], "best_step": self.steps}
            self.module.best.load_state_dict(self.module.policy.state_dict())

    def _for_inference(self, dynamics: Dynamics) -> WorldModel:
        return for_inference(self.world_model.config, self.world_model.tokenizer, dynamics)

    # -- what the loop asks for -------------------------------------------------------------------------------------

    def figures(self) -> Mapping[str, float]:
        """Of the last step; those of the validation are of the newest one."""
        held_out = {f"held_out_{name}": value for name, value in self._validated.items()}
        return {**self._figures, **held_out, **(self.online.figures() if self.online else {})}

    def images(self) -> Mapping[str, NDArray[np.uint8]]:
        """Of the last step's first window: what was recorded, and the futures scored best and worst, (3·H, …, 3)."""
        return self._strips

    def results(self) -> Mapping[str, Any]:
        """What a reader of the run needs beside the last figures."""
        figures = self._figures
        prefilled, ancestor = figures.get("tokens_prefilled", 0.0), figures.get("tokens_prefilled_ancestor", 1.0)
        return {
            "parameters": sum(p.numel() for p in self.module.policy.parameters()),
            "prefill_share": prefilled / ancestor,
            **{f"validation_{name}": value for name, value in self._judged.items()},
            "validation_name": self.config.validation.score,
            "exported": self.config.validation.keep,
            "stopped": self.stopped,
        }

    def state(self) -> dict[str, Any]:
        """Of the draws, the validation and the alarms."""
        return {
            "prompts": self.prompts.state_dict(),
            "guard": self.guard.state(),
            "steps": self.steps,
            "validated": self._validated,
            "judged": self._judged,
            "figures": self._figures,
            **({"online": self.online.state()} if self.online else {}),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.prompts.load_state_dict(state["prompts"])
        self.guard.load_state(state["guard"])
        self.steps = state["steps"]
        self._validated, self._judged, self._figures = state["validated"], state["judged"], state["figures"]
        if self.online:
            self.online.load_state(state["online"])

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Of the student, where it learns."""
        return self.online.tensors() if self.online else {}

    def load_tensors(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Inverse of :meth:`tensors`."""
        if self.online:
            self.online.load_tensors(tensors)

    def export(self, folder: Path) -> None:
        """The whole world model, with the best weights or the last ones."""
        if self._validated.get("step") != self.steps:
            self._validate()
        best = self.config.validation.keep == "best"
        if best and self._judged["best_step"] == 0:
            logger.warning(
                "no weights had a better %s on held-out windows than those at the start (%.4g), which are exported; "
                "stage.validation.keep=last exports the last ones",
                self.config.validation.score,
                self._judged["start"],
            )
        dynamics = self.module.best if best else self.module.policy
        WorldModel(self.world_model.config, self.world_model.tokenizer, dynamics).save_pretrained(folder)
        if self.online:
            self.online.export(folder)
