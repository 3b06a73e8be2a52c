"""The write side survives kills, an unavailable database or broker, and a stop under load."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import aio_pika
import asyncpg
import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from tests.builders import counted
from tests.conftest import consumers
from tests.kinds import Eventually, FetchRows, ProcessTree, Role, StartRole
from tests.messaging import Publisher

INSTANCES = 25_000


def started(instance: Any) -> dict[str, Any]:
    return {"command_type": "SERVER_STARTED", "command_args": [str(instance), "7", "3"]}


def stopped(instance: Any, code: int = 0) -> dict[str, Any]:
    return {"command_type": "SERVER_STOPPED", "command_args": [str(instance), "7", str(code)]}


def key(instance: Any) -> str:
    return f"game_server_instance.{instance}.lifecycle"


async def test_kill_9_among_fifty_thousand_events_loses_none(
    start_processor: StartRole, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    first = await start_processor()
    os.kill(first.pid, signal.SIGSTOP)  # let the queue fill
    lives = range(1, INSTANCES + 1)
    arrays = [range(start, min(start + 50, INSTANCES + 1)) for start in lives[::50]]
    await publish.many(
        [
            ([event for i in some for event in (started(i), stopped(i, i % 2))], key(some[0]))
            for some in arrays
        ]
    )
    os.kill(first.pid, signal.SIGCONT)

    async def under_way() -> bool:
        [[count]] = [row.values() for row in await rows("SELECT count(*) FROM server_instances")]
        assert count < INSTANCES, "it was done before it could be killed"
        return count > 1000

    await eventually(under_way)
    first.kill()
    await start_processor()
    ended = "SELECT 1 FROM server_instances WHERE status = ANY($1::text[]) HAVING count(*) = $2"
    await eventually(lambda: rows(ended, ["COMPLETE", "CRASHED"], INSTANCES), within_seconds=90)
    await eventually(lambda: rows(ended, ["CRASHED"], INSTANCES // 2))


async def test_messages_wait_in_the_queue_for_the_database(
    processor: Role,
    publish: Publisher,
    rows: FetchRows,
    postgres: EmbeddedPostgres,
    database: str,
    eventually: Eventually,
) -> None:
    await publish(started(1), key(1))
    await eventually(lambda: rows("SELECT 1 FROM server_instances"))
    postgres.stop()
    try:
        await publish.many([(started(i), key(i)) for i in range(2, 202)])
        await eventually(lambda: "database_unavailable" in processor.log)
        assert processor.returncode is None
    finally:
        postgres.start()

    async def all_there() -> bool:
        return await fresh(database, "SELECT count(*) FROM server_instances") == 201

    await eventually(all_there)
    await eventually(lambda: "database_back" in processor.log)


TERMINATE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'manman-status processor'
"""


CONNECTED = """
SELECT FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'manman-status processor'
"""


