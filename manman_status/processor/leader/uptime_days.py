"""Sums up past days for uptime, a piece at a time."""

from __future__ import annotations

from manman_status.leadership import Leadership, LeaderTask, Term
from manman_status.store.uptime_days import make_some, read_window

LOOK_EVERY_SECONDS = 5.0
REST_SECONDS = 0.2
"""Rest between two pieces: the first build after an upgrade, of a whole retention, is in no
hurry."""


class UptimeDays(LeaderTask):
    """Each piece is one transaction: the next leader goes on with what is there."""

    failure_event = "uptime_days_failed"

    def __init__(self, leadership: Leadership, *, retention_days: int) -> None:
        super().__init__(leadership)
        self._retention_days = retention_days

    async def round(self, term: Term) -> float:
        return REST_SECONDS if await self.make_some(term) else LOOK_EVERY_SECONDS

    async def make_some(self, term: Term) -> bool:
        """Sum up one piece; False when nothing was left to do."""
        async with term.transaction() as connection:
            seconds = (self._retention_days + 1) * 86_400.0
            window = await read_window(connection, seconds)
            return await make_some(connection, window, retention_days=self._retention_days)
