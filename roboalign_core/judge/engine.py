"""A vision-language model of ``transformers`` as a judge uses it: load, encode, speak."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from roboalign_core.errors import RoboAlignError, require
from roboalign_core.files import read_json, write_json
from roboalign_core.judge.prompt import VERSION, Prompt, PromptConfig
from roboalign_core.precision import find_device, native_dtype
from roboalign_core.torchvision_ops import declare_missing_ops

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

ADAPTER = "adapter_config.json"  # by which peft knows a folder
TRAINED = "judge.json"  # beside it: what the adapter was trained on
_THINK = "<think>"


@dataclass(frozen=True, slots=True, eq=False)
class Engine:
    """A model and its processor.

    Attributes:
        model: takes what ``processor`` gives, and generates.
        processor: tokenizer, image processor and chat template.
    """

    model: PreTrainedModel
    processor: ProcessorMixin

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    def chat(self, prompt: Prompt) -> str:
        """A prompt in the model's own chat format, up to where its reply begins.

        Raises:
            RoboAlignError: the instruction holds one of the model's control tokens.
        """
        for part in prompt.parts:
            control = [token for token in self._tokenizer.all_special_tokens if isinstance(part, str) and token in part]
            if control:
                raise RoboAlignError(f"judge: instruction: expected plain words, found the control token {control[0]}")
        content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in prompt.parts]
        messages = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(messages, add_generation_prompt=True))

    def thought_is_open(self, chat: str) -> bool:
        """Whether the chat format has the model begin with a thought."""
        return chat.rstrip().endswith(_THINK)

    def encode(self, chats: Sequence[str], prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """Inputs of the model on its device, padded on the left."""
        batch = self.processor(
            text=list(chats),
            images=[prompt.images for prompt in prompts],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        return {name: value.to(self.device) for name, value in batch.items()}

    @torch.no_grad()
    def reply(self, prompts: Sequence[Prompt], temperature: float, max_tokens: int, seed: int) -> list[str]:
        """One reply to each prompt; the same seed gives the same ones. The caller's random numbers stay as they are.

        Raises:
            RoboAlignError: the device's memory does not suffice.
        """
        chats = [self.chat(prompt) for prompt in prompts]
        inputs = self.encode(chats, prompts)
        freely: dict[str, Any] = {"do_sample": True, "temperature": temperature}
        likeliest = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed)
            try:
                ids = self.model.generate(
                    **inputs,
                    **(freely if temperature else likeliest),
                    max_new_tokens=max_tokens,
                    pad_token_id=self._tokenizer.pad_token_id,
                )
            except torch.OutOfMemoryError as error:
                raise RoboAlignError(f"judge: out of memory with {len(prompts)} prompts at once: {error}") from error
        spoken = ids[:, inputs["input_ids"].shape[1] :]
        return [self._text(row, chat) for row, chat in zip(spoken, chats, strict=True)]

    def _text(self, ids: Tensor, chat: str) -> str:
        """Words of one reply. What was cut off before its end may all be thought."""
        text = str(self._tokenizer.decode(ids, skip_special_tokens=True))
        cut_off = self._tokenizer.eos_token_id not in ids.tolist()
        return f"{_THINK}{text}" if self.thought_is_open(chat) or (cut_off and "</think>" not in text) else text

    @property
    def _tokenizer(self) -> Any:
        return self.processor.tokenizer


def load_engine(model: str, adapter: str = "", device: str = "cpu", dtype: torch.dtype | None = None) -> Engine:
    """Load weights.

    Args:
        model: folder or hub id of a model such as Qwen3-VL; empty: the one that the adapter names.
        adapter: folder of a LoRA adapter, if any.
        device: torch device.
        dtype: of the weights; by default what the device computes natively.

    Raises:
        RoboAlignError: nothing there, something else, or a prompt of another version.
    """
    where = find_device(device)
    if adapter:
        trained_on(adapter)
    name = model or base_of(adapter)
    transformers = transformers_for_judges()
    options = {"dtype": dtype or native_dtype(where), "use_safetensors": True}
    try:
        processor = transformers.AutoProcessor.from_pretrained(name)
        network = transformers.AutoModelForImageTextToText.from_pretrained(name, **options)
        if adapter:
            network = require("peft", "judge").PeftModel.from_pretrained(network, adapter)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:  # what transformers and peft raise
        reason = str(error).strip().split("\n")[0]
        raise RoboAlignError(
            f"judge: model {name!r}{f' with adapter {adapter!r}' if adapter else ''}: expected a folder or hub id of a "
            f"vision-language model, found: {type(error).__name__}: {reason}"
        ) from error
    return Engine(network.to(where).eval(), processor)


def transformers_for_judges() -> Any:
    """``transformers``, after what its image processors need.

    Raises:
        MissingExtraError: a package of the extra ``judge`` is absent.
    """
    declare_missing_ops()
    require("torchvision", "judge")
    return require("transformers", "judge")


def base_of(adapter: str | os.PathLike[str]) -> str:
    """The model that an adapter was trained on.

    Raises:
        RoboAlignError: there is no adapter, or it names none.
    """
    if not os.fspath(adapter):
        raise RoboAlignError("judge: model: expected a folder or hub id of a vision-language model, found nothing")
    settings = read_json(Path(adapter) / ADAPTER)
    name = settings.get("base_model_name_or_path") if isinstance(settings, dict) else None
    if not isinstance(name, str) or not name:
        raise RoboAlignError(f"{Path(adapter) / ADAPTER}: base_model_name_or_path: expected a model, found {name!r}")
    return name


def trained_on(adapter: str | os.PathLike[str]) -> PromptConfig:
    """How videos were shown while an adapter was trained.

    Raises:
        RoboAlignError: the folder is no adapter of a judge, or was trained with another wording of the prompt.
    """
    path = Path(adapter) / TRAINED
    facts = read_json(path)
    version = facts.get("version") if isinstance(facts, dict) else None
    if version != VERSION:
        raise RoboAlignError(
            f"{path}: expected an adapter trained with version {VERSION} of the prompt, found {version}"
        )
    try:
        return PromptConfig(**facts["shown"])
    except (KeyError, TypeError) as error:
        raise RoboAlignError(f"{path}: shown: expected frames and side, found {facts.get('shown')!r}") from error


def write_trained_on(folder: Path, shown: PromptConfig, **facts: Any) -> None:
    """Write the file that :func:`trained_on` reads, with further facts for people."""
    write_json(folder / TRAINED, {"version": VERSION, "shown": asdict(shown), **facts})


def merge_adapter(adapter: str | os.PathLike[str], out: str | os.PathLike[str], model: str = "") -> Path:
    """Write a model with its adapter folded in, for servers that want one folder. Computed in float32, on the CPU;
    written in bfloat16.

    Args:
        adapter: folder of the adapter.
        out: a new folder.
        model: what the adapter belongs to; empty: the one that it names.

    Raises:
        RoboAlignError: ``out`` exists, or the adapter or its model cannot be loaded.
    """
    target = Path(out)
    if target.exists():
        raise RoboAlignError(f"{target}: expected nothing there, found something; choose a new folder")
    shown = trained_on(adapter)
    engine = load_engine(model, os.fspath(adapter), dtype=torch.float32)
    temporary = target.with_name(f".tmp-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left
    try:
        engine.model.merge_and_unload().to(torch.bfloat16).save_pretrained(temporary)
        engine.processor.save_pretrained(temporary)
        write_trained_on(temporary, shown, adapter=os.fspath(adapter), base=model or base_of(adapter))
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
