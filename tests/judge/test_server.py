"""A judge behind a server, and all that can go wrong in between."""

from __future__ import annotations

import base64
import io
import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import Answer, ChatServer, completion
from judge_support import SHOWN, kept_replies, reply
from PIL import Image

from roboalign_core.errors import MissingExtraError, RoboAlignError
from roboalign_core.files import read_json, write_json
from roboalign_core.judge import ReplyError, ServerConfig, ServerJudge, Video
from roboalign_core.judge.budget import BudgetConfig, BudgetError
from roboalign_core.judge.chat import SamplingConfig
from roboalign_core.judge.http import ChatClient
from roboalign_core.judge.retry import RetryConfig

pytest.importorskip("httpx2", reason="the extra judge is not installed")
GOOD = completion(reply(2, 1, 1, 0, 1, 2))
BAD = completion("I would rather not say.")


def judge(server: ChatServer, **changes: Any) -> ServerJudge:
    config = ServerConfig(
        model="tiny",
        url=server.url,
        progress=False,
        timeout_s=30,
        sampling=SamplingConfig(samples=2, again=1),
        shown=SHOWN,
        retry=RetryConfig(attempts=3, first_s=0.01, longest_s=5),
    )
    return ServerJudge(replace(config, **changes))


ONCE = SamplingConfig(samples=1, again=0)


# -- what is asked and what comes of it -----------------------------------------------------------------------------


def test_scores_are_means_and_deviations_of_the_samples(server: ChatServer, videos: list[Video]) -> None:
    seeds: dict[int, int] = {}

    def answer(body: dict[str, Any]) -> Answer:
        first = seeds.setdefault(body["seed"], len(seeds)) % 2 == 0
        return completion(reply(3 if first else 1, 1, 1, 0, 1, 2))

    server.answer = answer
    found = judge(server, concurrency=1).judge(videos)
    np.testing.assert_allclose(found.scores.raw, [[2, 1, 1, 0, 1, 2]] * 2)
    np.testing.assert_allclose(found.std, [[2**0.5, 0, 0, 0, 0, 0]] * 2, rtol=1e-6)
    assert [len(texts) for texts in found.replies] == [2, 2]
    assert '"instruction_following": 3' in found.replies[1][0]
    assert len(seeds) == 4  # every sample is a draw of its own


