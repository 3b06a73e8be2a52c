"""The days of `transitions`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from manman_status.store.partitions import make_partitions, partition_name


@pytest.fixture
async def connection(database):
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def test_partitions_are_made_ahead_once(connection):
    today = datetime.now(UTC).date()
    async with connection.transaction():
        made = await make_partitions(connection, days_ahead=2)
    assert made == [partition_name(today + timedelta(days=ahead)) for ahead in range(3)]
    async with connection.transaction():
        assert await make_partitions(connection, days_ahead=2) == []


async def test_rows_that_came_before_their_partition_are_moved_into_it(connection):
    await connection.execute(
        "INSERT INTO transitions (revision, at, entity, entity_id, new_status, reason)"
        " VALUES (1, now(), 'worker', 7, 'RUNNING', 'reported')"
    )
    async with connection.transaction():
        [today] = await make_partitions(connection, days_ahead=0)
    assert await connection.fetchval(f"SELECT count(*) FROM {today}") == 1
    assert await connection.fetchval("SELECT count(*) FROM transitions_default") == 0


async def test_two_processors_may_make_them_at_once(database, connection):
    other = await asyncpg.connect(database)
    try:
        async with connection.transaction():
            await make_partitions(connection, days_ahead=3)
        async with other.transaction():
            assert await make_partitions(other, days_ahead=3) == []
    finally:
        await other.close()
