"""What asking may cost: requests a minute, requests and tokens in all."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from roboalign_core.errors import RoboAlignError


class BudgetError(RoboAlignError):
    """The budget is spent; what was answered so far is in the cache."""


@dataclass
class BudgetConfig:
    """Limits; 0 means none.

    Attributes:
        requests_per_minute: requests are spread so that no more are sent.
        requests: requests in all, also those that failed. Reaching it is an error, not a shorter result.
        tokens: tokens in all, prompts included, as the server counts them. Known only after a reply: requests that are
            under way when it is reached still count on top.
    """

    requests_per_minute: float = 0.0
    requests: int = 0
    tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "requests", "tokens"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise RoboAlignError(f"judge budget: {name}: expected a number of 0 or more, found {value}")


class Budget:
    """Counts, and makes callers wait their turn. Any number of threads may use it.

    Attributes:
        requests, tokens: spent so far.
    """

    def __init__(self, config: BudgetConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config, self._clock = config, clock
        self.requests = self.tokens = 0
        self._lock = threading.Lock()
        self._next = -math.inf

    def request(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """Wait until one more request may be sent, and count it.

        Args:
            sleep: waits so many seconds.

        Raises:
            BudgetError: no more may be sent.
        """
        with self._lock:
            for name, spent, most in (
                ("requests", self.requests, self.config.requests),
                ("tokens", self.tokens, self.config.tokens),
            ):
                if most and spent >= most:
                    raise BudgetError(
                        f"judge budget: {name}: expected at most {most}, and {spent} are spent; "
                        f"what was answered so far is kept: raise judge.budget.{name} and run again"
                    )
            self.requests += 1
            now = self._clock()
            turn = max(now, self._next)
            if self.config.requests_per_minute:
                self._next = turn + 60.0 / self.config.requests_per_minute
        if turn > now:
            sleep(turn - now)

    def used(self, tokens: int) -> None:
        """Count the tokens of a reply."""
        with self._lock:
            self.tokens += tokens
