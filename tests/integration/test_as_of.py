"""The `as_of` of published changes rises for each entity: the report's own time where it has one,
and at least 1 µs after the one before."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
import asyncpg
import pytest
from alembic import command as command_of_alembic

from manman_status.domain.rows import Transition
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.store.migrate import alembic_config, migrate
from manman_status.store.pool import create_pool
from manman_status.store.retention import forget_as_of
from manman_status.store.writes import append_transitions
from tests.integration.test_ingest import command, status_info
from tests.kinds import Eventually, FetchRows, Role, StartRole
from tests.messaging import Publisher

STEP = timedelta(microseconds=1)
HOUR = timedelta(hours=1)
GIVEN = "SELECT entity, entity_id, at, as_of FROM transitions ORDER BY revision"
CHANGES = "SELECT new_status, reason, as_of FROM transitions ORDER BY revision"


@pytest.fixture
async def pool(database: str) -> AsyncIterator[asyncpg.Pool]:
    async with create_pool(database, application="test", size=1, timeout_seconds=30) as pool:
        yield pool


def change(as_of: Any = None, entity_id: Any = 7, entity: Any = Entity.WORKER) -> Any:
    return Transition(entity, entity_id, None, StatusType.RUNNING, Reason.REPORTED, {}, as_of)


async def commit(pool: asyncpg.Pool, *changes: Any) -> None:
    async with pool.acquire() as connection, connection.transaction():
        await append_transitions(connection, changes)


async def test_each_change_is_dated_after_the_one_before(pool: asyncpg.Pool) -> None:
    """The times of the reports do not matter, in one batch or in several, of entities that are
    mixed: the same id of a worker and of a server instance are two."""
    rng, begun = random.Random(7), datetime.now(UTC)
    offsets = (-HOUR, -STEP, timedelta(), timedelta(), STEP, timedelta(minutes=4), None)
    expected: list[Any] = []
    sent: list[Any] = []
    for _ in range(60):
        batch = [
            change(
                None if (offset := rng.choice(offsets)) is None else begun + offset,
                rng.randint(1, 3),
                rng.choice(list(Entity)),
            )
            for _ in range(rng.randint(1, 12))
        ]
        await commit(pool, *batch)
        sent += batch
    newest: dict[Any, datetime] = {}
    found = await pool.fetch(GIVEN)
    for one, row in zip(sent, found, strict=True):
        key = row["entity"], row["entity_id"]
        assert key == (one.entity, one.entity_id)
        own_time = one.as_of or row["at"]
        newest[key] = max(own_time, newest[key] + STEP) if key in newest else own_time
        expected.append(newest[key])
    assert [row["as_of"] for row in found] == expected


async def test_what_is_remembered_goes_with_the_retention(pool: asyncpg.Pool) -> None:
    """It outlives the entity, so one that is deleted and comes again is still dated after."""
    now = datetime.now(UTC)
    await commit(pool, change(now + STEP), change(now - 40 * 24 * HOUR, 8))
    async with pool.acquire() as connection, connection.transaction():
        assert await forget_as_of(connection, retention_days=30) == 1
        assert await forget_as_of(connection, retention_days=30) == 0
    await commit(pool, change(now), change(now - 41 * 24 * HOUR, 8))
    *_, seventh, eighth = await pool.fetch(GIVEN)
    assert (seventh["as_of"], eighth["as_of"]) == (now + 2 * STEP, now - 41 * 24 * HOUR)


OF_THE_RELEASE_BEFORE = """
INSERT INTO {} (created_date, status, status_since, reason, {}) VALUES ($1, 'RUNNING', $1, '', 7)
"""


async def test_what_the_release_before_published_counts(empty_database: str) -> None:
    """Its newest change of an entity was published as of `status_since`."""
    now = datetime.now(UTC)
    await asyncio.to_thread(command_of_alembic.upgrade, alembic_config(empty_database), "0019")
    connection = await asyncpg.connect(empty_database)
    for table, key in (("workers", "worker_id"), ("server_instances", "instance_id")):
        await connection.execute(OF_THE_RELEASE_BEFORE.format(table, key), now)
    await connection.close()
    await asyncio.to_thread(migrate, empty_database)
    async with create_pool(empty_database, application="test", size=1, timeout_seconds=30) as pool:
        await commit(pool, *(change(now - HOUR, entity=entity) for entity in Entity))
        assert [row["as_of"] for row in await pool.fetch(GIVEN)] == [now + STEP] * 2


@pytest.fixture
async def published(broker: str) -> AsyncIterator[list[Any]]:
    """The bodies of what is published about workers and server instances."""
    bodies: list[Any] = []

    async def take(message: Any) -> None:
        bodies.append(json.loads(message.body))

    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("external_service_events", "topic", durable=True)
        queue = await channel.declare_queue("outside", durable=True)
        await queue.bind(exchange, "#.status")
        await queue.consume(take, no_ack=True)
        yield bodies


@pytest.mark.parametrize("entity", list(Entity))
async def test_a_late_report_is_published_as_of_its_own_time(
    processor: Role, publish: Publisher, published: list[Any], eventually: Eventually, entity: Any
) -> None:
    """The time of storing stands beside it. The evidence has the report's time too, which a second
    report may share."""
    begun_at = datetime.now(UTC)
    late = begun_at - HOUR
    for status in ("CREATED", "RUNNING", "COMPLETE"):
        await publish(status_info(entity, 7, status, late.isoformat()), f"{entity}.7.status")
    await eventually(lambda: len(published) == 3)
    as_of = [datetime.fromisoformat(each["as_of"]) for each in published]
    assert as_of == [late, late + STEP, late + 2 * STEP]
    assert all(datetime.fromisoformat(each["at"]) >= begun_at for each in published)
    evidence = [datetime.fromisoformat(each["evidence"]["as_of"]) for each in published]
    assert evidence == [late] * 3


async def test_lost_is_dated_after_a_report_that_is_ahead(
    start_processor: StartRole, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    await start_processor(
        minimum_timeout_seconds=2,
        recovery_grace_seconds=0,
        canary_interval_seconds=0.2,
        sweep_interval_seconds=0.2,
    )
    ahead = datetime.now(UTC) + timedelta(minutes=4)
    for status in ("CREATED", "RUNNING"):
        await publish(status_info("worker", 7, status, ahead.isoformat()), "worker.7.status")
    beat = command("HEARTBEAT", 7, interval_seconds=0.5)
    await publish(beat, "worker.7.heartbeat")
    await eventually(lambda: rows(f"SELECT 1 FROM ({CHANGES}) t WHERE new_status = 'LOST'"))
    await publish(beat, "worker.7.heartbeat")
    found = await eventually(lambda: _at_least(rows, 4))
    assert [(row["new_status"], row["reason"], row["as_of"]) for row in found] == [
        ("CREATED", "reported", ahead),
        ("RUNNING", "reported", ahead + STEP),
        ("LOST", "heartbeat_expired", ahead + 2 * STEP),
        ("RUNNING", "recovered", ahead + 3 * STEP),
    ]


async def _at_least(rows: FetchRows, number: int) -> Any:
    found = await rows(CHANGES)
    return found if len(found) >= number else None


async def test_a_date_too_far_ahead_counts_at_its_receipt(
    processor: Role, publish: Publisher, published: list[Any], eventually: Eventually
) -> None:
    ahead = datetime.now(UTC) + HOUR
    await publish(status_info("worker", 7, "CREATED", ahead.isoformat()), "worker.7.status")
    [change] = await eventually(lambda: published)
    assert change["as_of"] == change["at"]
