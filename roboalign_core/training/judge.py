"""The judge: a vision-language model learns to say what the benchmark says."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roboalign_core.errors import RoboAlignError, require
from roboalign_core.judge.engine import ADAPTER, Engine, load_engine, write_trained_on
from roboalign_core.judge.prompt import PromptConfig, build_prompt
from roboalign_core.judge.protocol import Video
from roboalign_core.judge.targets import target_reply
from roboalign_core.training.pairs import PairData
from roboalign_core.training.parallel import Processes

IGNORED = -100  # label of what is no part of the reply
_LANGUAGE = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
_VISION = r".*visual.*\.(qkv|attn\.proj|linear_fc1|linear_fc2)"


@dataclass
class JudgeStageConfig:
    """What is trained, and how (RoboAlign-R1: Qwen3-VL-8B-Thinking with LoRA; ranks and rates are not stated there).

    Attributes:
        base: folder or hub id of the vision-language model.
        batch: videos a step and process.
        rank, alpha, dropout: of the adapter.
        vision: adapt the vision tower, too, not the language model alone.
        checkpointing: compute activations twice, so that long prompts fit into memory.
        shown: what of a video is shown.
    """

    base: str = "Qwen/Qwen3-VL-8B-Thinking"
    batch: int = 4
    rank: int = 32
    alpha: int = 64
    dropout: float = 0.05
    vision: bool = False
    checkpointing: bool = True
    shown: PromptConfig = field(default_factory=PromptConfig)

    def __post_init__(self) -> None:
        for name in ("batch", "rank", "alpha"):
            if getattr(self, name) < 1:
                raise RoboAlignError(f"stage.{name}: expected at least 1, found {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise RoboAlignError(f"stage.dropout: expected a share in [0, 1), found {self.dropout}")


class Adapter(nn.Module):
    """The trained parameters of a network, and nothing else, so that a checkpoint holds no base weights."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = [network]  # in a list, so that its parameters do not count as ours
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "/"), parameter)

    def train(self, mode: bool = True) -> Adapter:
        """Switch the whole network."""
        self._network[0].train(mode)
        return super().train(mode)


class JudgeStage:
    """Next-token loss on the replies that the benchmark's scores stand for, each video weighing the same.

    Which videos a step sees, and what drop-out drops, follow from the seed, the step and the process alone.

    Attributes:
        replica: this is not the first process of the run.
    """

    def __init__(self, config: JudgeStageConfig, data: PairData, seed: int, device: str) -> None:
        self.config, self.data, self.seed, self.step = config, data, seed, 0
        self.processes = Processes.join(torch.device(device))
        self.replica = self.processes.rank > 0
        engine = load_engine(config.base, device=str(self.processes.device(torch.device(device))))
        torch.manual_seed(seed)
        self.engine = Engine(_with_adapter(engine.model, config), engine.processor)
        self.module = Adapter(self.engine.model)
        self._shared = self.processes.shared(self.engine.model)

    def loss(self) -> tuple[Tensor, Mapping[str, float]]:
        """Of the next videos; also the share of the reply's tokens that would have been picked."""
        torch.manual_seed((self.seed * 1_000_003 + self.step) * self.processes.count + self.processes.rank)
        inputs, labels = self.batch(self._draw())
        self.step += 1
        logits = self._shared(**inputs, logits_to_keep=labels.shape[1] + 1).logits[:, :-1].float()
        said = labels != IGNORED
        losses = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        loss = (losses.sum(1) / said.sum(1)).mean()
        right = ((logits.argmax(-1) == labels) & said).sum() / said.sum()
        return loss, self.processes.mean({"loss": loss.detach(), "right": right})

    def batch(self, numbers: list[int]) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs of the model, padded on the left, and labels (B, K) of the last K tokens.

        Args:
            numbers: of the pairs.
        """
        rows = [self._row(number) for number in numbers]
        longest = max(len(inputs["input_ids"][0]) for inputs, _ in rows)
        replies = max(len(reply) for _, reply in rows)
        pad = self.engine.processor.tokenizer.pad_token_id
        padding = {"input_ids": pad, "attention_mask": 0, "mm_token_type_ids": 0}
        batch = {
            name: torch.cat(
                [
                    F.pad(inputs[name], (longest - inputs[name].shape[1], 0), value=padding[name])
                    if name in padding
                    else inputs[name]
                    for inputs, _ in rows
                ]
            )
            for name in rows[0][0]
        }
        labels = torch.stack([F.pad(reply, (replies - len(reply), 0), value=IGNORED) for _, reply in rows])
        device = self.engine.device
        return {name: value.to(device) for name, value in batch.items()}, labels.to(device)

    def _row(self, number: int) -> tuple[dict[str, Tensor], Tensor]:
        """Inputs of one video, prompt and reply, (1, length) each beside the images; and the reply's tokens.

        The reply is tokenised by itself, as it is spoken: token after token behind the prompt.
        """
        benchmark, pair = self.data.pairs[number]
        prompt = build_prompt(Video(benchmark.frames(pair), pair.instruction), self.config.shown)
        chat = self.engine.chat(prompt)
        tokenizer = self.engine.processor.tokenizer
        said = target_reply(pair.scores, self.engine.thought_is_open(chat))
        ids = [*tokenizer(said, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        reply = torch.tensor(ids)
        inputs = {name: value.cpu() for name, value in self.engine.encode([chat], [prompt]).items()}
        behind = {"input_ids": reply, "attention_mask": torch.ones_like(reply)}
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in inputs:
                inputs[name] = torch.cat([inputs[name], behind.get(name, torch.zeros_like(reply))[None]], dim=1)
        return inputs, reply

    def _draw(self) -> list[int]:
        """Numbers of the pairs of this step and process: all pairs once, in random order, then all of them again."""
        pairs, batch = len(self.data.pairs), self.config.batch
        first = (self.step * self.processes.count + self.processes.rank) * batch
        numbers = []
        for place in range(first, first + batch):
            order = torch.randperm(pairs, generator=torch.Generator().manual_seed(self.seed + place // pairs))
            numbers.append(int(order[place % pairs]))
        return numbers

    def state(self) -> dict[str, Any]:
        """Of the draws."""
        return {"step": self.step}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        self.step = state["step"]

    def export(self, folder: Path) -> None:
        """The adapter, in the format of ``peft``."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".adapter.tmp", dir=folder.parent) as temporary:
            self.engine.model.save_pretrained(temporary)
            write_trained_on(Path(temporary), self.config.shown, stage=asdict(self.config), data=self.data.identity)
            (Path(temporary) / "README.md").unlink(missing_ok=True)  # peft's form, not filled in
            names = sorted(os.listdir(temporary), key=lambda name: name == ADAPTER)  # last: by it a folder is known
            for name in names:
                os.replace(Path(temporary) / name, folder / name)


def _with_adapter(network: Any, config: JudgeStageConfig) -> Any:
    """The network with a fresh adapter: the base frozen, the adapter in float32."""
    peft = require("peft", "judge")
    lora = peft.LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=f"{_LANGUAGE}|{_VISION}" if config.vision else _LANGUAGE,
        task_type="CAUSAL_LM",
    )
    if config.checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        return peft.get_peft_model(network, lora)
    except ValueError as error:  # no layer by these names
        raise RoboAlignError(f"stage.base: expected a model like Qwen3-VL, found another one: {error}") from error
