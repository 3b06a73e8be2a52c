"""Delays between tries, and limits on how often a lasting failure is logged."""

from __future__ import annotations

import random
from time import monotonic

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 5.0


class Backoff:
    """Doubling delays with jitter, for one action that is tried until it works."""

    def __init__(self, *, longest_seconds: float = LONGEST_SECONDS) -> None:
        self.failures = 0
        self._longest_seconds = longest_seconds
        self._since = monotonic()
        self._said_at: float | None = None
        self.is_worth_saying = False

    @property
    def failing_seconds(self) -> float:
        return round(monotonic() - self._since, 1)

    def failed(self) -> float:
        """Count one more failure and return the seconds to wait. The first failure is worth
        logging, then about one a minute."""
        if not self.failures:
            self._since = monotonic()
        self.failures += 1
        self.is_worth_saying = self._said_at is None or monotonic() - self._said_at >= 60
        if self.is_worth_saying:
            self._said_at = monotonic()
        delay: float = min(FIRST_SECONDS * 2 ** min(self.failures - 1, 10), self._longest_seconds)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311

    def worked(self) -> None:
        """Begin anew: the next failure is the first. It is logged once a minute has passed since
        the last log line."""
        self.failures = 0


class OnceAMinute:
    """Limits the log lines about one event that others can cause as often as they like."""

    def __init__(self) -> None:
        self._said_at = float("-inf")

    def is_due(self) -> bool:
        """True for the first call, and then for one a minute at most."""
        now = monotonic()
        if now - self._said_at < 60:
            return False
        self._said_at = now
        return True
