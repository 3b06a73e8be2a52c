"""The days of `transitions`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import asyncpg
import pytest

from manman_status.store.partitions import (
    MOVED_AT_MOST,
    keep_partitions,
    partition_name,
    prepare_partitions,
)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def execute(connection: Any, *statements: Any) -> None:
    for statement in statements:
        await connection.execute(statement)


INSERT = "INSERT INTO transitions (revision, at, entity, entity_id, new_status, reason)"


async def keep(connection: Any, *, days_ahead: int = 2, retention_days: int = 30) -> Any:
    done = await keep_partitions(connection, days_ahead=days_ahead, retention_days=retention_days)
    assert not done.waiting
    return done


async def test_partitions_are_made_ahead_once(connection: Any) -> None:
    today = datetime.now(UTC).date()
    assert (await keep(connection)).made == [
        partition_name(today + timedelta(days=ahead)) for ahead in range(3)
    ]
    assert (await keep(connection)).made == []


async def test_rows_that_came_before_their_partition_are_moved_into_it(connection: Any) -> None:
    await connection.execute(f"{INSERT} VALUES (1, now(), 'worker', 7, 'RUNNING', 'reported')")
    [today] = (await keep(connection, days_ahead=0)).made
    assert await connection.fetchval(f"SELECT count(*) FROM {today}") == 1
    assert await connection.fetchval("SELECT count(*) FROM transitions_default") == 0


async def test_a_day_with_many_rows_stays_in_the_default_partition(connection: Any) -> None:
    """Moving them would make all readers wait. After the retention they go, but none that is still
    to be sent."""
    await connection.execute(
        f"{INSERT} SELECT n, now() - interval '40 days', 'worker', 7, 'RUNNING', 'reported'"
        f" FROM generate_series(1, {MOVED_AT_MOST + 5}) AS n"
    )
    await connection.execute(
        f"{INSERT} SELECT n, now(), 'worker', 7, 'RUNNING', 'reported'"
        f" FROM generate_series(1, {MOVED_AT_MOST + 1}) AS n"
    )
    await connection.execute("UPDATE relay SET sent_revision = $1", MOVED_AT_MOST + 3)
    today = datetime.now(UTC).date()
    assert (await keep(connection, days_ahead=1)).made == [
        partition_name(today + timedelta(days=1))
    ]
    assert (
        await connection.fetchval("SELECT count(*) FROM transitions_default")
        == MOVED_AT_MOST + 1 + 2
    )


async def test_two_processors_may_make_them_at_once(database: str, connection: Any) -> None:
    other = await asyncpg.connect(database)

    async def make_all(connection: Any) -> Any:
        made = []
        while True:
            done = await keep_partitions(connection, days_ahead=3, retention_days=30)
            made += done.made
            if not done.waiting:
                return made

    try:
        first, second = await asyncio.gather(make_all(connection), make_all(other))
    finally:
        await other.close()
    today = datetime.now(UTC).date()
    assert sorted(first + second) == [
        partition_name(today + timedelta(days=ahead)) for ahead in range(4)
    ]


async def test_partitions_are_in_the_schema_of_their_parent(connection: Any) -> None:
    await execute(connection, "CREATE SCHEMA manman", "SET search_path = manman, public")
    [today] = (await keep(connection, days_ahead=0)).made
    assert (
        await connection.fetchval(
            "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = $1", today
        )
        == "public"
    )


async def test_nothing_waits_behind_a_change_that_waits_for_a_reader(
    database: str, connection: Any
) -> None:
    """A reader like `pg_dump` is open: anyone who comes after us would queue behind our lock for as
    long as it lasts."""
    await keep(connection, days_ahead=0)
    old = partition_name(datetime.now(UTC).date() - timedelta(days=40))
    await connection.execute(
        f"CREATE TABLE {old} PARTITION OF transitions FOR VALUES FROM ('2001-01-01') TO"
        " ('2001-01-02')"
    )
    reader = await asyncpg.connect(database, server_settings={"application_name": "pg_dump"})
    other = await asyncpg.connect(database)
    trying = True

    async def change() -> Any:
        found = []
        while trying:
            found.append(
                await keep_partitions(connection, days_ahead=0, retention_days=30)
            )  # would drop
            found.append(
                await keep_partitions(connection, days_ahead=3, retention_days=30)
            )  # would make
        return found

    try:
        async with reader.transaction():
            await reader.execute("LOCK TABLE transitions IN ACCESS SHARE MODE")
            changing = asyncio.create_task(change())
            waits = []
            for number in range(200):
                begun = monotonic()
                await other.fetchval("SELECT count(*) FROM transitions", timeout=30)
                await other.execute(
                    f"{INSERT} VALUES ($1, now(), 'worker', 7, 'RUNNING', 'reported')",
                    number,
                    timeout=30,
                )
                waits.append(monotonic() - begun)
            trying = False
            found = await changing
        assert max(waits) < 2, (
            waits
        )  # 0.1 s is what is waited for a lock; a machine may stand still
        assert all(
            "pg_dump (pid " in done.waiting and not done.made and not done.dropped for done in found
        )
        assert (await keep(connection, days_ahead=3)).dropped == [old]
    finally:
        await reader.close()
        await other.close()


async def test_the_start_is_not_held_up_by_a_reader(database: str, connection: Any) -> None:
    reader = await asyncpg.connect(database)
    try:
        async with reader.transaction():
            await reader.execute("LOCK TABLE transitions IN ACCESS SHARE MODE")
            async with asyncio.timeout(30):
                await prepare_partitions(connection)
    finally:
        await reader.close()
    await prepare_partitions(connection)
    assert await connection.fetchval(
        f"SELECT to_regclass('{partition_name(datetime.now(UTC).date())}')"
    )