def test_the_request(server: ChatServer, videos: list[Video], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sesame\n")
    extra = {"top_p": 0.9, "max_tokens": None, "max_completion_tokens": 77}
    judge(server, sampling=ONCE, key_variable="MY_KEY", extra=extra).judge(videos[:1])
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["Authorization"] == "Bearer sesame"
    body = request["body"]
    assert {key: body[key] for key in body.keys() - {"messages", "seed"}} == {
        "model": "tiny",
        "temperature": 0.6,
        "top_p": 0.9,
        "max_completion_tokens": 77,
    }
    (message,) = body["messages"]
    assert message["role"] == "user"
    kinds = [part["type"] for part in message["content"]]
    assert kinds == ["text", "image_url"] * 3 + ["text"]
    assert "push the red cube left" in message["content"][0]["text"]
    url = message["content"][1]["image_url"]["url"]
    image = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    np.testing.assert_array_equal(np.asarray(image), videos[0].frames[0])


def test_no_key_is_sent_unasked(server: ChatServer, videos: list[Video], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "for somebody else")
    monkeypatch.delenv("ROBOALIGN_JUDGE_KEY", raising=False)
    judge(server, sampling=ONCE).judge(videos[:1])
    assert "Authorization" not in server.requests[0]["headers"]


def test_a_key_of_two_lines_is_refused_without_being_told(
    server: ChatServer, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROBOALIGN_JUDGE_KEY", "open\nsesame")
    with pytest.raises(RoboAlignError, match="ROBOALIGN_JUDGE_KEY: expected an API key in one line") as found:
        judge(server).judge(videos)
    assert "sesame" not in str(found.value)
    assert not server.requests


def test_several_requests_are_under_way_but_not_too_many(server: ChatServer, videos: list[Video]) -> None:
    server.answer = lambda body: replace(GOOD, pause=0.1)
    judge(server, concurrency=3, sampling=SamplingConfig(samples=4)).judge(videos)
    assert len(server.requests) == 8
    assert 2 <= server.most_at_once <= 3


@pytest.mark.parametrize(
    "answer",
    [
        completion(None, reasoning_content=f"Perhaps {reply(0, 0, 0, 0, 0, 0)}? No: {reply(2, 1, 1, 0, 1, 2)}"),
        completion(reply(2, 1, 1, 0, 1, 2), reasoning_content=f"Perhaps {reply(0, 0, 0, 0, 0, 0)}?"),
        completion(reply(2, 1, 1, 0, 1, 2), reasoning=reply(0, 0, 0, 0, 0, 0)),
        completion([{"type": "text", "text": reply(2, 1, 1, 0, 1, 2)}]),  # type: ignore[arg-type]
        replace(GOOD, kind="application/json; charset=utf-8"),
        completion(f"Perhaps {reply(0, 0, 0, 0, 0, 0)}</think>{reply(2, 1, 1, 0, 1, 2)} and", finish="length"),
    ],
    ids=["thought only", "thought apart", "by another name", "in parts", "charset", "cut off after it"],
)
def test_forms_of_a_completion(server: ChatServer, videos: list[Video], answer: Answer) -> None:
    server.answers = [answer]
    found = judge(server, sampling=ONCE).judge(videos[:1])
    np.testing.assert_array_equal(found.scores.raw[0], [2, 1, 1, 0, 1, 2])


@pytest.mark.parametrize(
    "answer",
    [
        completion(f"It might be {reply(0, 0, 0, 0, 0, 0)} but then", finish="length"),
        completion(None, reasoning_content=f"It might be {reply(0, 0, 0, 0, 0, 0)} but then"),
    ],
)
def test_a_draft_that_was_cut_off_does_not_count(server: ChatServer, videos: list[Video], answer: Answer) -> None:
    server.answers = [answer]
    with pytest.raises(ReplyError, match="a thought without an end"):
        judge(server, sampling=ONCE).judge(videos[:1])


# -- the cache, and asking again ------------------------------------------------------------------------------------


def test_what_was_answered_is_not_asked_again(server: ChatServer, videos: list[Video], tmp_path: Path) -> None:
    first = judge(server, cache=str(tmp_path))
    found = first.judge(videos)
    assert first.counts == {"asked": 4, "cached": 0, "rejected": 0}
    again = judge(server, cache=str(tmp_path))
    np.testing.assert_array_equal(again.judge(videos[::-1]).scores.raw, found.scores.raw[::-1])
    assert again.counts == {"asked": 0, "cached": 4, "rejected": 0}
    assert len(server.requests) == 4
    for changes, more in (
        ({"sampling": SamplingConfig(samples=3, again=1)}, 2),  # one more of each
        ({"sampling": SamplingConfig(samples=2, temperature=0.7)}, 4),
        ({"sampling": SamplingConfig(samples=2, seed=1)}, 4),
        ({"model": "other"}, 4),
        ({"extra": {"top_p": 0.5}}, 4),
        ({"shown": replace(SHOWN, frames=4)}, 4),
    ):
        before = len(server.requests)
        judge(server, cache=str(tmp_path), **changes).judge(videos)
        assert len(server.requests) - before == more, changes


def test_the_same_video_twice_is_asked_about_once(server: ChatServer, videos: list[Video]) -> None:
    found = judge(server).judge([videos[0], videos[1], videos[0]])
    assert len(server.requests) == 4
    assert found.replies[0] == found.replies[2]
    np.testing.assert_array_equal(found.scores.raw, [[2, 1, 1, 0, 1, 2]] * 3)


def test_a_kept_reply_that_is_no_longer_read_is_set_aside(
    server: ChatServer, videos: list[Video], tmp_path: Path
) -> None:
    sampling = SamplingConfig(samples=1, again=1)
    judge(server, cache=str(tmp_path), sampling=sampling).judge(videos[:1])
    (path,) = kept_replies(tmp_path)
    write_json(path, {"reply": "as an earlier version understood it"})
    found = judge(server, cache=str(tmp_path), sampling=sampling).judge(videos[:1])
    assert found.replies == ((reply(2, 1, 1, 0, 1, 2),),)
    assert len({request["body"]["seed"] for request in server.requests}) == 2
    assert [kept.read_text() for kept in (tmp_path / "rejected").iterdir()] == ["as an earlier version understood it"]


def test_a_reply_without_scores_is_kept_and_the_sample_drawn_again(
    server: ChatServer, videos: list[Video], tmp_path: Path
) -> None:
    server.answers = [BAD]
    asked = judge(server, cache=str(tmp_path), sampling=SamplingConfig(samples=1, again=1))
    np.testing.assert_array_equal(asked.judge(videos[:1]).scores.raw, [[2, 1, 1, 0, 1, 2]])
    assert asked.counts == {"asked": 2, "cached": 0, "rejected": 1}
    assert [path.read_text() for path in (tmp_path / "rejected").iterdir()] == ["I would rather not say."]
    seeds = [request["body"]["seed"] for request in server.requests]
    assert seeds[0] != seeds[1]


@pytest.mark.parametrize("cached", [True, False])
def test_replies_without_scores_are_an_error_in_the_end(
    server: ChatServer, videos: list[Video], tmp_path: Path, cached: bool
) -> None:
    server.answer = lambda body: BAD
    with pytest.raises(
        ReplyError, match=r"video 0, sample 0, drawn 3 times \(.*again above 2 .*\): reply: .*kept in"
    ) as found:
        judge(server, sampling=SamplingConfig(samples=1, again=2), cache=str(tmp_path) if cached else "").judge(
            videos[:1]
        )
    path = Path(str(found.value).split("kept in ")[1])
    assert path.read_text() == "I would rather not say."
    assert path.is_relative_to(tmp_path) == cached
    assert len(server.requests) == 3


# -- what is not answered -------------------------------------------------------------------------------------------

LONG = {"error": {"message": "the prompt is too long", "code": "context_length_exceeded"}}


def broken_for(dark: bool, fault: Answer, server: ChatServer) -> None:
    """Answer questions about dark videos, or bright ones, with a fault."""

    def answer(body: dict[str, Any]) -> Answer:
        url = body["messages"][0]["content"][1]["image_url"]["url"]
        image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        return fault if (np.asarray(image).mean() < 128) == dark else GOOD

    server.answer = answer


@pytest.mark.parametrize(
    "fault",
    [
        *(Answer(LONG, status=status) for status in (400, 413, 422)),
        Answer({"error": {"code": 400, "message": "the prompt is too long"}}),
    ],
    ids=["400", "413", "422", "inside"],
)
def test_a_question_that_is_refused_is_asked_once(
    server: ChatServer, videos: list[Video], tmp_path: Path, fault: Answer
) -> None:
    broken_for(True, fault, server)
    sampling = SamplingConfig(samples=3, again=2)
    asked = judge(server, cache=str(tmp_path), concurrency=1, sampling=sampling)
    with pytest.raises(ReplyError, match=r"video 1, sample 0: http.*(400|413|422).*prompt is too long") as found:
        asked.judge(videos[::-1])
    assert Path(str(found.value).split("kept in ")[1]).read_text().count("the prompt is too long") == 1
    assert asked.counts == {"asked": 4, "cached": 0, "rejected": 1}
    assert len(asked.judge(videos[1:])) == 1
    with pytest.raises(ReplyError, match="video 0, sample 0: http"):
        asked.judge(videos[:1])
    assert len(server.requests) == 4
    server.answer = lambda body: GOOD  # a later process asks again: the server may take more by then
    assert len(judge(server, cache=str(tmp_path), sampling=sampling).judge(videos)) == 2


@pytest.mark.parametrize("empty", [None, "", " \n", []])
def test_an_empty_completion_is_a_reply_without_scores(
    server: ChatServer, videos: list[Video], tmp_path: Path, empty: Any
) -> None:
    server.answers = [completion(empty, refusal="I cannot help with that.")]
    asked = judge(server, cache=str(tmp_path), sampling=SamplingConfig(samples=1, again=1))
    assert len(asked.judge(videos[:1])) == 1
    assert asked.counts == {"asked": 2, "cached": 0, "rejected": 1}
    (kept,) = (tmp_path / "rejected").iterdir()
    assert "I cannot help with that." in kept.read_text()
    assert asked.budget.tokens == 20


def test_a_server_that_refuses_everything_ends_the_run_soon(
    server: ChatServer, videos: list[Video], tmp_path: Path
) -> None:
    server.answer = lambda body: Answer({"error": "top_q: no such parameter"}, status=400)
    asked = judge(server, cache=str(tmp_path), concurrency=1, sampling=SamplingConfig(samples=20, again=5))
    with pytest.raises(ReplyError, match=r"HTTP 400: .*top_q: no such parameter"):
        asked.judge(videos)
    assert len(server.requests) == 2  # one of each video


# -- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Answer({"error": "busy"}, status=429),
        Answer(b"<html>bad gateway", status=502, kind="text/html"),
        Answer({"error": "oops"}, status=500),
        Answer(GOOD.body, promised=10_000),
        Answer(b'{"choices": [{"mess'),
        Answer({"error": {"code": 503, "message": "overloaded"}}),
        replace(GOOD, pause=1.2),
        replace(GOOD, trickle=0.02),
        replace(GOOD, slow_head=0.02),
        Answer(b"<html>Welcome", kind="text/html"),
        replace(GOOD, kind="application/octet-stream"),
        replace(GOOD, headers={"Content-Encoding": "gzip"}),
        Answer([1, 2]),
        Answer({}),
        Answer({"choices": []}),
        Answer({"choices": [None]}),
        Answer({"choices": [{"message": "hello"}]}),
    ],
    ids=[
        *("429", "502", "500", "broken off", "truncated JSON", "an error inside", "timeout", "trickle", "slow head"),
        *("HTML", "octets", "no gzip", "a list", "nothing in it", "no choice", "null", "a text for a message"),
    ],
)
def test_a_fault_that_passes_is_survived(server: ChatServer, videos: list[Video], fault: Answer) -> None:
    server.answers = [fault, fault]
    patient = RetryConfig(attempts=9, first_s=0.01)  # a busy machine may add time-outs of its own
    timeout = 0.6 if fault.pause or fault.trickle or fault.slow_head else 30
    found = judge(server, sampling=ONCE, timeout_s=timeout, retry=patient).judge(videos[:1])
    np.testing.assert_array_equal(found.scores.raw, [[2, 1, 1, 0, 1, 2]])
    assert len(server.requests) >= 3


