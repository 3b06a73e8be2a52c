"""The leader sums up past days for uptime, a piece at a time."""

from __future__ import annotations

import asyncio

import structlog

from manman_status.backoff import Backoff
from manman_status.errors import describe
from manman_status.leadership import LEASE, Leadership
from manman_status.store.leases import LeaseLost, check_lease
from manman_status.store.pool import DATABASE_ERRORS, Pool
from manman_status.store.uptime_days import make_some, read_window

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 5.0
REST_SECONDS = 0.2
"""Between two pieces: the first build after an upgrade, of a whole retention, is in no hurry."""


class UptimeDays:
    """Each piece is a transaction under the lease: whoever leads next goes on with what is
    there."""

    def __init__(self, pool: Pool, leadership: Leadership, *, retention_days: int) -> None:
        self._pool = pool
        self._leadership = leadership
        self._retention_days = retention_days

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            token = await self._leadership.wait()
            rests_seconds = LOOK_EVERY_SECONDS
            try:
                if await self.make_some(token):
                    rests_seconds = REST_SECONDS
            except LeaseLost:
                self._leadership.lost()
            except DATABASE_ERRORS as error:
                backoff.failed()
                if backoff.is_worth_saying:
                    log.warning(
                        "uptime_days_failed",
                        error=describe(error),
                        failing_seconds=backoff.failing_seconds,
                    )
            else:
                backoff.worked()
            await asyncio.sleep(rests_seconds)

    async def make_some(self, token: int) -> bool:
        """Whether there was something to do."""
        async with self._pool.acquire() as connection, connection.transaction():
            await check_lease(connection, LEASE, token)
            seconds = (self._retention_days + 1) * 86_400.0
            window = await read_window(connection, seconds)
            return await make_some(connection, window, retention_days=self._retention_days)
