"""Somebody reads `transitions` for long, as `pg_dump` does, while partitions or the schema are to
change."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
from alembic import command

from manman_status.store.migrate import alembic_config
from manman_status.store.partitions import partition_name
from manman_status.store.pool import SCHEMA_REVISION
from tests.conftest import role_environment
from tests.faults.liveness import Observed
from tests.fleet import Fleet
from tests.kinds import Eventually, StartRole

TOMORROW = "SELECT to_regclass($1) IS NOT NULL"


@asynccontextmanager
async def long_reader(database: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(database, server_settings={"application_name": "pg_dump"})
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE transitions IN ACCESS SHARE MODE")
            yield
    finally:
        await connection.close()


async def test_long_reader_does_not_disturb_a_partition_change(
    start_quick: StartRole,
    start_api: StartRole,
    fleet: Fleet,
    observed: Observed,
    database: str,
    eventually: Eventually,
) -> None:
    """No partition is there yet when the processor starts, and those of old days are to go."""
    old = datetime.now(UTC).date() - timedelta(days=40)
    await observed.rows(
        f"CREATE TABLE {partition_name(old)} PARTITION OF transitions"
        f" FOR VALUES FROM ('{old}T00:00:00Z') TO ('{old + timedelta(days=1)}T00:00:00Z')"
    )
    api = await start_api(answer_cache_ms=0, database_timeout_seconds=3)
    worst_lag, failures, stored = 0.0, [], False
    async with httpx.AsyncClient(base_url=api.url, timeout=30) as client, long_reader(database):
        processor = await start_quick()
        fleet.recruit(3)
        await eventually(lambda: "partitions_wait" in processor.log)
        until = time.monotonic() + 10
        while time.monotonic() < until or not stored:
            answers = [
                await client.get(path)
                for path in ("/status/changes?since=0", "/status/workers/1/transitions")
            ]
            failures += [
                answer
                for answer in answers
                if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
            ]
            stored = bool(await observed.value("SELECT count(*) = 3 FROM workers"))
            worst_lag = max(worst_lag, await observed.lag() or 0)
        assert not failures
        assert worst_lag < 15, worst_lag
        assert "lock_held_by" in processor.log
        assert "pg_dump (pid " in processor.log
        assert not await observed.value(
            TOMORROW, partition_name(datetime.now(UTC).date() + timedelta(days=7))
        )
    await eventually(
        lambda: observed.value(
            TOMORROW, partition_name(datetime.now(UTC).date() + timedelta(days=7))
        )
    )
    await eventually(lambda: observed.value(f"SELECT to_regclass('{partition_name(old)}') IS NULL"))
    assert await observed.value("SELECT count(*) FROM transitions_default") == 0
    assert await observed.value("SELECT count(*) FROM transitions WHERE entity = 'worker'") == 3
    assert not await observed.lost()


async def test_migration_that_waits_for_a_reader_blocks_nobody(
    empty_database: str, eventually: Eventually
) -> None:
    """And it says that it waits, and is done when the reader is."""
    await asyncio.to_thread(command.upgrade, alembic_config(empty_database), "0003")
    other = await asyncpg.connect(empty_database)
    waits = []
    async with long_reader(empty_database):
        migrating = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "manman_status", "migrate"),
            env=role_environment(database_url=empty_database),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert migrating.stderr is not None
        said = await migrating.stderr.readline()
        for _ in range(100):
            begun = time.monotonic()
            await other.fetchval("SELECT count(*) FROM transitions", timeout=30)
            waits.append(time.monotonic() - begun)
            await asyncio.sleep(0.02)
    out, err = await migrating.communicate()
    await other.close()
    assert b"waiting: others hold locks" in said
    assert (migrating.returncode, out.decode()) == (0, f"schema 0003 → {SCHEMA_REVISION}\n"), err
    assert max(waits) < 3, max(waits)