@pytest.mark.parametrize(
    ("fault", "tries", "message"),
    [
        (Answer({"error": "busy"}, status=429), 3, "found after 3 tries: HTTP 429: .*busy"),
        (Answer(b"", status=503), 3, "found after 3 tries: HTTP 503"),
        (Answer(b"[1", kind="application/json"), 3, "after 3 tries: broken JSON: '\\[1'"),
        (Answer(GOOD.body, promised=10_000), 3, "after 3 tries: RemoteProtocolError"),
        (replace(GOOD, pause=0.5), 3, "after 3 tries: no whole answer within 0.2 s"),
        (Answer({"error": "no such model"}, status=404), 1, "expected HTTP 200, found 404: .*no such model"),
        (Answer({"error": "who are you"}, status=401), 1, "expected HTTP 200, found 401"),
        (Answer(b"", status=307, headers={"Location": "http://elsewhere/"}), 1, "expected HTTP 200, found 307"),
        (
            Answer(b"<html>Log in", kind="text/html"),
            3,
            "after 3 tries: no application/json but text/html: '<html>Log in",
        ),
        (Answer([1, 2]), 3, r"after 3 tries: no chat completion: '\[1, 2\]'"),
        (Answer({"choices": []}), 3, "after 3 tries: no chat completion: "),
        (Answer({"error": {"code": "quota", "message": "pay"}}), 1, "found an error: .*pay"),
        (
            Answer({"error": "slow"}, status=429, headers={"Retry-After": "60"}),
            1,
            "asks to wait for 60 s.*longest_s = 5 s",
        ),
        (Answer(b"x" * 300, status=402), 1, "found 402: 'x+'$"),
    ],
)
def test_a_fault_that_stays_is_one_clear_error(
    server: ChatServer, videos: list[Video], fault: Answer, tries: int, message: str
) -> None:
    server.answer = lambda body: fault
    with pytest.raises(RoboAlignError, match=message) as found:
        judge(server, sampling=ONCE, timeout_s=0.2 if fault.pause else 30).judge(videos[:1])
    assert server.url in str(found.value)
    assert len(server.requests) == tries