async def test_a_processor_goes_on_while_its_connections_are_ended(
    processor: Role, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    """A processor that is frozen anywhere finds the last answer of a connection and its end in one
    reading."""
    ended = 0
    for turn in range(25):
        first = 1 + 100 * turn
        await publish.many([(started(i), key(i)) for i in range(first, first + 100)])
        await eventually(lambda: rows(CONNECTED))
        os.kill(processor.pid, signal.SIGSTOP)
        ended += len(await rows(TERMINATE))
        os.kill(processor.pid, signal.SIGCONT)
        await eventually(
            lambda: rows("SELECT FROM server_instances WHERE instance_id = $1", first + 99)
        )
    assert ended >= 25  # one may be missed while it connects again; most turns end several
    assert processor.returncode is None
    assert "Traceback" not in processor.log
    assert await rows("SELECT FROM server_instances HAVING count(*) = 2500")


async def fresh(database: str, sql: str) -> Any:
    """A value by a connection of its own: the fixtures' connections end with the server."""
    try:
        connection = await asyncpg.connect(database)
    except (OSError, asyncpg.PostgresError) as error:
        raise AssertionError(str(error)) from error
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_processor_reconnects_to_the_broker(
    processor: Role,
    broker: str,
    rabbitmq: EmbeddedRabbitMQ,
    publisher_at: Callable[[str], Awaitable[Publisher]],
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    rabbitmq.stop()
    rabbitmq.start()
    publish = await publisher_at(broker)
    await publish(started(1), key(1))
    await publish({"command_type": "HEARTBEAT", "command_args": ["8"]}, "worker.8.heartbeat")
    await eventually(lambda: rows("SELECT 1 FROM server_instances"))
    await eventually(lambda: rows("SELECT 1 FROM workers WHERE worker_id = 8"))
    assert processor.returncode is None


async def test_processor_waits_for_broker_and_database(
    start_role: Callable[..., Role],
    broker: str,
    database: str,
    rabbitmq: EmbeddedRabbitMQ,
    postgres: EmbeddedPostgres,
    eventually: Eventually,
) -> None:
    rabbitmq.stop()
    postgres.stop()
    role = start_role("processor", database_url=database, rabbitmq_url=broker)
    await eventually(lambda: "database_unavailable" in role.log)
    postgres.start()
    await eventually(lambda: "queue_not_read" in role.log and "nothing listens" in role.log)
    rabbitmq.start()
    await eventually(lambda: "processor_started" in role.log)


async def test_sigterm_under_load_loses_nothing_and_another_takes_over(
    start_processor: StartRole, publish: Publisher, rows: FetchRows, eventually: Eventually
) -> None:
    first = await start_processor()
    await start_processor()
    for start in range(1, 5001, 500):
        await publish.many([(started(i), key(i)) for i in range(start, start + 500)])
        if start == 2501:
            begun = time.monotonic()
            first.stop(within_seconds=10)
            assert time.monotonic() - begun < 10
    await eventually(counted(rows, 5000, "server_instances"))


@pytest.mark.parametrize("unavailable", ["database", "broker"])
async def test_sigterm_ends_within_ten_seconds_without_a_server(
    unavailable: Any,
    start_processor: StartRole,
    publish: Publisher,
    rabbitmq: EmbeddedRabbitMQ,
    postgres: EmbeddedPostgres,
    eventually: Eventually,
) -> None:
    processor = await start_processor(shutdown_timeout_seconds=4)
    server = postgres if unavailable == "database" else rabbitmq
    server.stop()
    try:
        if unavailable == "database":
            await publish(started(1), key(1))
            await eventually(lambda: "database_unavailable" in processor.log)
        processor.stop(within_seconds=10)
    finally:
        server.start()


@pytest.mark.parametrize("hanging", ["database", "broker"])
async def test_sigterm_ends_within_ten_seconds_while_a_server_hangs(
    hanging: Any,
    start_processor: StartRole,
    publish: Publisher,
    rabbitmq: EmbeddedRabbitMQ,
    postgres: EmbeddedPostgres,
    process_tree: ProcessTree,
) -> None:
    processor = await start_processor(shutdown_timeout_seconds=4)
    await publish.many([(started(i), key(i)) for i in range(1, 201)])
    pids = [*process_tree((postgres if hanging == "database" else rabbitmq).pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        processor.stop(within_seconds=10)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_crash_loop_makes_no_dead_letter_of_a_canary(
    start_processor: StartRole,
    broker: str,
    database: str,
    publish: Publisher,
    dead_letters: Callable[..., Awaitable[Any]],
    eventually: Eventually,
) -> None:
    """A message that was delivered too often becomes one. The event cannot be stored meanwhile: its
    table is locked."""
    limit = 5
    settings = {"lifecycle_delivery_limit": limit, "canary_interval_seconds": 0.2}
    role = await start_processor(**settings)
    letters = []

    async def has_died() -> Any:
        letters.extend(await dead_letters())
        return any(b"SERVER_STARTED" in body for body, _ in letters)

    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        sent = await channel.declare_queue("sent", durable=True)
        await sent.bind("internal_service_events", "worker.canary.lifecycle")
        locking = await asyncpg.connect(database)
        try:
            await locking.execute("BEGIN; LOCK TABLE server_instances IN ACCESS EXCLUSIVE MODE")
            await publish(started(31), key(31))
            for _ in range(limit + 1):
                await sent.purge()
                await eventually(partial(sent.get, fail=False, no_ack=True))
                role.kill()
                role = await start_processor(**settings)
            await eventually(has_died)
            # One more time: what was sent by the first of them has been delivered as often as the
            # event.
            role.kill()
        finally:
            await locking.close()
    await start_processor(**settings)
    await eventually(partial(consumers, broker, "manman.status.lifecycle.0"))
    letters.extend(await dead_letters())
    assert [body for body, _ in letters if b"CANARY" in body] == []
    [(_, headers)] = letters
    assert headers["x-death"][0]["reason"] == "delivery_limit"
