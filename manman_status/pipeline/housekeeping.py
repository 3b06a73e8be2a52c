"""What the leader keeps in order: partitions, retention, and the rows of processors that are gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic

import structlog

from manman_status.backoff import Backoff
from manman_status.pipeline.leadership import LEASE, Leadership
from manman_status.store.alerts import forget_resolved
from manman_status.store.leases import LeaseLost, check_lease
from manman_status.store.observation import forget_gaps, forget_processor, stale_processors
from manman_status.store.partitions import PARTITION_DAYS_AHEAD, drop_partitions, make_partitions
from manman_status.store.pool import DATABASE_ERRORS, Connection, Pool
from manman_status.store.retention import delete_ended
from manman_status.store.silences import forget_silences

log = structlog.get_logger()

LOOK_EVERY_SECONDS = 1.0
PARTITIONS_EVERY_SECONDS = 3600.0


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
        self._tidied_at: float | None = None

    async def run(self) -> None:
        backoff = Backoff()
        while True:
            token = await self._leadership.wait()
            try:
                await self._forget_the_gone(token)
                if self._tidied_at is None or monotonic() - self._tidied_at > PARTITIONS_EVERY_SECONDS:
                    await self._tidy(token)
                    self._tidied_at = monotonic()
            except LeaseLost:
                self._leadership.lost()
            except DATABASE_ERRORS as error:
                backoff.failed()
                if backoff.is_worth_saying:
                    log.warning("housekeeping_failed", error=f"{type(error).__name__}: {error}")
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

    async def _tidy(self, token: int) -> None:
        async with self._pool.acquire() as connection:
            async with connection.transaction():
                await check_lease(connection, LEASE, token)
                made = await make_partitions(connection, days_ahead=PARTITION_DAYS_AHEAD)
                dropped = await drop_partitions(connection, retention_days=self._retention_days)
            deleted = await self._delete_ended(connection, token)
            deleted += await self._forget(connection, token)
        if made or dropped or deleted:
            log.info("tidied", partitions_made=made, partitions_dropped=dropped, rows_deleted=deleted)

    async def _forget(self, connection: Connection, token: int) -> int:
        async with connection.transaction():
            await check_lease(connection, LEASE, token)
            silences = await forget_silences(connection, retention_days=self._retention_days)
            alerts = await forget_resolved(connection, retention_days=self._retention_days)
            gaps = await forget_gaps(connection, retention_days=self._retention_days)
        return silences + alerts + gaps

    async def _delete_ended(self, connection: Connection, token: int) -> int:
        total = 0
        while True:
            async with connection.transaction():
                await check_lease(connection, LEASE, token)
                deleted = await delete_ended(connection, retention_days=self._retention_days)
            total += deleted
            if not deleted:
                return total