@pytest.mark.parametrize("fault", [replace(GOOD, pause=30), replace(GOOD, slow_head=0.05), replace(GOOD, trickle=0.05)])
def test_the_time_out_is_of_the_whole_request(server: ChatServer, videos: list[Video], fault: Answer) -> None:
    server.answer = lambda body: fault
    began = time.monotonic()
    with pytest.raises(RoboAlignError, match=r"after 1 tries: (no whole answer within 0\.5 s|broken JSON)"):
        judge(server, sampling=ONCE, timeout_s=0.5, retry=RetryConfig(attempts=1)).judge(videos[:1])
    assert time.monotonic() - began < 3  # 5 s and more for the answer


def test_a_line_that_was_cut_is_opened_anew(server: ChatServer, videos: list[Video]) -> None:
    server.answers = [GOOD, replace(GOOD, slow_head=0.05), GOOD]  # the second over the connection of the first
    asked = judge(server, sampling=SamplingConfig(samples=3), concurrency=1, timeout_s=1)
    assert len(asked.judge(videos[:1])) == 1
    assert len(server.requests) == 4


def test_one_thread_s_retry_after_holds_all(
    server: ChatServer, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three of four requests are answered after the client has read that of the fourth, which asks for a pause."""
    asked: list[float] = []
    together, known = threading.Barrier(4, timeout=20), threading.Event()
    numbers, hold = itertools.count(), ChatClient._hold

    def note(client: ChatClient, seconds: float) -> None:
        asked.append(time.monotonic())
        hold(client, seconds)
        known.set()

    def answer(body: dict[str, Any]) -> Answer:
        number = next(numbers)
        if number < 4:
            together.wait()
        if number == 0:
            return Answer({}, status=429, headers={"Retry-After": "1"})
        known.wait(20)
        return GOOD

    monkeypatch.setattr(ChatClient, "_hold", note)
    server.answer = answer
    judge(server, sampling=SamplingConfig(samples=10), concurrency=4).judge(videos)
    times = sorted(request["time"] for request in server.requests)
    assert len(times) == 21
    assert len(asked) == 1
    assert times[3] < asked[0]
    assert times[4] >= asked[0] + 1


def test_retry_after_is_honoured(server: ChatServer, videos: list[Video]) -> None:
    server.answers = [Answer({}, status=429, headers={"Retry-After": "0.7"})]
    judge(server, sampling=ONCE).judge(videos[:1])
    assert server.requests[1]["time"] - server.requests[0]["time"] >= 0.69


def test_nobody_there(server: ChatServer, videos: list[Video]) -> None:
    config = ServerConfig(model="x", url="http://127.0.0.1:1/v1", sampling=ONCE, progress=False)
    config.retry = RetryConfig(attempts=2, first_s=0)
    with pytest.raises(RoboAlignError, match=r"127\.0\.0\.1:1/v1/chat/completions: .* after 2 tries: ConnectError"):
        ServerJudge(config).judge(videos[:1])


def test_one_fault_stops_the_rest_and_keeps_what_is_paid_for(
    server: ChatServer, videos: list[Video], tmp_path: Path
) -> None:
    server.answers = [replace(GOOD, pause=0.3), Answer({"error": "no"}, status=403)]
    asked = judge(server, cache=str(tmp_path), sampling=SamplingConfig(samples=20), concurrency=2)
    began = time.monotonic()
    with pytest.raises(RoboAlignError, match="found 403"):
        asked.judge(videos)
    assert time.monotonic() - began < 20
    assert len(server.requests) <= 4
    assert asked.counts["asked"] >= 1
    assert len(kept_replies(tmp_path)) == asked.counts["asked"]


def test_a_budget_ends_the_run_and_a_larger_one_goes_on(
    server: ChatServer, videos: list[Video], tmp_path: Path
) -> None:
    sampling = SamplingConfig(samples=5)
    short = judge(server, cache=str(tmp_path), sampling=sampling, concurrency=1, budget=BudgetConfig(requests=4))
    with pytest.raises(BudgetError, match="requests: expected at most 4, and 4 are spent"):
        short.judge(videos)
    assert short.budget.tokens == 40
    assert len(server.requests) == 4
    long = judge(server, cache=str(tmp_path), sampling=sampling, budget=BudgetConfig(requests=10, tokens=1000))
    assert len(long.judge(videos)) == 2
    assert long.counts == {"asked": 6, "cached": 4, "rejected": 0}


def test_a_budget_is_that_of_all_runs_on_a_cache(server: ChatServer, videos: list[Video], tmp_path: Path) -> None:
    def run(**limits: int) -> ServerJudge:
        asked = judge(server, cache=str(tmp_path), sampling=SamplingConfig(samples=5), budget=BudgetConfig(**limits))
        asked.judge(videos)
        return asked

    for _ in range(3):
        with pytest.raises(BudgetError, match=r"at most 2, and 2 are spent \(.*spent\.json counts all runs\)"):
            run(requests=2)
    assert len(server.requests) == 2
    with pytest.raises(BudgetError, match="tokens: expected at most 20, and 20 are spent"):
        run(tokens=20)
    assert len(server.requests) == 2
    done = run(requests=10, tokens=100)
    assert (done.budget.requests, done.budget.tokens) == (8, 80)
    assert read_json(tmp_path / "spent.json") == {"requests": 10, "tokens": 100}
    assert run(requests=10).counts["cached"] == 10  # nothing left to ask


@pytest.mark.parametrize("said", [None, {}, {"total_tokens": None}, {"total_tokens": 0}, "many"])
def test_tokens_that_nobody_counts_cannot_be_limited(
    server: ChatServer, videos: list[Video], tmp_path: Path, said: Any
) -> None:
    server.answer = lambda body: Answer({**GOOD.body, "usage": said})
    limited = judge(server, cache=str(tmp_path), budget=BudgetConfig(tokens=1000), concurrency=1)
    with pytest.raises(BudgetError, match=r"expected a server that says .*usage\.total_tokens.*found none"):
        limited.judge(videos)
    assert len(server.requests) == len(kept_replies(tmp_path)) == 1
    assert len(judge(server, cache=str(tmp_path), budget=BudgetConfig(requests=4)).judge(videos)) == 2
    assert len(server.requests) == 4


def test_no_videos_no_requests(server: ChatServer) -> None:
    assert len(judge(server).judge([])) == 0
    assert not server.requests


def test_the_library_is_asked_for_by_its_extra(
    server: ChatServer, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "httpx2", None)
    with pytest.raises(MissingExtraError, match=r'pip install "roboalign\[judge\]"'):
        judge(server).judge(videos)
