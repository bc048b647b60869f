"""A judge on this machine: Qwen3-VL, or another vision-language model that ``transformers`` knows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.chat import Answers, ChatJudge, Question, SamplingConfig
from roboalign_core.judge.engine import TRAINED, base_of, load_engine, trained_on
from roboalign_core.judge.prompt import PromptConfig


@dataclass
class QwenConfig:
    """Which weights, and how they are used.

    Attributes:
        model: folder or hub id, e.g. ``Qwen/Qwen3-VL-8B-Thinking``; empty: the one that the adapter names.
        adapter: folder of a LoRA adapter, as ``train stage=judge`` writes it; empty: none.
        device: torch device.
        batch: replies that are spoken at once.
        cache: folder of replies; empty: none.
        progress: show a progress bar.
        sampling: see its class.
        shown: what of a video is shown; null: as the weights were trained on, where they say so.
    """

    model: str = ""
    adapter: str = ""
    device: str = "cpu"
    batch: int = 4
    cache: str = ""
    progress: bool = True
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    shown: PromptConfig | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise RoboAlignError(f"judge.batch: expected at least 1, found {self.batch}")


class QwenJudge(ChatJudge):
    """Loads the weights once and keeps them."""

    def __init__(self, config: QwenConfig) -> None:
        """Load the weights.

        Raises:
            RoboAlignError: there are none, or a package of the extra ``judge`` is absent.
        """
        self.engine = load_engine(config.model, config.adapter, config.device)
        self.config = config
        model = config.model or base_of(config.adapter)
        parts = [model, *filter(None, [config.adapter])]
        identity = {"weights": {part: fingerprint(part) for part in parts}}
        name = "+".join(Path(part).name for part in parts)
        super().__init__(name, identity, config.sampling, _shown(config, model), config.cache, config.progress)

    def _ask(self, questions: Sequence[Question]) -> Answers:
        sampling = self.sampling
        for first in range(0, len(questions), self.config.batch):
            batch = questions[first : first + self.config.batch]
            prompts = [question.prompt() for question in batch]
            replies = self.engine.reply(prompts, sampling.temperature, sampling.max_tokens, batch[0].seed)
            kept = [self._keep(question, reply) for question, reply in zip(batch, replies, strict=True)]
            yield from zip(batch, replies, kept, strict=True)


def fingerprint(model: str) -> str:
    """Changes when the files of a model's folder do, judged by names, sizes and times; a hub id stands for itself."""
    folder = Path(model)
    if not folder.is_dir():
        return model
    files = sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", ".json", ".jinja"))
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _shown(config: QwenConfig, model: str) -> PromptConfig:
    if config.shown is not None:
        return config.shown
    folder = next((place for place in (config.adapter, model) if (Path(place) / TRAINED).is_file()), None)
    return trained_on(folder) if folder else PromptConfig()
