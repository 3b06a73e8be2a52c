"""What the leader keeps in order: partitions, retention, and the rows of processors that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from time import monotonic

import structlog

from manman_status.backoff import Backoff
from manman_status.errors import describe
from manman_status.pipeline.leadership import LEASE, Leadership
from manman_status.store.alerts import forget_resolved
from manman_status.store.clock_step import has_stepped_within
from manman_status.store.leases import LeaseLost, check_lease
from manman_status.store.observation import forget_gaps, forget_processor, stale_processors
from manman_status.store.partitions import PARTITION_DAYS_AHEAD, keep_partitions
from manman_status.store.pool import DATABASE_ERRORS, Connection, Pool
from manman_status.store.retention import delete_ended, delete_unreported
from manman_status.store.silences import forget_silences

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 1.0
TIDY_EVERY_SECONDS = 3600.0
LOCKS_TRIED_EVERY_SECONDS = 60.0
KEEP_ALL_AFTER_STEP = timedelta(days=1)
"""A clock that is years ahead must not cost the history: a person has a day to set it."""


class Housekeeper:
    """`is_connected` asks the broker for a processor: True, False, or None when it cannot be asked."""

    def __init__(
        self,
        pool: Pool,
        leadership: Leadership,
        is_connected: Callable[[str], Awaitable[bool | None]],
        *,
        queues: list[str],
        retention_days: int,
        silent_seconds: float,
    ) -> None:
        self._pool = pool
        self._leadership = leadership
        self._is_connected = is_connected
        self._queues = queues
        self._retention_days = retention_days
        self._silent_seconds = silent_seconds
        self._tidy_at = self._partitions_at = float("-inf")
        self._locks = Backoff(longest_seconds=LOCKS_TRIED_EVERY_SECONDS)

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            token = await self._leadership.wait()
            try:
                await self._forget_the_gone(token)
                if monotonic() >= self._tidy_at:
                    await self._tidy(token)
                    self._tidy_at = monotonic() + TIDY_EVERY_SECONDS
                if monotonic() >= self._partitions_at:
                    await self._keep_partitions()
            except LeaseLost:
                self._leadership.lost()
            except DATABASE_ERRORS as error:
                backoff.failed()
                if backoff.is_worth_saying:
                    log.warning("housekeeping_failed", error=describe(error), failing_seconds=backoff.failing_seconds)
            else:
                backoff.worked()
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _forget_the_gone(self, token: int) -> None:
        """A silent processor that is still connected may hold messages, and so holds the watermark too. One that is
        not has given everything back."""
        async with self._pool.acquire() as connection:
            silent = await stale_processors(connection, silent_seconds=self._silent_seconds)
        for processor_id in silent:
            if await self._is_connected(processor_id) is not False:
                continue
            async with self._pool.acquire() as connection, connection.transaction():
                await check_lease(connection, LEASE, token)
                await forget_processor(connection, processor_id, queues=self._queues)
            log.warning("processor_gone", processor_id=processor_id)

    async def _keep_partitions(self) -> None:
        """No lease is checked: whoever does this does the same, and one at a time. The check would keep the lease
        from being renewed while a lock is waited for."""
        async with self._pool.acquire() as connection:
            keeps_all = await has_stepped_within(connection, KEEP_ALL_AFTER_STEP)
            retention_days = None if keeps_all else self._retention_days
            done = await keep_partitions(connection, days_ahead=PARTITION_DAYS_AHEAD, retention_days=retention_days)
        if done.made or done.dropped:
            log.info("partitions_changed", made=done.made, dropped=done.dropped)
        if done.waiting:
            self._partitions_at = monotonic() + self._locks.failed()
            if self._locks.is_worth_saying:
                log.info("partitions_wait", lock_held_by=done.waiting, waiting_seconds=self._locks.failing_seconds)
            return
        self._partitions_at = monotonic() + TIDY_EVERY_SECONDS
        self._locks = Backoff(longest_seconds=LOCKS_TRIED_EVERY_SECONDS)

    async def _tidy(self, token: int) -> None:
        async with self._pool.acquire() as connection:
            if await has_stepped_within(connection, KEEP_ALL_AFTER_STEP):
                return
            deleted = await self._delete(delete_ended, connection, token)
            deleted += await self._delete(delete_unreported, connection, token)
            deleted += await self._forget(connection, token)
        if deleted:
            log.info("retention_done", rows_deleted=deleted)

    async def _forget(self, connection: Connection, token: int) -> int:
        async with connection.transaction():
            await check_lease(connection, LEASE, token)
            silences = await forget_silences(connection, retention_days=self._retention_days)
            alerts = await forget_resolved(connection, retention_days=self._retention_days)
            gaps = await forget_gaps(connection, retention_days=self._retention_days)
        return silences + alerts + gaps

    async def _delete(self, some: Callable[..., Awaitable[int]], connection: Connection, token: int) -> int:
        """Call `some` until it finds nothing more to delete, each time in a transaction."""
        total = 0
        while True:
            async with connection.transaction():
                await check_lease(connection, LEASE, token)
                deleted = await some(connection, retention_days=self._retention_days)
            total += deleted
            if not deleted:
                return total
