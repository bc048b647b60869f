"""What asking may cost: requests a minute, requests and tokens in all."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from roboalign_core.episodes.locking import exclusive
from roboalign_core.errors import RoboAlignError
from roboalign_core.files import read_json, write_json

SPENT = "spent.json"  # in a folder of replies


class BudgetError(RoboAlignError):
    """The budget is spent; what was answered so far is in the cache."""


@dataclass
class BudgetConfig:
    """Limits; 0 means none. Those in all are of all runs on one cache, whichever judge or model they asked.

    Attributes:
        requests_per_minute: requests are spread so that no more are sent.
        requests: requests in all, also those that failed. Reaching it is an error, not a shorter result.
        tokens: tokens in all, prompts included, as the server counts them; a server that does not is an error. Known
            only after a reply: requests that are under way when it is reached still count on top.
    """

    requests_per_minute: float = 0.0
    requests: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "requests", "tokens"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise RoboAlignError(f"judge budget: {name}: expected a number of 0 or more, found {value}")


@dataclass
class Spent:
    """What was asked and answered.

    Raises:
        RoboAlignError: less than nothing.
    """

    requests: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or value < 0:
                raise RoboAlignError(f"{name}: expected a whole number of 0 or more, found {value!r}")


class Budget:
    """Counts, and makes callers wait their turn. Any number of threads and processes may use it.

    Args:
        config: what may be spent.
        folder: of replies, where the counts of all runs are kept, each before its request is sent; empty: nowhere.
        clock: seconds.

    Attributes:
        requests, tokens: spent through this object.
    """

    def __init__(
        self,
        config: BudgetConfig,
        folder: str | os.PathLike[str] = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config, self._clock = config, clock
        self.requests = self.tokens = 0
        self._path = Path(folder) / SPENT if folder else None
        self._lock = threading.Lock()
        self._next = -math.inf

    def request(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """Wait until one more request may be sent, and count it.

        Args:
            sleep: waits so many seconds; what it raises ends the wait, and nothing is counted.

        Raises:
            BudgetError: no more may be sent.
            RoboAlignError: the counts on disk are damaged.
        """
        now, turn = self._turn()
        if turn > now:
            sleep(turn - now)
        self._spend(requests=1)

    def used(self, tokens: int) -> None:
        """Count the tokens of a reply, which was kept; 0 where the server did not say.

        Raises:
            BudgetError: it did not, and tokens are limited.
            RoboAlignError: the counts on disk are damaged.
        """
        if tokens:
            self._spend(tokens=tokens)
        elif self.config.tokens:
            raise BudgetError(
                "judge budget: tokens: expected a server that says how many a reply took (usage.total_tokens), found "
                "none; what was answered is kept: set judge.budget.tokens=0, limit judge.budget.requests and run again"
            )

    def _turn(self) -> tuple[float, float]:
        """Now, and when this request may be sent."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            if self.config.requests_per_minute:
                self._next = turn + 60.0 / self.config.requests_per_minute
        return now, turn

    def _spend(self, requests: int = 0, tokens: int = 0) -> None:
        with self._lock:
            if self._path is None:
                if requests:
                    self._afford(Spent(self.requests, self.tokens))
            else:
                self._enter(self._path, requests, tokens)
            self.requests += requests
            self.tokens += tokens

    def _enter(self, path: Path, requests: int, tokens: int) -> None:
        """In the counts on disk, which other processes may change, too."""
        with exclusive(path.with_name(f".{SPENT}.lock")):
            spent = read_spent(path)
            if requests:
                self._afford(spent)
            write_json(path, asdict(Spent(spent.requests + requests, spent.tokens + tokens)))

    def _afford(self, spent: Spent) -> None:
        for name, most in (("requests", self.config.requests), ("tokens", self.config.tokens)):
            found = getattr(spent, name)
            if most and found >= most:
                where = f" ({self._path} counts all runs)" if self._path else ""
                raise BudgetError(
                    f"judge budget: {name}: expected at most {most}, and {found} are spent{where}; "
                    f"what was answered so far is kept: raise judge.budget.{name} and run again"
                )


def read_spent(path: Path) -> Spent:
    """What all runs on a folder of replies spent; nothing where there is no such file.

    Raises:
        RoboAlignError: the file is damaged.
    """
    if not path.is_file():
        return Spent()
    content: Any = read_json(path)
    try:
        return Spent(**content)
    except (TypeError, RoboAlignError) as error:
        raise RoboAlignError(
            f"{path}: expected counts of requests and tokens, found something else: {error}"
        ) from error
