"""A toy benchmark, and a Qwen3-VL small enough to learn it by heart in seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from roboalign_core.benchmark import Split
from roboalign_core.benchmark.benchmark import finish
from roboalign_core.episodes import EpisodeStore, StoreSpec
from roboalign_core.judge.protocol import Video
from roboalign_core.torchvision_ops import declare_missing_ops

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)  # for judge_support and chat_server

from chat_server import ChatServer, completion, serve  # noqa: E402
from judge_support import (  # noqa: E402
    ADAPTER_STEPS,
    SHOWN,
    SPECIAL,
    TEMPLATE,
    reply,
    tiny_tokenizer,
    toy_episode,
    toy_pair,
    toy_video,
)

declare_missing_ops()  # transformers imports torchvision where it is installed


@pytest.fixture(scope="session")
def make_benchmark() -> Callable[[Path], Path]:
    """Six pairs, the first four to train on."""

    def make(folder: Path) -> Path:
        episodes = [toy_episode(number) for number in range(6)]
        EpisodeStore.create(folder / "stores" / "toy", StoreSpec.like(episodes[0], lossless=True)).append(episodes)
        finish(folder, [toy_pair(n, Split.TRAIN if n < 4 else Split.TEST) for n in range(6)], {})
        return folder

    return make


@pytest.fixture(scope="session")
def benchmark_folder(make_benchmark: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests do not change it."""
    return make_benchmark(tmp_path_factory.mktemp("benchmark"))


@pytest.fixture(scope="session")
def videos() -> list[Video]:
    """One dark, one bright."""
    return [toy_video(0), toy_video(1)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatServer]:
    """Says 2, 1, 1, 0, 1, 2 about everything."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serve(lambda body: completion(reply(2, 1, 1, 0, 1, 2))) as running:
        yield running


# -- the tiny model -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an untrained Qwen3-VL: two layers, two in the vision tower, a processor of its own."""
    pytest.importorskip("torchvision", reason="the extra judge is not installed")
    import torch
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = tiny_tokenizer()
    size = {"patch_size": 8, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 4096}}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**size),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**size),
        chat_template=TEMPLATE,
    )
    ids = dict(zip(SPECIAL, tokenizer.convert_tokens_to_ids(list(SPECIAL)), strict=True))
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 8,
            "out_hidden_size": 64,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    model.lm_head.weight.data *= 20  # so that an adapter below a frozen head can become sure of its words
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def settings(benchmark_folder: Path, tiny_model: Path) -> Callable[..., Any]:
    """A small run of ``train stage=judge``: ``settings(out, steps=…, loop={…}, stage_changes…)``."""
    from roboalign_core.training.loop import LoopConfig
    from roboalign_core.training.verb import TrainConfig

    def make(out: Path, steps: int = 4, loop: dict[str, Any] | None = None, **changes: Any) -> Any:
        stage = {
            "name": "judge",
            "base": str(tiny_model),
            "batch": 2,
            "rank": 8,
            "alpha": 16,
            "shown": {"frames": SHOWN.frames, "side": SHOWN.side},
            **changes,
        }
        schedule = {"warmup": 3, "lr": 1e-2, "checkpoint_every": 2, "log_every": 1, **(loop or {})}
        return TrainConfig(
            data=[str(benchmark_folder)], out=str(out), stage=stage, loop=LoopConfig(steps=steps, **schedule)
        )

    return make


@pytest.fixture(scope="session")
def run(settings: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished one, whose adapter knows dark from bright."""
    pytest.importorskip("peft", reason="the extra judge is not installed")
    from roboalign_core.training.verb import train

    folder = tmp_path_factory.mktemp("runs") / "run"
    import torch

    torch.set_num_threads(1)
    train(settings(folder, ADAPTER_STEPS, {"checkpoint_every": 10}, dropout=0.0, checkpointing=False))
    return folder
