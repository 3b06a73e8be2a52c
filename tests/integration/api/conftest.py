"""The real application on the test's own database, queried without a socket; and rows for it to
find."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, cast

import httpx
import pytest

from manman_status.api.app import create_app
from manman_status.settings import Settings
from manman_status.store.pool import Connection, create_pool
from tests.conftest import thresholds_of, write_thresholds


class Rows:
    """Writes rows as they are given, with something plausible for all that is not."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self.connection = connection
        self.now = now
        self.revision = 0

    async def observe(self, *, lag: float | None = 0.0, unbroken: float = 86_400.0) -> None:
        """Observed through `lag` seconds ago, and without a gap for so long before. None: never."""
        through = None if lag is None else self.ago(lag)
        since = None if lag is None else self.ago(lag + unbroken)
        await self.connection.execute(
            "UPDATE observation SET observed_through = $1, advanced_at = $1, resumed_at = $2",
            through,
            since,
        )

    def ago(self, seconds: float) -> datetime:
        return self.now - timedelta(seconds=seconds)

    async def worker(
        self, worker_id: int, *, beat_seconds_ago: float | None = 0.0, **columns: Any
    ) -> None:
        beat = None if beat_seconds_ago is None else self.ago(beat_seconds_ago)
        await self._insert(
            "workers", worker_id=worker_id, last_heartbeat=beat, **self._status(columns)
        )

    async def server(self, instance_id: int, **columns: Any) -> None:
        await self._insert(
            "server_instances", instance_id=instance_id, **self._status({"worker_id": 1} | columns)
        )

    async def processor(self, processor_id: str, **columns: Any) -> None:
        plausible = {
            "host": "a-host",
            "version": "1.0",
            "started_at": self.ago(600),
            "last_seen": self.now,
        }
        await self._insert("processors", processor_id=processor_id, **(plausible | columns))

    async def guard(self, group: str, **columns: Any) -> None:
        await self._insert("guards", group_name=group, **({"opened_at": self.now} | columns))

    async def transition(self, entity: str, entity_id: int, **columns: Any) -> int:
        self.revision += 1
        given = {"at": self.now, "new_status": "RUNNING", "reason": "reported"} | columns
        await self._insert(
            "transitions", revision=self.revision, entity=entity, entity_id=entity_id, **given
        )
        await self.connection.execute("UPDATE revision_counter SET revision = $1", self.revision)
        return self.revision

    async def transitions(self, count: int) -> None:
        """Insert transitions of workers 1 to `count`, visible all at once."""
        statement = """
            WITH given AS (
                INSERT INTO transitions (revision, at, entity, entity_id, new_status, reason)
                SELECT $1 + n, $3, 'worker', n, 'RUNNING', 'reported' FROM generate_series(1,
                    $2::bigint) n
            ) UPDATE revision_counter SET revision = $1 + $2
        """
        await self.connection.execute(statement, self.revision, count, self.now)
        self.revision += count

    async def alert(self, key: str, **columns: Any) -> int:
        """Its id."""
        plausible = {"severity": "warning", "summary": "something is wrong", "opened_at": self.now}
        await self._insert("alerts", key=key, rule=key.partition(":")[0], **(plausible | columns))
        alert_id: int = await self.connection.fetchval("SELECT max(alert_id) FROM alerts")
        return alert_id

    async def resolve(self, alert_id: int) -> None:
        await self.connection.execute(
            "UPDATE alerts SET state = 'resolved', resolved_at = now(), resolution = 'it is over'"
            " WHERE alert_id = $1",
            alert_id,
        )

    async def delivery(self, alert_id: int, channel: str, **columns: Any) -> None:
        await self._insert("deliveries", alert_id=alert_id, channel=channel, **columns)

    async def silence(self, silence_id: str, *, lasts: float = 3600.0, **columns: Any) -> None:
        """Negative: it ended so many seconds ago."""
        plausible = {
            "created_at": self.ago(7200),
            "ends_at": self.ago(-lasts),
            "created_by": "ann",
            "why": "a deploy",
        }
        await self._insert("silences", silence_id=silence_id, **(plausible | columns))

    def _status(self, columns: dict[str, Any]) -> dict[str, Any]:
        plausible = {
            "created_date": self.ago(3600),
            "status": "RUNNING",
            "status_since": self.ago(3600),
            "reason": "reported",
        }
        return plausible | columns

    async def _insert(self, table: str, **columns: Any) -> None:
        places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
        await self.connection.execute(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", *columns.values()
        )


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Connection]:
    async with (
        create_pool(database, application="test", size=1, timeout_seconds=30) as pool,
        pool.acquire() as one,
    ):
        await one.execute("SET idle_in_transaction_session_timeout = 0")
        yield one


@pytest.fixture
async def rows(connection: Connection) -> Rows:
    """Rows whose whole past was monitored, until now."""
    rows = Rows(connection, await connection.fetchval("SELECT now()"))
    await rows.observe()
    return rows


UNHURRIED = {"degraded_after_seconds": 500, "blind_after_seconds": 3000}
"""A watermark that is as old as a test takes is none the worse for it."""


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    if thresholds := thresholds_of(settings):
        await write_thresholds(settings["database_url"], thresholds)
    app = create_app(
        Settings(**({"answer_cache_ms": 0, "database_timeout_seconds": 60} | settings))
    )
    started, finished = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.lifespan():
            started.set()
            await finished.wait()

    # A fixture ends in another task than it began in, which a lifespan may not.
    life = asyncio.create_task(live())
    await started.wait()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(cast("Any", app)), base_url="http://api.test"
    ) as client:
        yield client
    finished.set()
    await life


@pytest.fixture
def run_app(database: str) -> Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]:
    """The application with more settings. It keeps no answers unless set."""
    return lambda **settings: running(**({"database_url": database} | settings))


@pytest.fixture
async def http(database: str) -> AsyncIterator[httpx.AsyncClient]:
    async with running(database_url=database) as client:
        yield client
