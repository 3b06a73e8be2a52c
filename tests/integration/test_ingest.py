"""Events through the real broker into real rows."""

from __future__ import annotations

import json

import aio_pika
import asyncpg
import pytest

WORKER_KEY = "worker.7.heartbeat"


@pytest.fixture
async def publish(broker):
    """Publishes a body (JSON unless it is bytes) to the inbound exchange, confirmed."""
    connection = await aio_pika.connect(broker)
    channel = await connection.channel()
    exchange = await channel.get_exchange("internal_service_events", ensure=False)

    async def send(body, key):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        message = aio_pika.Message(data, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await exchange.publish(message, routing_key=key)

    yield send
    await connection.close()


@pytest.fixture
async def rows(database):
    """Runs a query on the test's database; rows as dicts."""
    connection = await asyncpg.connect(database)

    async def fetch(sql, *arguments):
        return [dict(row) for row in await connection.fetch(sql, *arguments)]

    yield fetch
    await connection.close()


async def test_a_minimal_heartbeat_makes_a_running_worker(processor, publish, rows, eventually):
    await publish({"command_type": "HEARTBEAT", "command_args": ["7"]}, WORKER_KEY)
    [worker] = await eventually(lambda: rows("SELECT * FROM workers"))
    assert (worker["worker_id"], worker["status"], worker["reason"]) == (7, "RUNNING", "reported")
    assert worker["last_heartbeat"] is not None
