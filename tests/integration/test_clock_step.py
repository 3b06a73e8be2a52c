"""A step of the database's clock changes the rows, and nothing moves before it was taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from manman_status.leadership import Leadership
from manman_status.processor.leader.housekeeping import Housekeeper
from manman_status.store.clock_step import read_step, settle_alerts, settle_fleet
from manman_status.store.leases import HeldLease, LeaseLost, check_lease, hold_lease
from manman_status.store.observation import (
    ClockStepped,
    check_clock,
    choose_queues,
    leave_queue,
    move_watermark,
    read_clock,
    register_processor,
    take_step,
)
from manman_status.store.pool import Pool, create_pool
from tests.kinds import Eventually

QUEUES = ["beats", "lifecycle"]
HOUR = timedelta(hours=1)
STEP_BACK = -HOUR.total_seconds()


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with create_pool(database, application="test", size=4, timeout_seconds=30) as pool:
        yield pool


@pytest.fixture
async def connection(pool: Pool) -> AsyncIterator[Any]:
    async with pool.acquire() as connection:
        yield connection


class NoQueues:
    """No queue is on its way out: nothing is requested of the broker."""

    async def release(self, queue: str) -> bool:
        raise AssertionError(queue)

    async def count(self, queue: str) -> int | None:
        raise AssertionError(queue)

    async def delete(self, queue: str) -> bool:
        raise AssertionError(queue)

    async def strays(self, _: Any) -> list[Any]:
        return []


async def observe(connection: Any, *, ahead: Any = timedelta(0)) -> None:
    """Set the watermark as a processor left it whose database's clock was `ahead`."""
    await register_processor(connection, "one", host="", version="")
    await connection.execute("UPDATE processors SET last_seen = now() + $1::interval", ahead)
    await connection.execute(
        "INSERT INTO watermarks (queue, observed_through) SELECT unnest($1::text[]), now() +"
        " $2::interval",
        QUEUES,
        ahead,
    )
    await connection.execute(
        "UPDATE observation SET observed_through = now() + $1::interval, advanced_at = now() +"
        " $1::interval, resumed_at = now() - interval '1 day'",
        ahead,
    )


async def settle(connection: Any) -> None:
    step = await read_step(connection)
    async with connection.transaction():
        await settle_fleet(connection, step)
        await settle_alerts(connection, step)


async def test_the_observation_keeps_its_age_and_begins_a_grace(connection: Any) -> None:
    await observe(connection, ahead=HOUR - timedelta(seconds=2))
    async with connection.transaction():
        await take_step(connection, STEP_BACK)
    row = await connection.fetchrow(
        "SELECT extract(epoch FROM now() - observed_through)::float8 AS lag, extract(epoch FROM"
        " now() - resumed_at)::float8 AS resumed, clock_steps, clock_step_seconds FROM observation"
    )
    assert row["lag"] == pytest.approx(2, abs=1.5)
    assert 0 <= row["resumed"] < 1.5
    assert (row["clock_steps"], row["clock_step_seconds"]) == (1, STEP_BACK)
    clock = await read_clock(connection)
    assert clock.last_read is not None
    assert clock.last_read <= clock.now


async def test_what_was_never_observed_stays_so(connection: Any) -> None:
    async with connection.transaction():
        await take_step(connection, STEP_BACK)
    unset = (
        "SELECT observed_through IS NULL AND advanced_at IS NULL AND resumed_at IS NULL FROM"
        " observation"
    )
    assert await connection.fetchval(unset)


async def test_a_report_that_began_in_the_old_time_writes_nothing(
    pool: Pool, connection: Any
) -> None:
    await observe(connection)
    async with pool.acquire() as other:
        late = other.transaction()
        await late.start()
        clock = await read_clock(other)
        async with connection.transaction():
            await take_step(connection, STEP_BACK)
        with pytest.raises(ClockStepped):
            await check_clock(other, steps=clock.steps)
        await late.rollback()


@pytest.mark.parametrize(("ahead", "steps"), [(HOUR, 0), (-timedelta(milliseconds=1), 1)])
async def test_canary_of_another_time_moves_no_watermark(
    connection: Any, ahead: Any, steps: Any
) -> None:
    await observe(connection)
    before = await connection.fetchval("SELECT min(observed_through) FROM watermarks")
    sent_at = await connection.fetchval("SELECT clock_timestamp()") + ahead
    for queue in QUEUES:
        await move_watermark(connection, queue, sent_at=sent_at, clock_steps=steps, canary_key="")
    assert await connection.fetchval("SELECT max(observed_through) FROM watermarks") == before


