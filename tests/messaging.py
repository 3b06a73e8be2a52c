"""Helpers of many tests: sending to the inbound exchange, looking at rows, and running commands as
people do."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aio_pika
import asyncpg
import pytest

from manman_status.wire.control import control_key, control_message
from tests.kinds import FetchRows


class Publisher:
    """Publishes a body (as JSON unless it is bytes) to the inbound exchange, confirmed."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def __call__(
        self, body: Any, key: Any, exchange: str = "internal_service_events"
    ) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        message = aio_pika.Message(data, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        to = await self._channel.get_exchange(exchange, ensure=False)
        await to.publish(message, routing_key=key)

    async def many(self, messages: Any) -> None:
        """A list of `(body, routing key)`, without waiting for one before the next."""
        window = asyncio.Semaphore(500)

        async def one(body: Any, key: Any) -> None:
            async with window:
                await self(body, key)

        await asyncio.gather(*(one(body, key) for body, key in messages))

    async def control(self, message: Any) -> None:
        """A control message, by the way that operators' commands take."""
        await self(control_message(message), control_key(message), "manman.status.control")


@pytest.fixture
async def publisher_at() -> AsyncIterator[Callable[[str], Awaitable[Publisher]]]:
    """Makes a Publisher on a connection of its own."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(url: str) -> Publisher:
            connection = await stack.enter_async_context(await aio_pika.connect(url))
            return Publisher(await connection.channel())

        yield connect


@pytest.fixture
async def publish(broker: str, publisher_at: Callable[[str], Awaitable[Publisher]]) -> Publisher:
    return await publisher_at(broker)


@pytest.fixture
async def rows(database: str) -> AsyncIterator[FetchRows]:
    """Runs a query on the test's database; rows as dicts, JSON decoded."""
    connection = await asyncpg.connect(database)
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
    )

    async def fetch(sql: str, *arguments: Any) -> list[Any]:
        return [dict(row) for row in await connection.fetch(sql, *arguments)]

    yield fetch
    await connection.close()


@pytest.fixture
async def dead_letters(broker: str) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Takes all dead letters: `(body, headers)` each, oldest first."""
    connection = await aio_pika.connect(broker)
    channel = await connection.channel()

    async def take() -> Any:
        queue = await channel.get_queue("manman.status.dead", ensure=False)
        letters = []
        while message := await queue.get(no_ack=True, fail=False):
            letters.append((message.body, message.headers))
        return letters

    yield take
    await connection.close()


@pytest.fixture
async def depth(broker: str) -> AsyncIterator[Callable[..., Awaitable[int]]]:
    """Count the messages that are ready in a queue."""
    connection = await aio_pika.connect(broker)

    async def count(name: str) -> Any:
        # A channel for each question: the answer that there is no such queue closes it.
        async with connection.channel() as channel:
            return (
                await channel.declare_queue(name, passive=True)
            ).declaration_result.message_count

    yield count
    await connection.close()


@pytest.fixture
async def channel(broker: str) -> AsyncIterator[Any]:
    """A channel on the test's virtual host."""
    async with await aio_pika.connect(broker) as connection:
        yield await connection.channel()
