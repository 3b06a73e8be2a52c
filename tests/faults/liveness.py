"""Queries of the tests of liveness, and the settings that keep these short."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from manman_status.store.pool import CONNECTION_ERRORS
from tests.fleet import INTERVAL_SECONDS
from tests.kinds import StartRole

QUICK = {
    "minimum_timeout_seconds": 1,  # three of the fleet's intervals are longer
    "default_interval_seconds": 1,
    "recovery_grace_seconds": 1,
    "canary_interval_seconds": 0.2,
    "sweep_interval_seconds": 0.2,
    "lease_seconds": 1,
    "guard_percent": 100,  # never: it must not hide a false LOST
}


class Observed:
    """The database's rows, on a connection that is made again when the server was stopped.

    While the database does not answer it raises AssertionError, which `eventually` takes for "not
    yet".
    """

    def __init__(self, database: str) -> None:
        self._database = database
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def rows(self, sql: str, *arguments: Any) -> Any:
        try:
            if self._connection is None or self._connection.is_closed():
                self._connection = await asyncpg.connect(self._database, timeout=5)
            return await self._connection.fetch(sql, *arguments, timeout=5)
        except CONNECTION_ERRORS as error:
            raise AssertionError(str(error)) from error

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def value(self, sql: str, *arguments: Any) -> Any:
        [[value]] = await self.rows(sql, *arguments)
        return value

    async def through(self) -> Any:
        return await self.value("SELECT observed_through FROM observation")

    async def lag(self) -> Any:
        return await self.value(
            "SELECT extract(epoch FROM now() - observed_through)::float8 FROM observation"
        )

    async def has_passed(self, time: Any) -> bool:
        return await self.through() > time

    async def lost(self) -> list[Any]:
        """Every LOST that ever was: entity and id, oldest first."""
        sql = (
            "SELECT entity, entity_id FROM transitions WHERE new_status = 'LOST' ORDER BY revision"
        )
        return [tuple(row) for row in await self.rows(sql)]

    async def healthy(self) -> Any:
        """Count workers that are RUNNING in time, while the watermark is not behind."""
        return await self.value(
            "SELECT count(*) FROM workers, observation WHERE status = 'RUNNING'"
            " AND last_heartbeat + $1 * interval '1.5 s' >= observed_through"
            " AND observed_through > now() - interval '1 s'",
            INTERVAL_SECONDS,
        )

    async def worker(self, worker_id: int) -> Any:
        return await self._status(
            "SELECT status, reason FROM workers WHERE worker_id = $1", worker_id
        )

    async def server(self, instance_id: int) -> Any:
        return await self._status(
            "SELECT status, reason FROM server_instances WHERE instance_id = $1", instance_id
        )

    async def _status(self, sql: str, key: Any) -> Any:
        """Status and reason; None of what is not known."""
        found = await self.rows(sql, key)
        return tuple(found[0]) if found else None


@pytest.fixture
async def observed(database: str) -> AsyncIterator[Observed]:
    observed = Observed(database)
    yield observed
    await observed.close()


@pytest.fixture
def start_quick(start_processor: StartRole) -> StartRole:
    """Starts a processor with the settings of these tests, others where given."""

    async def start(**settings: Any) -> Any:
        return await start_processor(**{**QUICK, **settings})

    return start
