"""Waiting, budgets and the cache."""

from __future__ import annotations

import random
import threading
from datetime import datetime, timezone
from pathlib import Path

import pytest

from roboalign_core.errors import RoboAlignError
from roboalign_core.judge.budget import SPENT, Budget, BudgetConfig, BudgetError, Spent, read_spent
from roboalign_core.judge.cache import ReplyCache, cache_key
from roboalign_core.judge.retry import RetryConfig, retry_after, worth_retrying

NOW = datetime(2026, 5, 6, 7, 8, 9, tzinfo=timezone.utc)


def test_waits_double_up_to_a_limit_with_jitter() -> None:
    config, draw = RetryConfig(first_s=2, longest_s=10), random.Random(0)
    for failures, most in ((1, 2), (2, 4), (3, 8), (4, 10), (5, 10), (5000, 10)):
        waits = [config.wait(failures, None, draw) for _ in range(50)]
        assert most / 2 <= min(waits)
        assert max(waits) <= most
        assert max(waits) - min(waits) > 0.2 * most


def test_the_server_s_wish_is_a_lower_bound() -> None:
    config, draw = RetryConfig(first_s=1, longest_s=10), random.Random(0)
    assert config.wait(1, 7.5, draw) == 7.5
    assert config.wait(4, 0.0, draw) >= 4


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("7", 7.0),
        (" 1.5 ", 1.5),
        ("-3", 0.0),
        ("Wed, 06 May 2026 07:08:39 GMT", 30.0),
        ("Wed, 06 May 2026 07:00:00 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Wed, 99 May 2026 07:00:00 GMT", None),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    assert retry_after(header, NOW) == expected


def test_what_is_worth_retrying() -> None:
    assert [status for status in range(200, 600) if worth_retrying(status)] == [
        408,
        425,
        429,
        *(status for status in range(500, 600) if status not in (501, 505)),
    ]


def test_requests_are_spread_over_the_minute() -> None:
    now, waited = [100.0], []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        now[0] += seconds

    budget = Budget(BudgetConfig(requests_per_minute=30), clock=lambda: now[0])
    for _ in range(3):
        budget.request(sleep)
    now[0] += 60  # unused turns are not saved up
    for _ in range(2):
        budget.request(sleep)
    assert waited == pytest.approx([2, 2, 2])


def test_turns_are_given_to_threads_one_by_one() -> None:
    waited: list[float] = []
    budget = Budget(BudgetConfig(requests_per_minute=60), clock=lambda: 0.0)
    threads = [threading.Thread(target=budget.request, args=(waited.append,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waited) == pytest.approx([1, 2, 3, 4])
    assert budget.requests == 5


def test_a_spent_budget_is_an_error() -> None:
    budget = Budget(BudgetConfig(requests=2, tokens=100))
    budget.request()
    budget.request()
    with pytest.raises(BudgetError, match=r"requests: expected at most 2, and 2 are spent.*judge\.budget\.requests"):
        budget.request()
    budget = Budget(BudgetConfig(tokens=100))
    budget.request()
    budget.used(99)
    budget.request()
    budget.used(99)
    with pytest.raises(BudgetError, match="tokens: expected at most 100, and 198 are spent"):
        budget.request()


def test_what_was_spent_is_known_to_later_and_other_budgets(tmp_path: Path) -> None:
    config = BudgetConfig(requests=40)
    budgets = [Budget(config, tmp_path) for _ in range(4)]  # as of four processes
    refused: list[BudgetError] = []

    def ask(budget: Budget) -> None:
        for _ in range(15):
            try:
                budget.request()
            except BudgetError as error:
                refused.append(error)

    threads = [threading.Thread(target=ask, args=(budget,)) for budget in budgets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(budget.requests for budget in budgets) == 40
    assert len(refused) == 20
    assert read_spent(tmp_path / SPENT) == Spent(requests=40)


def test_a_request_that_is_not_sent_is_not_counted(tmp_path: Path) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    budget = Budget(BudgetConfig(requests_per_minute=1), tmp_path)
    budget.request()
    with pytest.raises(KeyboardInterrupt):
        budget.request(interrupted)
    assert read_spent(tmp_path / SPENT) == Spent(requests=1)


@pytest.mark.parametrize("content", ["[]", '{"requests": -1}', '{"requests": "2"}', '{"request": 2}', "{"])
def test_damaged_counts_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / SPENT).write_text(content)
    with pytest.raises(RoboAlignError, match=r"spent\.json: expected "):
        Budget(BudgetConfig(), tmp_path).request()


def test_replies_are_kept(tmp_path: Path) -> None:
    cache, key = ReplyCache(tmp_path), cache_key(model="a", sample=0)
    assert cache.get(key) is None
    cache.put(key, 'She said "2".\né', {"judge": "a"})
    assert ReplyCache(tmp_path).get(key) == 'She said "2".\né'
    assert cache_key(sample=0, model="a") == key
    assert len({cache_key(model="a", sample=1), cache_key(model="b", sample=0), key}) == 3


def test_replies_without_scores_are_counted_and_none_replaces_another(tmp_path: Path) -> None:
    cache, key, other = ReplyCache(tmp_path), cache_key(sample=0), cache_key(sample=1)
    assert cache.rejected() == {}
    paths = [cache.reject(key, attempt, text) for attempt, text in ((0, "a"), (2, "half \ud800"), (0, "b"), (0, "a"))]
    assert [path.read_text() for path in paths] == ["a", "half \\ud800", "b", "a"]
    assert paths[0] == paths[3] != paths[2]
    (tmp_path / "rejected" / f"{other}.1.txt").write_text("as they were named before")
    (tmp_path / "rejected" / f".{other}.7.abc.tmp.txt").write_text("a killed process' half")
    assert cache.refuse(other, "too long").read_text() == "too long"
    assert ReplyCache(tmp_path).rejected() == {
        key: (3, paths[1]),
        other: (2, tmp_path / "rejected" / f"{other}.1.txt"),
    }


@pytest.mark.parametrize("content", ["{", "[]", '{"reply": 3}'])
def test_a_damaged_reply_is_refused(tmp_path: Path, content: str) -> None:
    cache, key = ReplyCache(tmp_path), cache_key(model="a")
    cache.put(key, "x", {})
    next(tmp_path.rglob("*.json")).write_text(content)
    with pytest.raises(RoboAlignError, match=key):
        cache.get(key)
