"""How long a teacher takes: Qwen3-VL's network through ``transformers``, with random weights.

Speed does not depend on what weights say, so none have to be at hand. The network, its image processor, the frames that
it is shown and the words around them are those of the judge; a reply has a length that is set, because random weights
never find an end. The real tokenizer is not at hand either: a word or a sign counts as one token of the prompt.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from roboalign_core.errors import RoboAlignError, require
from roboalign_core.judge.engine import transformers_for_judges
from roboalign_core.judge.prompt import Part, PromptConfig, build_prompt
from roboalign_core.judge.protocol import Video
from roboalign_core.precision import find_device, native_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TOKEN = re.compile(r"[A-Za-z]+|\d|[^\w\s]|_")
_SPREAD = 0.02  # of the weights, as such networks begin
_BLOCK = 1 << 22  # numbers
_RESERVED = ("vision_start", "vision_end", "image", "video")  # the last words of the vocabulary


@dataclass
class TeacherConfig:
    """Sizes of a teacher and what it has to do.

    Attributes:
        name: which model has these sizes.
        text, vision: settings of transformers' ``Qwen3VLTextConfig`` and ``Qwen3VLVisionConfig``.
        tied: whether words come out by the table that they come in by.
        shown: frames of a video, as the judge is shown them.
        new_tokens: length of every reply.
        repeats: replies that are timed, after a short one that warms up.
    """

    name: str = MISSING
    text: dict[str, Any] = MISSING
    vision: dict[str, Any] = MISSING
    tied: bool = True
    shown: PromptConfig = field(default_factory=PromptConfig)
    new_tokens: int = 256
    repeats: int = 1

    def __post_init__(self) -> None:
        for name, least in (("new_tokens", 2), ("repeats", 1)):
            if getattr(self, name) < least:
                raise RoboAlignError(f"teacher.{name}: expected at least {least}, found {getattr(self, name)}")


def teacher_config(settings: Any) -> TeacherConfig:
    """Checked settings out of a mapping as in ``configs/teacher/``.

    Raises:
        RoboAlignError: an unknown or missing setting, or a value of the wrong type or range.
    """
    if not isinstance(settings, Mapping):
        raise RoboAlignError(f"teacher: expected a node of configs/teacher/, found {settings!r}")
    try:
        found = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TeacherConfig), dict(settings)))
    except OmegaConfBaseException as error:
        raise RoboAlignError(f"teacher: {' '.join(str(error).split())}") from error
    assert isinstance(found, TeacherConfig)
    return found


def reserved_ids(config: TeacherConfig) -> dict[str, int]:
    """Tokens that mark images in the prompt: the last ones of the vocabulary."""
    first = int(config.text["vocab_size"]) - len(_RESERVED)
    return {name: first + number for number, name in enumerate(_RESERVED)}


def random_network(config: TeacherConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The network with random weights, on torch's default device, in seconds: one block of them again and again.

    Raises:
        MissingExtraError: a package of the extra ``judge`` is absent.
        RoboAlignError: transformers does not understand the sizes.
    """
    transformers = transformers_for_judges()
    strict = require("huggingface_hub.errors", "judge").StrictDataclassError
    unfilled = require("transformers.initialization", "judge").no_init_weights
    try:
        settings = transformers.Qwen3VLConfig(
            text_config=dict(config.text),
            vision_config=dict(config.vision),
            tie_word_embeddings=config.tied,
            **{f"{name}_token_id": number for name, number in reserved_ids(config).items()},
        )
        with unfilled():
            model: PreTrainedModel = transformers.AutoModelForImageTextToText.from_config(settings, dtype=dtype)
    except (TypeError, ValueError, KeyError, AttributeError, strict) as error:
        reason = str(error).strip().split("\n")[0]
        raise RoboAlignError(
            f"teacher {config.name}: expected sizes of a Qwen3-VL, found: {type(error).__name__}: {reason}"
        ) from error
    model.tie_weights()
    _fill(model)
    return model


@torch.no_grad()
def _fill(model: PreTrainedModel) -> None:
    """Matrices get noise, vectors ones; drawing two billion numbers would take minutes."""
    noise = (_SPREAD * torch.randn(_BLOCK)).to(model.dtype)
    for weights in model.parameters():
        if weights.ndim < 2:
            weights.fill_(1.0)
        else:
            for part in weights.view(-1).split(_BLOCK):
                part.copy_(noise[: len(part)])


@dataclass(frozen=True)
class Reply:
    """Seconds of one reply: until its first token, and in all."""

    first: float
    total: float


