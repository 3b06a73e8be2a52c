"""What these tests share: sending to the inbound exchange, looking at rows, and running commands as people do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit, urlunsplit

import aio_pika
import asyncpg
import httpx
import pytest

from manman_status.dev.rabbitmq import EmbeddedRabbitMQ


class Publisher:
    """Publishes a body (as JSON unless it is bytes) to the inbound exchange, confirmed."""

    def __init__(self, channel):
        self._channel = channel

    async def __call__(self, body, key, exchange="internal_service_events"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        message = aio_pika.Message(data, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        to = await self._channel.get_exchange(exchange, ensure=False)
        await to.publish(message, routing_key=key)

    async def many(self, messages):
        """A list of `(body, routing key)`, without waiting for one before the next."""
        window = asyncio.Semaphore(500)

        async def one(body, key):
            async with window:
                await self(body, key)

        await asyncio.gather(*(one(body, key) for body, key in messages))


@pytest.fixture
async def publisher_at():
    """Makes a Publisher on a connection of its own."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(url):
            connection = await stack.enter_async_context(await aio_pika.connect(url))
            return Publisher(await connection.channel())

        yield connect


@pytest.fixture
async def publish(broker, publisher_at):
    return await publisher_at(broker)


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


SECRET = "open-sesame-4711"
USER = "a-person"


class Finished(NamedTuple):
    code: int
    out: str
    err: str


class Command(Protocol):
    async def __call__(self, *arguments: str, **settings: object) -> Finished: ...


def with_login(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{USER}:{SECRET}@{parts.hostname}:{parts.port}"))


@pytest.fixture
def secret_database(database: str) -> str:
    """The test's database, by a URL with a password (which the server does not ask for)."""
    return database.replace("@", f":{SECRET}@", 1)


@pytest.fixture
def secret_broker(broker: str, rabbitmq: EmbeddedRabbitMQ) -> str:
    """The test's virtual host, by a URL with a password that is checked."""
    virtual_host = urlsplit(broker).path[1:]
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    with httpx.Client(base_url=rabbitmq.management_url, timeout=30) as management:
        management.put(f"/api/users/{USER}", json={"password": SECRET, "tags": ""}).raise_for_status()
        management.put(f"/api/permissions/{virtual_host}/{USER}", json=everything).raise_for_status()
    return with_login(broker)


@pytest.fixture
def manman_status() -> Callable[..., object]:
    """Runs a command to its end. Whatever it says, it never says the password."""

    async def run(*arguments: str, **settings: object) -> Finished:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MANMAN_STATUS_")}
        environment |= {f"MANMAN_STATUS_{name.upper()}": str(value) for name, value in settings.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "manman_status", *arguments),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert SECRET.encode() not in out + err
        assert b"Traceback" not in err, err.decode()
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(), err.decode())

    return run