async def test_queue_that_comes_back_counts_from_today(
    connection: Any,
) -> None:
    await leave_queue(connection, "stray")
    assert await choose_queues(connection, ["stray"], steps=3) == (["stray"], [])
    sent_at = await connection.fetchval("SELECT clock_timestamp()")
    await move_watermark(connection, "stray", sent_at=sent_at, clock_steps=3, canary_key="")
    assert await connection.fetchval("SELECT observed_through FROM watermarks") == sent_at


WORKER = """
INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since, reason,
    incarnation, seq,
                     begun_at, ended_at)
VALUES ($1, now() - interval '1 day', now() + $2::interval, 'RUNNING', now() + $2::interval,
    'reported', $3,
        $4, $5, $6)
"""


async def test_times_ahead_come_back_with_the_clock_and_others_stay(connection: Any) -> None:
    await observe(connection, ahead=HOUR)
    await connection.execute(WORKER, 1, timedelta(minutes=50), 1, 7, None, None)
    await connection.execute(WORKER, 2, -timedelta(minutes=50), 1, 7, None, None)
    await connection.execute(
        "INSERT INTO server_instances (instance_id, worker_id, created_date, status, status_since,"
        " reason, missing_since) VALUES (11, 1, now() - interval '1 day', 'RUNNING', now() -"
        " interval '1 day', 'reported', now() + interval '59 min')"
    )
    await connection.execute(
        "INSERT INTO alerts (key, rule, severity, summary, opened_at, evidence)"
        " VALUES ('server_crashed:11', 'server_crashed', 'warning', '', now() + interval '58 min',"
        "         jsonb_build_object('at', now() + interval '58 min'))"
    )
    await connection.execute(
        "INSERT INTO deliveries (alert_id, channel, version, told_at) SELECT alert_id, 'log', 1,"
        " opened_at FROM alerts"
    )
    async with connection.transaction():
        await take_step(connection, STEP_BACK)
    await settle(connection)
    minutes_ago = """SELECT round(extract(epoch FROM now() - t) / 60) FROM (
        SELECT last_heartbeat AS t FROM workers WHERE worker_id = 1
        UNION ALL SELECT status_since FROM workers WHERE worker_id = 1
        UNION ALL SELECT last_heartbeat FROM workers WHERE worker_id = 2
        UNION ALL SELECT missing_since FROM server_instances
        UNION ALL SELECT status_since FROM server_instances
        UNION ALL SELECT opened_at FROM alerts
        UNION ALL SELECT (evidence ->> 'at')::timestamptz FROM alerts
        UNION ALL SELECT told_at FROM deliveries) t"""
    assert [int(row[0]) for row in await connection.fetch(minutes_ago)] == [
        0,
        10,
        50,
        1,
        1440,
        2,
        2,
        2,
    ]


async def test_heartbeat_of_the_old_time_counts_as_now(
    connection: Any,
) -> None:
    """The old time hid heartbeats of the new one until then, and its age would say nothing."""
    await observe(connection, ahead=HOUR)
    await connection.execute(WORKER, 1, timedelta(minutes=59), 1, 7, None, None)
    await connection.execute(WORKER, 2, timedelta(minutes=59), 1, 7, None, None)
    await connection.execute("UPDATE workers SET last_heartbeat = NULL WHERE worker_id = 2")
    async with connection.transaction():
        await take_step(connection, STEP_BACK)
    await connection.execute("UPDATE observation SET clock_stepped_at = now() - interval '40 s'")
    await settle(connection)
    first, never = await connection.fetch(
        "SELECT now() - last_heartbeat AS age FROM workers ORDER BY worker_id"
    )
    assert timedelta(0) <= first["age"] < timedelta(seconds=30)
    assert never["age"] is None


async def test_step_forward_after_a_step_back_leaves_nothing_ahead(
    connection: Any,
) -> None:
    await observe(connection, ahead=HOUR)
    await connection.execute(WORKER, 1, timedelta(minutes=50), 1, 7, None, None)
    async with connection.transaction():
        await take_step(connection, STEP_BACK)
        await take_step(connection, -STEP_BACK / 6)
    await settle(connection)
    assert await connection.fetchval("SELECT last_heartbeat <= now() FROM workers")