class Teacher:
    """A vision-language model of given sizes, in the number format that the device computes natively.

    Args:
        config: the sizes.
        device: torch device.
        seed: of the weights and of the prompt's words.

    Raises:
        MissingExtraError: a package of the extra ``judge`` is absent.
        RoboAlignError: transformers does not understand the sizes.
    """

    def __init__(self, config: TeacherConfig, device: str = "cpu", seed: int = 0) -> None:
        transformers = transformers_for_judges()
        self.config, self.device = config, find_device(device)
        self._random = np.random.default_rng(seed)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.model = random_network(config, native_dtype(self.device)).to(self.device).eval()
        self.model.generation_config.eos_token_id = None  # a reply ends by its length alone
        self._ids = reserved_ids(config)
        self._processor = transformers.Qwen2VLImageProcessor(
            patch_size=config.vision["patch_size"],
            merge_size=config.vision["spatial_merge_size"],
            temporal_patch_size=config.vision["temporal_patch_size"],
        )

    @property
    def parameters(self) -> int:
        """How many numbers the weights are; a tied table counts once."""
        return sum(weights.numel() for weights in self.model.parameters())

    def inputs(self, video: Video, shown: PromptConfig) -> dict[str, Tensor]:
        """What the model takes for one question: ids (1, N), and pixels of the frames in patches."""
        prompt = build_prompt(video, shown)
        images = self._processor(images=prompt.images, return_tensors="pt")
        merged = int(self.config.vision["spatial_merge_size"]) ** 2
        lengths = iter(int(grid.prod()) // merged for grid in images["image_grid_thw"])
        ids = [token for part in prompt.parts for token in self._tokens(part, lengths)]
        row = torch.tensor([ids])
        inputs = {
            "input_ids": row,
            "attention_mask": torch.ones_like(row),
            "mm_token_type_ids": (row == self._ids["image"]).long(),
            "pixel_values": images["pixel_values"].to(self.model.dtype),
            "image_grid_thw": images["image_grid_thw"],
        }
        return {name: value.to(self.device) for name, value in inputs.items()}

    @torch.no_grad()
    def reply(self, video: Video, shown: PromptConfig, new_tokens: int) -> Reply:
        """Answer one question with ``new_tokens`` tokens; from the frames to the last token."""
        clock = _Clock(self.device)
        self.model.generate(
            **self.inputs(video, shown),
            max_new_tokens=new_tokens,
            do_sample=False,
            streamer=clock,
            pad_token_id=self._ids["video"],
        )
        return Reply(clock.marks[1] - clock.began, clock.marks[-1] - clock.began)

    def _tokens(self, part: Part, lengths: Any) -> list[int]:
        if isinstance(part, str):
            return list(self._random.integers(0, min(self._ids.values()), len(_TOKEN.findall(part))))
        return [self._ids["vision_start"], *[self._ids["image"]] * next(lengths), self._ids["vision_end"]]


class _Clock:
    """Notes when tokens come: first those of the prompt, then the reply's, one by one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.marks: list[float] = []
        self.began = time.perf_counter()

    def put(self, tokens: Tensor) -> None:
        """Called by ``generate`` with every token."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.marks.append(time.perf_counter())

    def end(self) -> None:
        """Called by ``generate`` after the last one."""


def time_teacher(teacher: Teacher, video: Video) -> dict[str, Any]:
    """Figures of a teacher that judges one video at a time.

    Returns:
        teacher, teacher_parameters, teacher_dtype, teacher_prompt_tokens, teacher_new_tokens; teacher_first_token_s,
        teacher_token_ms (of those after the first) and teacher_videos_per_s, medians over the repeats.
    """
    config = teacher.config
    teacher.reply(video, PromptConfig(frames=2, side=config.shown.side), new_tokens=2)
    replies = [teacher.reply(video, config.shown, config.new_tokens) for _ in range(config.repeats)]
    first = float(np.median([reply.first for reply in replies]))
    total = float(np.median([reply.total for reply in replies]))
    return {
        "teacher": f"{config.name}, random weights: speed alone",
        "teacher_parameters": teacher.parameters,
        "teacher_dtype": str(teacher.model.dtype).removeprefix("torch."),
        "teacher_prompt_tokens": teacher.inputs(video, config.shown)["input_ids"].shape[1],
        "teacher_new_tokens": config.new_tokens,
        "teacher_first_token_s": first,
        "teacher_token_ms": 1000 * (total - first) / (config.new_tokens - 1),
        "teacher_videos_per_s": 1 / total,
    }
