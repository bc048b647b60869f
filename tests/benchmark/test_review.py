"""Reviews without a browser: the rater's file, the queue, and what the server refuses."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roboalign_core.benchmark import Benchmark, Split
from roboalign_core.benchmark.benchmark import finish
from roboalign_core.benchmark.pairs import write_pairs
from roboalign_core.benchmark.review import log as log_module
from roboalign_core.benchmark.review.judgement import Judgement, opinion, said
from roboalign_core.benchmark.review.log import ReviewLog, read_reviews
from roboalign_core.benchmark.review.queue import chosen, queue
from roboalign_core.benchmark.review.server import LIMIT, is_loopback, listen, refusal
from roboalign_core.benchmark.review.session import RequestError, Session
from roboalign_core.errors import RoboAlignError
from roboalign_core.rubric import HIGHEST, KEYS

BEST = tuple(int(value) for value in HIGHEST)
Serve = Callable[..., AbstractContextManager[str]]
HIDDEN = (b"secret", b"freeze", b"degraded", b"recorded", b"oracle", b"rule", b"labeller")


def changed(**scores: Any) -> dict[str, Any]:
    return {"scores": {**dict(zip(KEYS, BEST, strict=True)), **scores}}


# --- the rater's file -------------------------------------------------------------------------------------------------


def test_a_file_is_gone_on_with_wherever_a_kill_cut_it(review_folder: Path) -> None:
    benchmark = Benchmark.open(review_folder)
    log = ReviewLog.open(benchmark, "anna")
    for pair, scores in [(2, BEST), (0, None), (2, (0,) * 6)]:
        log.append(pair, scores)
    log.close()
    whole = log.path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    for cut in [*range(0, len(whole), 29), *ends, *(end - 1 for end in ends)]:
        log.path.write_bytes(whole[:cut])
        finished = max(0, sum(end - 1 <= cut for end in ends) - 1)  # a line that lacks nothing but its end is whole
        again = ReviewLog.open(benchmark, "anna")
        again.append(1, BEST)
        again.close()
        assert [one.pair for one in again.judgements] == [*[2, 0, 2][:finished], 1], cut
        assert ("dropped" in again.notice) == (cut not in (0, *ends, *(end - 1 for end in ends))), cut
        assert read_reviews(benchmark)["anna"].judgements == again.judgements


def test_the_last_judgement_counts_and_history_stays(review_folder: Path) -> None:
    benchmark = Benchmark.open(review_folder)
    log = ReviewLog.open(benchmark, "anna")
    for scores in (BEST, None, (0,) * 6):
        log.append(1, scores)
    log.close()
    contents = read_reviews(benchmark)["anna"]
    assert [one.scores for one in contents.judgements] == [BEST, None, (0,) * 6]
    assert contents.latest == {1: (0,) * 6}


def test_a_judgement_that_cannot_be_written_leaves_no_trace(
    review_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = ReviewLog.open(Benchmark.open(review_folder), "anna")
    log.append(0, BEST)
    before, write = log.path.read_bytes(), os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) < 30:
            raise OSError(28, "No space left on device")
        return write(handle, data[:20])

    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "write", full)
        with pytest.raises(RoboAlignError, match="could not be written: No space left on device"):
            log.append(1, BEST)
    assert log.path.read_bytes() == before
    assert [one.pair for one in log.judgements] == [0]
    log.append(1, BEST)
    log.close()


def test_two_processes_do_not_write_one_file(review_folder: Path) -> None:
    benchmark = Benchmark.open(review_folder)
    log = ReviewLog.open(benchmark, "anna")
    with pytest.raises(RoboAlignError, match="found another review of this rater running"):
        ReviewLog.open(benchmark, "anna")
    ReviewLog.open(benchmark, "ben").close()
    log.close()
    ReviewLog.open(benchmark, "anna").close()


@pytest.mark.parametrize("rater", ["", "../x", "a/b", ".anna", "-x", "a b", "anna\n", "a" * 33, "änna"])
def test_raters_have_plain_names(review_folder: Path, rater: str) -> None:
    with pytest.raises(RoboAlignError, match="rater: expected a plain name"):
        ReviewLog.open(Benchmark.open(review_folder), rater)
    assert not (review_folder / "reviews").exists()


def test_reviews_belong_to_what_was_seen(review_folder: Path) -> None:
    benchmark = Benchmark.open(review_folder)
    ReviewLog.open(benchmark, "anna").close()
    finish(review_folder, [replace(pair, labeller="judge:new") for pair in benchmark.pairs], {})
    ReviewLog.open(Benchmark.open(review_folder), "anna").close()
    other = [replace(pair, instruction="other") for pair in benchmark.pairs]
    write_pairs(review_folder / "pairs.parquet", other)
    with pytest.raises(RoboAlignError, match="expected reviews of this benchmark"):
        ReviewLog.open(Benchmark.open(review_folder), "anna")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"line 2: expected JSON"),
        (b"\xff", r"line 2: expected JSON"),
        (b'{"pair": 9, "cannot_judge": true, "time": "t"}', "line 2: judgement: pair: expected 0 to 3, found 9"),
        (b'{"pair": 1, "cannot_judge": true}', "line 2: judgement: time: expected text, found None"),
        (b"[]", "line 2: judgement: expected an object"),
    ],
)
def test_a_damaged_line_is_named(review_folder: Path, line: bytes, message: str) -> None:
    benchmark = Benchmark.open(review_folder)
    log = ReviewLog.open(benchmark, "anna")
    log.close()
    with log.path.open("ab") as file:
        file.write(line + b"\n")
    before = log.path.read_bytes()
    with pytest.raises(RoboAlignError, match=message):
        ReviewLog.open(benchmark, "anna")
    assert log.path.read_bytes() == before


# --- which pairs, in what order ---------------------------------------------------------------------------------------


def test_raters_share_a_subset_and_have_their_own_order(review_folder: Path) -> None:
    benchmark = Benchmark.open(review_folder)
    assert set(chosen(benchmark, limit=2)) < set(chosen(benchmark, limit=3))
    assert sorted(chosen(benchmark)) == [0, 1, 2, 3]
    many = range(200)
    anna, ben = queue(many, [], "anna"), queue(many, [], "ben")
    assert anna != ben
    assert sorted(anna) == sorted(ben) == list(many)
    assert queue(many, [], "anna", seed=1) != anna == queue(many, [], "anna")
    assert [number for number in anna if number < 50] == queue(range(50), [], "anna"), "whatever others there are"
    assert queue(many, [7, 300, 3, 7], "anna") == [7, 3, *(number for number in anna if number not in (7, 3))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "dev"}, "split: expected one of all, train, validation, test, found 'dev'"),
        ({"split": "train"}, "split: expected pairs to review, found none in 'train'"),
        ({"limit": 5}, r"limit: expected 0 \(all\) to 4, found 5"),
        ({"limit": -1}, r"limit: expected 0 \(all\) to 4, found -1"),
    ],
)
def test_a_subset_that_is_not_there(review_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        chosen(Benchmark.open(review_folder), **options)
    assert len(chosen(Benchmark.open(review_folder), split=Split.TEST.value)) == 4


# --- judgements -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "expected an object with scores or cannot_judge"),
        ({}, "expected an object with scores or cannot_judge"),
        ({**changed(), "cannot_judge": True}, "expected an object with scores or cannot_judge"),
        ({"cannot_judge": 1}, "cannot_judge: expected true, found 1"),
        ({"scores": [3, 2, 1, 1, 1, 2]}, "scores: expected an object"),
        ({"scores": dict.fromkeys(KEYS[1:], 0)}, "instruction_following: expected a score, found none"),
        (changed(colour=1), "found 'colour', too"),
        (changed(contact_realism=2), "contact_realism: expected a whole number from 0 to 1, found 2"),
        (changed(contact_realism=-1), "contact_realism: expected a whole number from 0 to 1, found -1"),
        (changed(contact_realism=True), "contact_realism: expected a whole number from 0 to 1, found True"),
        (changed(contact_realism=1.0), "contact_realism: expected a whole number from 0 to 1, found 1.0"),
        (changed(contact_realism="1"), "contact_realism: expected a whole number from 0 to 1, found '1'"),
        (changed(contact_realism=None), "contact_realism: expected a whole number from 0 to 1, found None"),
    ],
)
def test_what_is_no_judgement(value: Any, message: str) -> None:
    with pytest.raises(RoboAlignError, match=message):
        opinion(value)


def test_judgements_come_back() -> None:
    for scores in (BEST, (0,) * 6, None):
        assert opinion(json.loads(json.dumps(said(scores)))) == scores
        judgement = Judgement(3, scores, "2026-01-02T03:04:05+00:00")
        assert Judgement.of(json.loads(judgement.line())) == judgement


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))
near = st.fixed_dictionaries({key: st.integers(-1, 4) | scalars for key in KEYS}).map(lambda scores: {"scores": scores})
bodies = (
    st.binary(max_size=200)
    | (values | near | st.dictionaries(st.sampled_from(["scores", "cannot_judge", *KEYS]), values))
    .map(lambda value: json.dumps(value).encode())
    .flatmap(lambda body: st.just(body) | st.integers(0, len(body)).map(lambda cut: body[:cut]))
    | st.sampled_from([b"[" * 4000, b'"\\ud800"', b'{"\\ud800": 1}', b"1" * 4000, b"NaN", b"\xef\xbb\xbf{}", b"null"])
)


def test_hostile_bodies_are_refused_in_one_line(review_folder: Path) -> None:
    benchmark = Benchmark.open(review_folder)
    log = ReviewLog.open(benchmark, "anna")
    session = Session(benchmark, log, chosen(benchmark), "anna", 0)
    name = session.overview()["queue"][0]

    @settings(max_examples=100, deadline=None)
    @given(body=bodies)
    def judge(body: bytes) -> None:
        before, refused = log.path.read_bytes(), None
        try:
            session.judge(name, body)
        except RequestError as error:
            refused = error
        if refused:
            assert refused.status == 400
            assert len(str(refused)) < 300
            assert str(refused).isprintable()
            assert log.path.read_bytes() == before
        else:
            assert len(log.path.read_bytes().splitlines()) == len(before.splitlines()) + 1
            assert said(log.judgements[-1].scores) == json.loads(body)

    judge()
    log.close()


# --- the server -------------------------------------------------------------------------------------------------------


class Client:
    """Asks a server, and checks of every answer that it gives nothing away."""

    def __init__(self, url: str) -> None:
        self.address = urlsplit(url).netloc

    def __call__(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self.address, timeout=20)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            names = {"Content-Type": "application/json", **names}
        connection.request("GET" if body is None else "POST", path, body, names)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        everything = data + str(answer.headers).encode()
        assert [word for word in HIDDEN if word in everything] == []
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "server" not in {name.lower() for name in answer.headers}
        kind = answer.headers["Content-Type"]
        return answer.status, json.loads(data) if kind == "application/json" else data

    def judge(self, name: str, value: Any, **headers: str) -> tuple[int, Any]:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self(f"/api/pairs/{name}/judgement", body, **headers)


@pytest.fixture
def client(review_folder: Path, serve_review: Serve) -> Iterator[Client]:
    with serve_review(review_folder) as url:
        yield Client(url)


def test_a_review_over_http(review_folder: Path, client: Client, tmp_path: Path) -> None:
    for path, start in [("/", b"<!doctype html>"), ("/review.js", b'"use strict"'), ("/review.css", b":root")]:
        status, data = client(path)
        assert (status, data[: len(start)]) == (200, start)
    status, overview = client("/api/review")
    assert (status, overview["judged"], overview["notice"]) == (200, 0, "")
    assert [scale["key"] for scale in overview["scales"]] == list(KEYS)
    instructions = set()
    for place, name in enumerate(overview["queue"]):
        pair = client(f"/api/pairs/{name}")[1]
        assert pair["judgement"] is None
        instructions.add(pair["instruction"])
        assert client(f"/api/pairs/{name}/first_frame")[1].startswith(b"\x89PNG")
        (tmp_path / "seen.mp4").write_bytes(client(f"/api/pairs/{name}/video")[1])
        with av.open(str(tmp_path / "seen.mp4")) as video:
            assert sum(1 for _ in video.decode(video=0)) == 8
            assert "secret" not in str(video.metadata)
        value = changed() if place % 2 else {"cannot_judge": True}
        assert client.judge(name, value) == (200, {"judged": place + 1})
        assert client(f"/api/pairs/{name}")[1]["judgement"] == value
    benchmark = Benchmark.open(review_folder)
    assert instructions == {pair.instruction for pair in benchmark.pairs}
    assert sorted(read_reviews(benchmark)["anna"].latest) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("value", "headers", "status", "message"),
    [
        (changed(physics_adherence=3), {}, 400, "physics_adherence: expected a whole number from 0 to 2, found 3"),
        (b"\xff\xfe", {}, 400, "expected UTF-8, found byte 0xff"),
        (b"{", {}, 400, "expected JSON"),
        (b" " * (LIMIT + 1), {}, 413, f"expected at most {LIMIT} bytes"),
        (changed(), {"Content_Type": "text/plain"}, 415, "expected content of type application/json"),
        (changed(), {"Host": "evil.example"}, 421, "host: expected this server's own address, found 'evil.example'"),
        (changed(), {"Origin": "http://evil.example"}, 421, "found 'http://evil.example'"),
        (changed(), {"Origin": "null"}, 421, "found 'null'"),
    ],
)
def test_requests_that_are_refused(
    review_folder: Path, client: Client, value: Any, headers: dict[str, str], status: int, message: str
) -> None:
    name = client("/api/review")[1]["queue"][0]
    found, answer = client.judge(name, value, **headers)
    assert (found, list(answer)) == (status, ["error"])
    assert message in answer["error"]
    assert not read_reviews(Benchmark.open(review_folder))["anna"].judgements


def test_addresses_that_are_not_there(client: Client) -> None:
    assert client.judge("0" * 16, changed())[0] == 404
    assert client("/api/pairs/nobody/video") == (
        404,
        {"error": "pair: expected one of this review, found another name; reload the page"},
    )
    assert client("/../../etc/passwd")[0] == client("/index.html")[0] == 404
    name = client("/api/review")[1]["queue"][0]
    assert client(f"/api/pairs/{name}/judgement")[0] == 405


def test_names_of_pairs_are_a_raters_own(review_folder: Path, serve_review: Serve) -> None:
    with serve_review(review_folder, "anna") as anna, serve_review(review_folder, "ben") as ben:
        names = [set(Client(url)("/api/review")[1]["queue"]) for url in (anna, ben)]
    assert not names[0] & names[1]


def test_a_damaged_video_is_not_named_to_the_rater(
    review_folder: Path, serve_review: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    next((review_folder / "stores").rglob("*.mp4")).write_bytes(b"no video")
    with serve_review(review_folder) as url:
        client = Client(url)
        name = client("/api/review")[1]["queue"][0]
        assert client(f"/api/pairs/{name}/video") == (
            500,
            {"error": "this video could not be read; the terminal says why"},
        )
        assert client.judge(name, {"cannot_judge": True})[0] == 200
    assert "secret_store" in caplog.text


@pytest.mark.parametrize(
    ("named", "host", "fine"),
    [
        ("127.0.0.1:8000", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("[::1]:9", "127.0.0.1", True),
        ("127.0.0.1:8000", "::1", True),
        ("", "127.0.0.1", False),
        ("evil.example:8000", "127.0.0.1", False),
        ("localhost.evil.example", "127.0.0.1", False),
        ("192.168.0.7:8000", "127.0.0.1", False),
        ("192.168.0.7:8000", "0.0.0.0", True),
        ("evil.example", "0.0.0.0", False),
    ],
)
def test_only_its_own_address_is_answered(named: str, host: str, fine: bool) -> None:
    assert (refusal({"host": named}, host) == "") is fine


def test_where_it_listens() -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
    with listen("127.0.0.1", 0) as taken, pytest.raises(RoboAlignError, match="expected an address to listen at"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(RoboAlignError, match="expected an address to listen at"):
        listen("no such host", 0)
    with pytest.raises(RoboAlignError, match="port: expected 0 to 65535, found 65536"):
        listen("127.0.0.1", 65536)


def test_the_command_ends_when_it_is_interrupted(review_folder: Path) -> None:
    pytest.importorskip("uvicorn", reason='uvicorn is not installed: pip install "roboalign[review]"')
    command = [sys.executable, "-m", "roboalign_core.cli", "benchmark", "review", str(review_folder), "rater=anna"]
    server = subprocess.Popen(
        [*command, "limit=3", "open_browser=false"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdout
    line = server.stdout.readline()
    assert line.startswith("0 of 3 judged by anna. Open http://127.0.0.1:")
    with urllib.request.urlopen(
        line.split("Open ")[1].split()[0], timeout=60
    ) as page:  # it listens before it says so: this waits
        assert page.status == 200
    server.send_signal(signal.SIGINT)
    out, errors = server.communicate(timeout=120)
    assert (server.returncode, errors) == (0, "")
    assert "Ended; the same command goes on where it stopped." in out
    assert "left" in out
