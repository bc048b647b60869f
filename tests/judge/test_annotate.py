"""``roboalign benchmark annotate``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_server import Answer, ChatServer, completion
from judge_support import SCORES, reply

from roboalign_core import cli
from roboalign_core.benchmark import Benchmark
from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.annotate import VERB, AnnotateConfig, run
from roboalign_core.judge.table import read_judgements
from roboalign_core.rubric import KEYS

pytest.importorskip("httpx2", reason="the extra judge is not installed")
DARK, BRIGHT = SCORES


@pytest.fixture
def folder(make_benchmark: Callable[[Path], Path], tmp_path: Path) -> Path:
    return make_benchmark(tmp_path / "benchmark")


def settings(folder: Path, server: ChatServer, judge: dict[str, Any] | None = None, **changes: Any) -> AnnotateConfig:
    asked = {
        "name": "server",
        "model": "org/tiny",
        "url": server.url,
        "progress": False,
        "concurrency": 1,
        "sampling": {"samples": 2, "again": 0},
        "shown": {"frames": 3, "side": 16},
        "retry": {"first_s": 0.0, "attempts": 2},
        **(judge or {}),
    }
    return AnnotateConfig(**{"path": str(folder), "judge": asked, "chunk": 2, **changes})


def table(folder: Path) -> Path:
    return folder / "judgements" / "org_tiny.parquet"


def test_all_pairs_are_judged_and_compared_with_their_labels(folder: Path, server: ChatServer) -> None:
    found = run(settings(folder, server))
    assert found["table"] == str(table(folder))
    assert (found["pairs"], found["unjudged"], found["requests"], found["tokens"]) == (6, 0, 12, 120)
    said = np.array([2, 1, 1, 0, 1, 2])
    expected = np.abs(said - np.array([DARK, BRIGHT])).mean(axis=0)
    for key, error in zip(KEYS, expected, strict=True):
        assert found[f"{key}_mae"] == pytest.approx(error)
    assert found["total"] == pytest.approx(7)
    assert found["mean_std"] == 0
    assert "total_spearman" not in found  # the judge says the same of all
    kept = read_judgements(table(folder))
    assert kept.numbers.tolist() == list(range(6))
    np.testing.assert_array_equal(kept.judgement.scores.raw, np.tile(said, (6, 1)))
    assert kept.judgement.replies[3] == (reply(*said), reply(*said))
    assert kept.about["model"] == "org/tiny"
    assert sorted(path.name for path in (folder / "judgements").iterdir()) == [
        ".org_tiny.lock",
        "cache",
        "org_tiny.parquet",
    ]
    Benchmark.open(folder).verify(deep=True)  # judgements are no part of it


def test_a_judge_that_agrees_ranks_as_the_labels_do(folder: Path, server: ChatServer) -> None:
    count = [0]

    def answer(body: dict[str, Any]) -> Answer:
        count[0] += 1
        return completion(reply(*SCORES[(count[0] - 1) // 2 % 2]))  # two samples each

    server.answer = answer
    found = run(settings(folder, server))
    assert found["total_spearman"] == pytest.approx(1)
    assert found["total_mae"] == 0


def test_it_goes_on_where_it_stopped(folder: Path, server: ChatServer) -> None:
    good = completion(reply(2, 1, 1, 0, 1, 2))
    server.answers = [*[good] * 5, *[Answer({}, status=503)] * 2]  # in the second chunk
    with pytest.raises(RoboAlignError, match="found after 2 tries: HTTP 503"):
        run(settings(folder, server))
    assert not table(folder).exists()
    parts = table(folder).with_name("org_tiny.parquet.parts")
    assert [path.name for path in parts.iterdir()] == ["00000000.json"]
    (parts / ".00000002.abc.tmp.json").write_text("{")  # a killed process' half of a part
    before = len(server.requests)
    found = run(settings(folder, server))
    assert (found["pairs"], found["replies_asked"], found["replies_cached"]) == (6, 7, 1)
    assert len(server.requests) - before == 7
    assert not parts.exists()
    before = len(server.requests)
    again = run(settings(folder, server))
    assert len(server.requests) == before
    assert {key: again[key] for key in again if key.endswith("_mae")} == {
        key: found[key] for key in found if key.endswith("_mae")
    }


def test_some_pairs_first_and_more_later(folder: Path, server: ChatServer) -> None:
    assert run(settings(folder, server, split="test", limit=1))["pairs"] == 1
    assert read_judgements(table(folder)).numbers.tolist() == [4]
    assert run(settings(folder, server, origin="degraded"))["pairs"] == 3
    assert read_judgements(table(folder)).numbers.tolist() == [1, 3, 4, 5]
    assert len(server.requests) == 2 * 4


def test_pairs_without_scores(folder: Path, server: ChatServer) -> None:
    good, bad = completion(reply(2, 1, 1, 0, 1, 2)), completion("No.")
    server.answers = [good, good, good, bad]  # the second pair's second sample
    unjudged = "expected at most unjudged=0 pairs without scores, found 1; pair 1: judge"
    with pytest.raises(RoboAlignError, match=unjudged):
        run(settings(folder, server))
    assert len(server.requests) == 4
    used_up = r"drawn 1 times \(judge.sampling.again above 0 draws it again\): no scores"
    with pytest.raises(RoboAlignError, match=used_up):
        run(settings(folder, server))
    assert len(server.requests) == 4 + 2, "what was answered is not asked again: these are the next pair's"
    found = run(settings(folder, server, unjudged=1))
    assert (found["pairs"], found["unjudged"]) == (5, 1)
    assert "pair 1: judge org/tiny: video 0, sample 1" in found["detail"]["failures"][0]
    assert read_judgements(table(folder)).numbers.tolist() == [0, 2, 3, 4, 5]
    assert len(server.requests) == 4 + 8
    more = {"sampling": {"samples": 2, "again": 1}}
    assert run(settings(folder, server, more))["pairs"] == 6
    assert len(server.requests) == 4 + 8 + 1
    assert read_judgements(table(folder)).numbers.tolist() == list(range(6))


def test_every_reply_without_scores_is_kept_and_none_is_asked_for_twice(folder: Path, server: ChatServer) -> None:
    good = completion(reply(2, 1, 1, 0, 1, 2))
    refusals = [completion(f"No, says draw {number}.") for number in (1, 2, 3)]
    server.answers = [refusals[0], good, good, good, *refusals[1:]]  # four samples, and the first one drawn again
    again = {"sampling": {"samples": 2, "again": 2}}
    for _ in range(3):
        with pytest.raises(RoboAlignError, match="pair 0: judge org/tiny: video 0, sample 0, drawn 3 times"):
            run(settings(folder, server, again, limit=2))
        assert len(server.requests) == 4 + 2
    assert len({request["body"]["seed"] for request in server.requests}) == 6
    rejected = folder / "judgements" / "cache" / "rejected"
    assert sorted(path.read_text() for path in rejected.iterdir()) == [f"No, says draw {n}." for n in (1, 2, 3)]
    found = run(settings(folder, server, {"sampling": {"samples": 2, "again": 3}}, limit=2))
    assert (found["pairs"], found["replies_asked"], found["replies_cached"]) == (2, 1, 1)


def test_half_a_surrogate_pair_in_a_reply_reaches_the_table(folder: Path, server: ChatServer) -> None:
    said = reply(2, 1, 1, 0, 1, 2).replace("fine", "\\ud83d") + "\ud83d"  # escaped by the model, and by the server
    server.answer = lambda body: completion(said)
    assert run(settings(folder, server, limit=1))["pairs"] == 1
    expected = said.replace("\ud83d", "\\ud83d")
    assert read_judgements(table(folder)).judgement.replies == ((expected, expected),)


def test_parts_of_before_with_half_a_surrogate_pair_are_finished(folder: Path, server: ChatServer) -> None:
    good = completion(reply(2, 1, 1, 0, 1, 2))
    server.answers = [*[good] * 4, *[Answer({}, status=503)] * 2]
    with pytest.raises(RoboAlignError, match="HTTP 503"):
        run(settings(folder, server))
    (part,) = table(folder).with_name("org_tiny.parquet.parts").iterdir()
    part.write_text(part.read_text().replace("I see", "I \\udc9d see"))
    assert run(settings(folder, server))["pairs"] == 6
    assert read_judgements(table(folder)).judgement.replies[0][0].startswith("I \\udc9d see")


def test_one_pair_that_is_refused_does_not_keep_the_others_from_being_judged(folder: Path, server: ChatServer) -> None:
    good = completion(reply(2, 1, 1, 0, 1, 2))
    server.answers = [*[good] * 4, Answer({"error": "against our rules"}, status=400), good, good, good]
    found = run(settings(folder, server, unjudged=1))
    assert (found["pairs"], found["unjudged"]) == (5, 1)
    assert "pair 2: judge org/tiny: video 0, sample 0: http" in found["detail"]["failures"][0]
    (kept,) = (folder / "judgements" / "cache" / "rejected").iterdir()
    assert "against our rules" in kept.read_text()


def test_another_judge_gets_another_table(folder: Path, server: ChatServer) -> None:
    run(settings(folder, server, limit=1))
    warmer = settings(folder, server, {"sampling": {"samples": 2, "again": 0, "temperature": 0.9}}, limit=1)
    with pytest.raises(RoboAlignError, match=r"found another temperature: 0\.6 against 0\.9; choose a new name="):
        run(warmer)
    assert run(replace(warmer, name="warmer"))["table"].endswith("warmer.parquet")


def test_the_oracle_judges_recordings_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Perfect:
        def score(self, episode: Any, instruction: str) -> np.ndarray:
            assert instruction == "push the red cube left"
            return np.array(DARK, np.float32)

    monkeypatch.setattr("roboalign_core.judge.oracle.require_oracle", lambda source: Perfect())
    config = AnnotateConfig(path=str(folder), judge={"name": "oracle"})
    with pytest.raises(RoboAlignError, match="video 1: expected a recorded episode"):
        run(config)
    found = run(replace(config, origin="recorded"))
    assert (found["pairs"], found["total_mae"]) == (3, 0)
    assert read_judgements(folder / "judgements" / "oracle.parquet").judgement.replies == ((), (), ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "dev"}, "split: expected one of all, train, validation, test, found 'dev'"),
        ({"origin": "dreamt"}, "origin: expected one of all, recorded, degraded, generated, found 'dreamt'"),
        ({"chunk": 0}, "chunk: expected at least 1, found 0"),
        ({"name": "../x"}, r"name: expected letters.*found '\.\./x'"),
        ({"judge": {"model": ""}}, "judge: model: expected the model's name"),
        ({"split": "validation"}, "expected pairs with split=validation origin=all, found none"),
        ({"path": "nowhere"}, "nowhere: expected a finished benchmark"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    folder: Path, server: ChatServer, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RoboAlignError, match=message):
        run(settings(folder, server, **changes))
    assert not server.requests
    assert not list((folder / "judgements").glob("*.parquet"))


def test_a_foreign_table_is_refused(folder: Path, server: ChatServer) -> None:
    path = table(folder)
    path.parent.mkdir()
    for content, message in ((b"PAR1", "expected a readable parquet file"), (None, "expected a table of judgements")):
        if content is None:
            pq.write_table(pa.table({"number": [1]}), path)
        else:
            path.write_bytes(content)
        with pytest.raises(RoboAlignError, match=message):
            run(settings(folder, server))


@pytest.mark.parametrize("judge", ["server", "qwen", "oracle"])
def test_the_yaml_nodes_mirror_the_configurations(judge: str) -> None:
    from roboalign_core.judge.choose import judge_settings

    config = cli.compose(VERB, ["somewhere", f"judge={judge}"])
    assert config.path == "somewhere"
    name, filled = judge_settings(config.judge)
    assert name == judge
    assert filled == judge_settings({"name": judge})[1]  # the same numbers in both places
    assert set(config.judge) - {"name"} == set(vars(filled))