async def test_positions_of_the_databases_time_keep_their_order(
    connection: Any,
) -> None:
    await observe(connection, ahead=HOUR)
    now_us = await connection.fetchval("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
    minute = 60_000_000
    begun, ended, beaten = now_us - 90 * minute, now_us + 20 * minute, now_us + 59 * minute
    await connection.execute(WORKER, 1, timedelta(minutes=59), 0, beaten, begun, ended)
    await connection.execute(WORKER, 2, timedelta(minutes=59), 5, 7, ended, None)
    await connection.execute(WORKER, 3, timedelta(minutes=59), 0, beaten, None, None)
    async with connection.transaction():
        await take_step(connection, STEP_BACK)
    await settle(connection)
    await settle(connection)
    first, counted, unbegun = await connection.fetch(
        "SELECT seq, begun_at, ended_at FROM workers ORDER BY worker_id"
    )
    received_next = await connection.fetchval(
        "SELECT (extract(epoch FROM clock_stepped_at) * 1000000)::bigint FROM observation"
    )
    assert first["begun_at"] == begun < first["ended_at"] < first["seq"] <= received_next
    assert tuple(counted) == (7, ended, None)
    assert unbegun["begun_at"] is None


async def test_silence_lasts_as_long_as_requested(connection: Any) -> None:
    await observe(connection)
    await connection.execute(
        "INSERT INTO silences (silence_id, created_at, ends_at, created_by, why) VALUES"
        " ('lasting', now() - interval '70 min', now() - interval '30 min', '', ''),"
        " ('over', now() - interval '3 h', now() - interval '2 h', '', '')"
    )
    async with connection.transaction():
        await take_step(connection, 3600.0)  # these two are what a step forward leaves
    minutes = (
        "SELECT silence_id, round(extract(epoch FROM ends_at - now()) / 60) FROM silences ORDER"
        " BY 1"
    )
    assert [(name, int(left)) for name, left in await connection.fetch(minutes)] == [
        ("lasting", 30),
        ("over", -120),
    ]


async def test_abandoned_lease_is_taken_over_before_it_expires(
    connection: Any,
) -> None:
    assert await hold_lease(connection, "leader", "dead", seconds=3600) == 1
    seen = await hold_lease(connection, "leader", "follower", seconds=3)
    assert isinstance(seen, HeldLease)
    assert await hold_lease(connection, "leader", "dead", seconds=3600) == 1
    renewed = await hold_lease(connection, "leader", "follower", seconds=3, abandoned=seen)
    assert isinstance(renewed, HeldLease)
    assert renewed != seen
    assert await hold_lease(connection, "leader", "follower", seconds=3, abandoned=renewed) == 2
    with pytest.raises(LeaseLost):
        await check_lease(connection, "leader", 1)


@pytest.mark.parametrize("stepped", [True, False])
async def test_retention_keeps_everything_for_a_day_after_a_step(
    pool: Pool, connection: Any, eventually: Eventually, stepped: Any
) -> None:
    """The clock may be years ahead by mistake."""
    await connection.execute(
        "INSERT INTO workers (worker_id, created_date, status, status_since, reason)"
        " VALUES (1, now() - interval '1 year', 'COMPLETE', now() - interval '1 year', 'graceful')"
    )
    if stepped:
        await connection.execute(
            "UPDATE observation SET clock_steps = 1, clock_stepped_at = now() - interval '23 h',"
            " clock_step_seconds = 3e7"
        )
    leadership = Leadership(pool, "test", lease_seconds=60)

    housekeeper = Housekeeper(leadership, NoQueues(), retention_days=30, silent_seconds=60)
    running = [asyncio.create_task(part.run()) for part in (leadership, housekeeper)]
    try:
        partitions = (
            "SELECT count(*) > 1 FROM pg_inherits WHERE inhparent = 'transitions'::regclass"
        )
        await eventually(lambda: connection.fetchval(partitions))
        is_there = "SELECT count(*) FROM workers"
        if not stepped:
            await eventually(lambda: _equals(connection.fetchval(is_there), 0))
    finally:
        for task in running:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    assert await connection.fetchval("SELECT count(*) FROM workers") == stepped


async def _equals(value: Any, expected: Any) -> bool:
    return await value == expected
