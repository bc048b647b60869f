"""Nothing that was paid for is lost: the annotating process is killed, the server dies."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import Answer, ChatServer, completion, serve
from judge_support import SHOWN, kept_replies, reply

from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json
from roboalign_core.judge import ServerConfig, ServerJudge, Video
from roboalign_core.judge.chat import SamplingConfig
from roboalign_core.judge.retry import RetryConfig
from roboalign_core.judge.table import read_judgements

pytest.importorskip("httpx2", reason="the extra judge is not installed")
PAIRS, SAMPLES = 6, 3
GOOD = completion(reply(2, 1, 1, 0, 1, 2))


def annotate(folder: Path, server: ChatServer, **changes: Any) -> subprocess.Popen[bytes]:
    settings = {
        "judge": "server",
        "judge.model": "tiny",
        "judge.url": server.url,
        "judge.concurrency": 1,
        "judge.progress": "false",
        "judge.sampling.samples": SAMPLES,
        "judge.shown.frames": 3,
        "judge.shown.side": 16,
        "judge.retry.attempts": 1,
        **{f"judge.{name}": value for name, value in changes.items()},
    }
    arguments = [f"{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "roboalign_core.cli", "benchmark", "annotate", str(folder), *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})


def question(request: dict[str, Any]) -> str:
    return repr(request["body"])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("answered", [0, 4, PAIRS * SAMPLES - 1])
def test_a_killed_annotation_asks_again_only_what_was_not_answered(
    make_benchmark: Callable[[Path], Path], server: ChatServer, tmp_path: Path, answered: int
) -> None:
    folder = make_benchmark(tmp_path / "benchmark")
    running: list[subprocess.Popen[bytes]] = []

    def answer(body: dict[str, Any]) -> Answer:
        if len(server.requests) == answered + 1:
            running[0].send_signal(signal.SIGKILL)  # while this request is under way
            running[0].wait()
        return GOOD

    server.answer = answer
    running.append(annotate(folder, server))
    assert running[0].wait(120) == -signal.SIGKILL
    first = [question(request) for request in server.requests]
    assert len(first) == answered + 1
    assert not list((folder / "judgements").glob("*.parquet"))

    assert annotate(folder, server).wait(120) == 0
    asked = Counter(question(request) for request in server.requests)
    assert len(asked) == PAIRS * SAMPLES
    assert {text for text, times in asked.items() if times > 1} == {first[-1]}
    judged = read_judgements(folder / "judgements" / "tiny.parquet")
    assert judged.numbers.tolist() == list(range(PAIRS))
    np.testing.assert_array_equal(judged.judgement.scores.raw, np.tile([2, 1, 1, 0, 1, 2], (PAIRS, 1)))


def rejected_texts(cache: Path) -> set[str]:
    return {path.read_text() for path in (cache / "rejected").glob("[!.]*.txt")}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_annotation_of_several_threads_loses_and_repeats_no_rejected_reply(
    make_benchmark: Callable[[Path], Path], server: ChatServer, tmp_path: Path
) -> None:
    folder, threads, killed_at = make_benchmark(tmp_path / "benchmark"), 3, 14
    running: list[subprocess.Popen[bytes]] = []
    numbers, lock = itertools.count(1), threading.Lock()
    bad = {3, 6, 9, 12, 21, 24}  # of the replies in all

    def answer(body: dict[str, Any]) -> Answer:
        with lock:  # while it dies, no other thread is answered
            number = next(numbers)
            if number == killed_at:
                running[0].send_signal(signal.SIGKILL)
                running[0].wait()
        return completion(f"No, says {number}.") if number in bad else GOOD

    server.answer = answer
    settings = {"concurrency": threads, "sampling.again": 20}
    running.append(annotate(folder, server, **settings))
    assert running[0].wait(120) == -signal.SIGKILL
    cache = folder / "judgements" / "cache"
    before = rejected_texts(cache)
    assert before
    assert len(before) + len(kept_replies(cache)) >= killed_at - threads, "all but those under way"
    assert killed_at <= read_json(cache / "spent.json")["requests"] <= killed_at + threads

    assert annotate(folder, server, **settings).wait(120) == 0
    asked = Counter(question(request) for request in server.requests)
    assert len(server.requests) - len(asked) <= threads, "only those under way are asked again"
    assert before <= rejected_texts(cache)
    assert len(asked) == PAIRS * SAMPLES + len(rejected_texts(cache))
    judged = read_judgements(folder / "judgements" / "tiny.parquet")
    np.testing.assert_array_equal(judged.judgement.scores.raw, np.tile([2, 1, 1, 0, 1, 2], (PAIRS, 1)))


def judge(server: ChatServer, cache: Path, concurrency: int) -> ServerJudge:
    return ServerJudge(
        ServerConfig(
            model="tiny",
            url=server.url,
            progress=False,
            concurrency=concurrency,
            timeout_s=30,
            cache=str(cache),
            sampling=SamplingConfig(samples=10, again=0),
            shown=SHOWN,
            retry=RetryConfig(attempts=2, first_s=0.01, longest_s=1),
        )
    )


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_server_that_dies_half_way_costs_nothing_twice(
    videos: list[Video], tmp_path: Path, concurrency: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    died = Answer(GOOD.body, promised=100_000)  # the connection breaks in the middle of the answer
    with serve(lambda body: died if len(dying.requests) > 7 else GOOD) as dying:
        asked = judge(dying, tmp_path, concurrency)
        with pytest.raises(RoboAlignError, match=dying.url):
            asked.judge(videos)
    kept = len(kept_replies(tmp_path))
    assert kept == 7
    assert asked.counts == {"asked": 7, "cached": 0, "rejected": 0}
    with serve(lambda body: GOOD) as another:
        again = judge(another, tmp_path, concurrency)
        found = again.judge(videos)
        assert len(another.requests) == 20 - 7
    assert again.counts == {"asked": 13, "cached": 7, "rejected": 0}
    np.testing.assert_array_equal(found.scores.raw, np.tile([2, 1, 1, 0, 1, 2], (2, 1)))


def test_a_reply_is_on_disk_before_its_thread_asks_the_next_question(
    server: ChatServer, videos: list[Video], tmp_path: Path
) -> None:
    kept: list[int] = []

    def answer(body: dict[str, Any]) -> Answer:
        kept.append(len(kept_replies(tmp_path)))
        return GOOD

    server.answer = answer
    judge(server, tmp_path, concurrency=1).judge(videos)
    assert kept == list(range(20))
