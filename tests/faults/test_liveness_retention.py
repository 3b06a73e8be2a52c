"""Old rows are deleted by a new leader; active ones never are, however old."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from manman_status.store.partitions import keep_partitions, partition_name
from tests.faults.liveness import Observed
from tests.kinds import Eventually, StartRole

WORKERS = """
INSERT INTO workers (worker_id, status, reason, created_date, status_since)
SELECT worker_id, status, 'reported', now() - age, now() - age
  FROM (VALUES (1, 'RUNNING', interval '40 days'),
               (2, 'COMPLETE', interval '40 days'),
               (3, 'COMPLETE', interval '40 days'),
               (4, 'LOST', interval '40 days'),
               (5, 'CRASHED', interval '20 days')) AS old (worker_id, status, age)
"""
SERVERS = """
INSERT INTO server_instances (instance_id, worker_id, status, reason, created_date, status_since)
SELECT instance_id, instance_id / 10, status, 'reported', now() - age, now() - age
  FROM (VALUES (11, 'COMPLETE', interval '40 days'),
               (12, 'RUNNING', interval '40 days'),
               (31, 'RUNNING', interval '40 days'),
               (41, 'LOST', interval '40 days'),
               (51, 'CRASHED', interval '20 days')) AS old (instance_id, status, age)
"""
PARTITION_NAMES = (
    "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent ="
    " 'transitions'::regclass"
)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def make_old_partition(connection: Any, days_ago: Any, revision: Any) -> Any:
    day = datetime.now(UTC).date() - timedelta(days=days_ago)
    name = partition_name(day)
    await connection.execute(
        f"CREATE TABLE {name} PARTITION OF transitions"
        f" FOR VALUES FROM ('{day}T00:00:00Z') TO ('{day + timedelta(days=1)}T00:00:00Z')"
    )
    await connection.execute(
        "INSERT INTO transitions (revision, at, entity, entity_id, new_status, reason)"
        f" VALUES ($1, '{day}T12:00:00Z', 'worker', 2, 'COMPLETE', 'reported')",
        revision,
    )
    await connection.execute("UPDATE revision_counter SET revision = $1", revision)
    return name


async def test_old_days_and_ended_rows_go_and_active_ones_stay(
    start_quick: StartRole, connection: Any, observed: Observed, eventually: Eventually
) -> None:
    old = await make_old_partition(connection, 40, revision=1)
    kept = await make_old_partition(connection, 20, revision=2)
    await connection.execute("UPDATE relay SET sent_revision = 2")
    await connection.execute(WORKERS)
    await connection.execute(SERVERS)
    await start_quick()

    async def gone() -> bool:
        return not await observed.rows("SELECT 1 FROM workers WHERE worker_id = ANY('{2, 4}')")

    await eventually(gone)
    ids = "SELECT array_agg(worker_id ORDER BY 1) FROM workers"
    assert await observed.value(ids) == [1, 3, 5], "3 has a server that still runs"
    assert await observed.value(
        "SELECT array_agg(instance_id ORDER BY 1) FROM server_instances"
    ) == [12, 31, 51]

    async def partitions_are_kept() -> bool:
        names = {row["name"] for row in await observed.rows(PARTITION_NAMES)}
        assert old not in names
        assert kept in names
        return partition_name(datetime.now(UTC).date() + timedelta(days=7)) in names

    await eventually(partitions_are_kept)


async def test_day_with_an_unpublished_transition_is_kept(connection: Any) -> None:
    sent = await make_old_partition(connection, 40, revision=1)
    unsent = await make_old_partition(connection, 39, revision=2)
    await connection.execute("UPDATE relay SET sent_revision = 1")
    assert (await keep_partitions(connection, days_ahead=0, retention_days=30)).dropped == [sent]
    await connection.execute("UPDATE relay SET sent_revision = 2")
    assert (await keep_partitions(connection, days_ahead=0, retention_days=30)).dropped == [unsent]
