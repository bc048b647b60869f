"""The tiny judge behind real OpenAI-compatible servers."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, completion, serve
from judge_support import SCORES, SHOWN, toy_video

from roboalign_core.judge import ServerConfig, ServerJudge, Video, merge_adapter
from roboalign_core.judge.chat import SamplingConfig
from roboalign_core.judge.engine import load_engine
from roboalign_core.judge.prompt import build_prompt

torch = pytest.importorskip("torch")
VIDEOS = (5, 4, 7)  # bright, dark, bright; not those that were trained on
EXPECTED = [SCORES[number % 2] for number in VIDEOS]
# Beside a CPU-only torch, the usual torchvision can neither load its operators nor decode images: Pillow does then.
TRANSFORMERS_SERVE = """
from roboalign_core.torchvision_ops import declare_missing_ops
helped = declare_missing_ops()
import transformers.image_processing_backends as backends
from torchvision.transforms.functional import pil_to_tensor
from transformers.cli.transformers import main
from transformers.image_utils import load_image
if helped:
    backends.load_image_as_tensor = lambda image: pil_to_tensor(load_image(image))
main()
"""


@pytest.fixture(scope="module")
def merged(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The taught judge as one folder, as servers want it."""
    return merge_adapter(run / "model", tmp_path_factory.mktemp("merged") / "judge")


def asked(url: str, model: str, sampling: SamplingConfig, **changes: Any) -> tuple[ServerJudge, list[Video]]:
    config = ServerConfig(model=model, url=url, sampling=sampling, shown=SHOWN, progress=False, **changes)
    return ServerJudge(config), [toy_video(number) for number in VIDEOS]


def test_a_small_server_that_runs_the_model_through_transformers(merged: Path) -> None:
    """Decodes the request with transformers' own means, not with ours."""
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.image_utils import load_image

    processor = AutoProcessor.from_pretrained(merged)
    model = AutoModelForImageTextToText.from_pretrained(merged, dtype=torch.float32)

    def answer(body: dict[str, Any]) -> Answer:
        messages = [
            {
                "role": message["role"],
                "content": [
                    {"type": "text", "text": part["text"]}
                    if part["type"] == "text"
                    else {"type": "image", "image": load_image(part["image_url"]["url"])}
                    for part in message["content"]
                ],
            }
            for message in body["messages"]
        ]
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        free = {"do_sample": body["temperature"] > 0, "temperature": body["temperature"] or None}
        with torch.no_grad():
            torch.manual_seed(body["seed"])
            ids = model.generate(**inputs, **free, max_new_tokens=body["max_tokens"])
        spoken = ids[0, inputs["input_ids"].shape[1] :]
        ended = processor.tokenizer.eos_token_id in spoken.tolist()
        text = processor.tokenizer.decode(spoken, skip_special_tokens=True)
        return completion(text, "stop" if ended else "length", tokens=ids.shape[1])

    with serve(answer) as server:
        sampling = SamplingConfig(samples=1, temperature=0, again=0, max_tokens=80)
        judge, videos = asked(server.url, "judge", sampling, concurrency=1)
        found = judge.judge(videos)
        assert [tuple(row) for row in found.scores.raw] == EXPECTED
        engine = load_engine(str(merged), dtype=torch.float32)
        here = engine.reply([build_prompt(video, SHOWN) for video in videos], 0, 80, 0)
        assert [texts[0] for texts in found.replies] == here  # the same prompt, pixel by pixel
        assert judge.budget.tokens > 3 * 27
        judge, _ = asked(server.url, "judge", SamplingConfig(samples=2, temperature=0.2, max_tokens=80), concurrency=1)
        assert [tuple(row) for row in judge.judge(videos[:1]).scores.raw] == EXPECTED[:1]


@pytest.fixture
def transformers_serve(merged: Path, tmp_path: Path) -> Iterator[str]:
    missing = [name for name in ("fastapi", "uvicorn", "openai") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f'transformers serve needs {", ".join(missing)}: pip install "transformers[serving]"')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", TRANSFORMERS_SERVE, "serve", str(merged), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    try:
        until = time.monotonic() + 200
        while not healthy(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            assert time.monotonic() < until, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(30)


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.mark.slow
def test_transformers_serve(transformers_serve: str, merged: Path, tmp_path: Path) -> None:
    sampling = SamplingConfig(samples=2, temperature=0.2, max_tokens=80)
    judge, videos = asked(transformers_serve, str(merged), sampling, concurrency=2, cache=str(tmp_path / "cache"))
    found = judge.judge(videos)
    assert [tuple(row) for row in found.scores.raw] == EXPECTED
    assert judge.counts["asked"] == 6 + judge.counts["rejected"]
    assert judge.budget.tokens > 6 * 27
    again, _ = asked("http://127.0.0.1:1/v1", str(merged), sampling)
    assert again.describe() != judge.describe()
