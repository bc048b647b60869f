"""Toy videos with scores, and a tokenizer that makes short work of what is said about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from roboalign_core.benchmark import Origin, Pair, Split
from roboalign_core.episodes import Episode
from roboalign_core.judge.prompt import PromptConfig, build_prompt
from roboalign_core.judge.protocol import Video
from roboalign_core.judge.targets import target_reply
from roboalign_core.rubric import HIGHEST, KEYS

INSTRUCTION = "push the red cube left"
SCORES = ((3.0, 2.0, 1.0, 1.0, 1.0, 2.0), (1.0, 0.0, 1.0, 0.0, 1.0, 0.0))
SHOWN = PromptConfig(frames=3, side=16)
ADAPTER_STEPS = 16  # enough to learn the two kinds of video by heart
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
SPECIAL += ("<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def toy_episode(number: int) -> Episode:
    """Even ones are dark, odd ones are bright."""
    rng = np.random.default_rng(number)
    return Episode(
        frames=(rng.integers(0, 60, (5, 16, 16, 3)) + 190 * (number % 2)).astype(np.uint8),
        actions=np.zeros((5, 2), np.float32),
        instruction="tidy up",
        success=True,
        fps=5.0,
        source="toy",
        camera="front",
    )


def toy_pair(number: int, split: Split) -> Pair:
    return Pair(
        number=number,
        split=split,
        instruction=INSTRUCTION,
        store="toy",
        episode=number,
        source="toy",
        parent=f"toy:{number}",
        origin=(Origin.RECORDED, Origin.DEGRADED)[number % 2],
        degradations=(),
        scores=SCORES[number % 2],
        labeller="rule",
    )


def toy_video(number: int) -> Video:
    return Video(toy_episode(number).frames, INSTRUCTION)


def reply(*scores: float) -> str:
    """What a judge says that is asked nicely."""
    numbers = ", ".join(f'"{key}": {score:g}' for key, score in zip(KEYS, scores, strict=True))
    return f'I see an arm.\n{{"reasoning": "fine", {numbers}}}'


def kept_replies(cache: Path) -> list[Path]:
    """Files of replies with scores."""
    return list(cache.glob("??/[!.]*.json"))


def tiny_tokenizer() -> Any:
    """Byte-level BPE whose tokens are whole sentences of the prompt and of replies."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = np.random.default_rng(0)
    replies = [target_reply(rng.integers(0, HIGHEST.astype(int) + 1).tolist(), False) for _ in range(40)]
    parts = build_prompt(Video(toy_episode(0).frames, INSTRUCTION), SHOWN).parts
    texts = [part for part in parts if isinstance(part, str)] * 3
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2500,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=64,
        show_progress=False,
    )
    tokenizer.train_from_iterator([*replies, *texts], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
