"""The event stream when its server, its database or its client is gone, hangs, or is slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx

from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.domain.rows import Transition
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.store.pool import create_pool
from manman_status.store.writes import append_transitions
from tests.events import Parser, Reader
from tests.faults.test_replica import replica
from tests.kinds import Eventually, StartRole

__all__ = ["replica"]

WRITERS = 4
TRANSITIONS = 5_000


async def append(pool: asyncpg.Pool, entity_id: Any, count: Any, evidence: Any = None) -> None:
    made = Transition(
        Entity.WORKER, entity_id, None, StatusType.RUNNING, Reason.REPORTED, evidence or {}
    )
    async with pool.acquire() as connection, connection.transaction():
        await append_transitions(connection, [made] * count)


async def write(database: str, total: Any, *, pause: float = 0.0) -> None:
    """Write with four writers, five transitions in each transaction."""

    async def one(entity_id: Any) -> None:
        for _ in range(total // WRITERS // 5):
            await append(pool, entity_id, 5)
            await asyncio.sleep(pause)

    async with create_pool(database, application="test", size=WRITERS, timeout_seconds=30) as pool:
        await asyncio.gather(*(one(number) for number in range(1, WRITERS + 1)))


async def follow(where: Any, reader: Any, seen: Any, *, total: Any) -> None:
    """Come again, whatever happened, until all was received. `where()` is the url of the api that
    runs now."""
    while len(seen) < total:
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient(base_url=where(), timeout=20) as http:
                async for event in reader.read(http):
                    seen.append(event.revision)
                    if len(seen) == total:
                        return
        await asyncio.sleep(0.02)


async def test_reader_of_killed_apis_gets_each_revision_once(
    database: str, start_api: StartRole, eventually: Eventually
) -> None:
    """And the reader is killed too: all that is left of it is the last id."""
    apis = [await start_api()]
    seen: list[Any] = []
    reader = Reader(**{"from": 0})
    writing = asyncio.create_task(write(database, TRANSITIONS, pause=0.04))

    def read_on(reader: Any) -> Any:
        return asyncio.create_task(follow(lambda: apis[-1].url, reader, seen, total=TRANSITIONS))

    reading = read_on(reader)
    for kills in range(1, 4):
        await eventually(lambda: len(seen) > kills * TRANSITIONS // 6, within_seconds=60)
        apis[-1].kill()
        apis.append(await start_api())
        before = len(seen)
        await eventually(lambda: len(seen) > before, within_seconds=60)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        resumed = Reader()
        resumed.parser = Parser(str(seen[-1]))
        reading = read_on(resumed)
    await writing
    async with asyncio.timeout(60):
        await reading
    assert seen == list(range(1, TRANSITIONS + 1))


async def test_each_of_several_processes_sends_all_changes(
    database: str, start_api: StartRole, eventually: Eventually
) -> None:
    """Streams are spread over processes, each with a feed of its own."""
    api = await start_api(workers=4)
    everything: list[Any] = [[] for _ in range(24)]
    readers = [Reader() for _ in everything]
    reading = [
        asyncio.create_task(follow(lambda: api.url, reader, seen, total=500))
        for reader, seen in zip(readers, everything, strict=True)
    ]
    await asyncio.gather(*(reader.began.wait() for reader in readers))
    await write(database, 500)
    async with asyncio.timeout(60):
        await asyncio.gather(*reading)
    assert everything == [list(range(1, 501))] * len(everything)


async def test_streams_outlive_their_database_without_a_gap(
    own_postgres: EmbeddedPostgres, own_database: str, start_api: StartRole, eventually: Eventually
) -> None:
    """One stream began at the present, and one with history."""
    api = await start_api(database_url=own_database)
    await write(own_database, 1_000)
    live: list[Any] = []
    late: list[Any] = []
    readers = [Reader(), Reader(**{"from": 0})]
    reading = [
        asyncio.create_task(follow(lambda: api.url, readers[0], live, total=1_000)),
        asyncio.create_task(follow(lambda: api.url, readers[1], late, total=2_000)),
    ]
    await asyncio.gather(*(reader.began.wait() for reader in readers))
    for last in (1_500, 2_000):
        own_postgres.stop()
        own_postgres.start()
        await write(own_database, 500)
        await eventually(lambda: live[-1:] == late[-1:] == [last])
    async with asyncio.timeout(60):
        await asyncio.gather(*reading)
    assert live == list(range(1_001, 2_001))
    assert late == list(range(1, 2_001))
    assert readers[0].streams == readers[1].streams == 1, "neither was ended"


async def test_slow_client_is_overrun_and_misses_nothing(
    database: str, start_api: StartRole, eventually: Eventually
) -> None:
    """Unread data lies with the operating system; the client requests the rest again."""
    api = await start_api()
    parts = urlsplit(api.url)
    evidence, total = {"text": "x" * 2_000}, 14_000
    parser, seen = Parser(), []
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect((parts.hostname, parts.port))
    with slow:
        # HTTP/1.0 has no chunks: what comes is the stream itself.
        slow.sendall(b"GET /status/events HTTP/1.0\r\n\r\n")
        received = slow.recv(4096)
        assert received.startswith(b"HTTP/1.0 200")
        async with create_pool(database, application="test", size=1, timeout_seconds=30) as pool:
            for _ in range(total // 100):
                await append(pool, 1, 100, evidence)
                await asyncio.sleep(0.01)
        while data := await asyncio.to_thread(slow.recv, 1 << 20):
            received += data
    *events, overrun = parser.feed(received.partition(b"\r\n\r\n")[2].decode())
    seen += [event.revision for event in events]
    assert overrun.kind == "overrun"
    assert overrun.data == {"from": overrun.id}
    reader = Reader(**overrun.data)
    await follow(lambda: api.url, reader, seen, total=total)
    assert seen == list(range(1, total + 1))


async def test_api_on_a_replica_sends_what_its_primary_writes(
    database: str, replica: Any, start_api: StartRole
) -> None:
    replica_url = database.replace(f":{urlsplit(database).port}/", f":{replica.port}/")
    api = await start_api(database_url="", database_read_url=replica_url)
    seen: list[Any] = []
    reader = Reader()
    reading = asyncio.create_task(follow(lambda: api.url, reader, seen, total=100))
    await reader.began.wait()
    await write(database, 100)
    async with asyncio.timeout(20):
        await reading
    assert seen == list(range(1, 101))
