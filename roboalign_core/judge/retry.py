"""When a server says no: how often to ask again, and how long to wait before."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from roboalign_core.errors import RoboAlignError


@dataclass
class RetryConfig:
    """Exponential back-off with jitter.

    Attributes:
        attempts: requests at most, the first one included.
        first_s: wait before the second request, in seconds; every further wait is twice as long.
        longest_s: no wait of ours is longer. A server that asks for more (``Retry-After``) ends the run instead.
    """

    attempts: int = 6
    first_s: float = 1.0
    longest_s: float = 120.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise RoboAlignError(f"judge retry: attempts: expected at least 1, found {self.attempts}")
        for name in ("first_s", "longest_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RoboAlignError(f"judge retry: {name}: expected 0 seconds or more, found {getattr(self, name)}")

    def wait(self, failures: int, asked: float | None, draw: random.Random) -> float:
        """Seconds to wait after so many failures (1 or more).

        Half of the back-off is drawn at random, so that clients that failed together do not come back together; a
        server's own wish is a lower bound.

        Args:
            failures: requests that failed so far.
            asked: seconds that the server asked for, if it did.
            draw: source of the jitter.
        """
        backoff = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 60))
        return max(backoff * draw.uniform(0.5, 1.0), asked or 0.0)


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, given as seconds or as a date; None where it says nothing."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except (ValueError, TypeError, OverflowError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        seconds = (date - (now or datetime.now(timezone.utc))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def worth_retrying(status: int) -> bool:
    """Whether an HTTP status may be another one in a moment: too many requests, time-outs, faults of the server."""
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))
