"""What tests of the write side share: sending to the inbound exchange and looking at rows."""

from __future__ import annotations

import asyncio
import json

import aio_pika
import asyncpg
import pytest


@pytest.fixture
async def publish(broker):
    """Publishes a body (as JSON unless it is bytes) to the inbound exchange, confirmed; `many` sends a list of
    `(body, routing key)` at once."""

    class Publisher:
        async def __call__(self, body, key, exchange="internal_service_events"):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            message = aio_pika.Message(data, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            to = await channel.get_exchange(exchange, ensure=False)
            await to.publish(message, routing_key=key)

        async def many(self, messages):
            window = asyncio.Semaphore(500)

            async def one(body, key):
                async with window:
                    await self(body, key)

            await asyncio.gather(*(one(body, key) for body, key in messages))

    connection = await aio_pika.connect(broker)
    channel = await connection.channel()
    yield Publisher()
    await connection.close()


@pytest.fixture
async def rows(database):
    """Runs a query on the test's database; rows as dicts, JSON decoded."""
    connection = await asyncpg.connect(database)
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)

    async def fetch(sql, *arguments):
        return [dict(row) for row in await connection.fetch(sql, *arguments)]

    yield fetch
    await connection.close()


@pytest.fixture
async def dead_letters(broker):
    """Takes all dead letters: `(body, headers)` each, oldest first."""
    connection = await aio_pika.connect(broker)
    channel = await connection.channel()

    async def take():
        queue = await channel.get_queue("manman.status.dead", ensure=False)
        letters = []
        while message := await queue.get(no_ack=True, fail=False):
            letters.append((message.body, message.headers))
        return letters

    yield take
    await connection.close()


@pytest.fixture
async def depth(broker):
    """How many messages are ready in a queue."""
    connection = await aio_pika.connect(broker)
    channel = await connection.channel()

    async def count(name):
        return (await channel.declare_queue(name, passive=True)).declaration_result.message_count

    yield count
    await connection.close()
