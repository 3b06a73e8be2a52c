"""Detects that the database's history was replaced, and gives it a new name (`store/epochs.py`).

Every processor looks, shortly after each of its own commits and once a second: the one that has
seen the most may be the only one that can know.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from manman_status.backoff import Backoff
from manman_status.errors import describe
from manman_status.store.epochs import Seen, begin_epoch, continues, look, read_common
from manman_status.store.pool import DATABASE_ERRORS, Pool

log = structlog.get_logger()

REST_SECONDS = 0.1


class HistoryCheck:
    """Compares the newest transition with the one of the look before."""

    def __init__(self, pool: Pool, *, interval_seconds: float = 1.0) -> None:
        self._pool = pool
        self._interval_seconds = interval_seconds
        self._woken = asyncio.Event()
        self._seen: Seen | None = None

    def wake(self) -> None:
        """Transitions were committed: remember them."""
        self._woken.set()

    async def run(self) -> None:
        """Check until cancelled."""
        backoff = Backoff()
        while True:
            try:
                await self._check()
            except DATABASE_ERRORS as error:
                delay = backoff.failed()
                if backoff.is_worth_saying:
                    log.warning(
                        "history_not_checked",
                        error=describe(error),
                        failing_seconds=backoff.failing_seconds,
                    )
                await asyncio.sleep(delay)
            else:
                backoff = Backoff()
                await self._rest()

    async def _rest(self) -> None:
        await asyncio.sleep(REST_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._interval_seconds):
                await self._woken.wait()
        self._woken.clear()

    async def _check(self) -> None:
        async with self._pool.acquire() as connection, connection.transaction():
            now, before = await look(connection), self._seen
            epoch = None
            if (
                before
                and before.epoch == now.epoch
                and not await continues(connection, before, now)
            ):
                common = await read_common(connection, before.read_at)
                epoch = await begin_epoch(connection, after=now, begins_after=common)
        if epoch:
            log.warning(
                "history_restored",
                epoch=epoch.name,
                previous=epoch.previous,
                revision=now.counter,
                seen_revision=before and before.counter,
                meaning="a backup was restored or a standby promoted; followers begin anew",
            )
            self._seen = None
        else:
            self._seen = now
