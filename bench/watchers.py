"""Measure how soon every follower receives a change, and what that costs the database.

`python -m bench.watchers URL DSN WATCHERS SECONDS` is the clients and the writer, as one process
with one clock.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import sys
import time
from collections.abc import Sequence
from typing import cast
from urllib.parse import urlsplit

import asyncpg
import msgspec
import uvloop

from bench.http import answers
from bench.stack import Stack, until
from manman_status.cli.tables import percentile
from manman_status.dev.ports import free_port
from manman_status.domain.rows import Transition
from manman_status.domain.status import Entity, Reason, StatusType
from manman_status.store.migrate import migrate
from manman_status.store.pool import Connection, create_pool
from manman_status.store.writes import append_transitions

BATCHES_PER_SECOND = 20
TRANSITIONS_IN_BATCH = 10
LONGEST_SECONDS = 30
REVISION = re.compile(rb"^id: [0-9a-z]+-(\d+)\nevent", re.MULTILINE)
QUERIES = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"


class Delays(msgspec.Struct):
    median_ms: float
    p99_ms: float
    longest_ms: float
    events: int
    transactions_per_second: float


async def delays(stack: Stack) -> str:
    """Measure one follower and many, served by one api process."""
    connection = await asyncpg.connect(stack.postgres.url)
    await connection.execute("CREATE DATABASE watchers")
    await connection.close()
    dsn = stack.postgres.url.replace("/postgres", "/watchers")
    await asyncio.to_thread(migrate, dsn)
    lines = []
    for watchers in (1, stack.sizes.watchers):
        port = free_port()
        with stack.role("api", database_url=dsn, host="127.0.0.1", port=port):
            url = f"http://127.0.0.1:{port}"
            await answers(f"{url}/livez")
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-m",
                    "bench.watchers",
                    url,
                    dsn,
                    str(watchers),
                    str(stack.sizes.watch_seconds),
                ),
                stdout=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
        found = msgspec.json.decode(out, type=Delays)
        lines.append(
            f"(f) {watchers} told of {BATCHES_PER_SECOND * TRANSITIONS_IN_BATCH} transitions a"
            f" second: median {found.median_ms:.0f} ms after the commit,"
            f" 99 % {found.p99_ms:.0f} ms, longest {found.longest_ms:.0f} ms"
            f" ({found.events:,} events,"
            f" {found.transactions_per_second:.0f} transactions a second in all)"
        )
    return "\n".join(lines)


class Watcher(asyncio.Protocol):
    """Follow the stream and note the delay of each event."""

    def __init__(self, request: bytes, committed_at: dict[int, float], delays: list[float]) -> None:
        self._request = request
        self._committed_at = committed_at
        self._delays = delays
        self._rest = b""
        self.began = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(
            self._request
        )  # uvloop's is one by its methods alone

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.began.set()
        whole, end, self._rest = (self._rest + data).rpartition(b"\n\n")
        for revision in REVISION.findall(whole + end):
            # A client may receive a change before the writer knows that its commit is done.
            self._delays.append(max(0.0, now - self._committed_at.get(int(revision), now)))


async def watched(url: str, dsn: str, watchers: int, seconds: float) -> Delays:
    committed_at: dict[int, float] = {}
    found: list[float] = []
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    host, port = parts.hostname, parts.port
    request = f"GET /status/events HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: Watcher(request, committed_at, found), host, port)
        for _ in range(watchers)
    ]
    async with asyncio.timeout(LONGEST_SECONDS):
        await asyncio.gather(*(watcher.began.wait() for _, watcher in made))
    async with (
        create_pool(dsn, application="bench", size=1, timeout_seconds=30) as pool,
        pool.acquire() as connection,
    ):
        before = await connection.fetchval(QUERIES)
        await write(connection, committed_at, seconds)
        queries = (await connection.fetchval(QUERIES) - before) / seconds

    async def all_sent() -> bool:
        return len(found) == len(committed_at) * watchers

    async with asyncio.timeout(LONGEST_SECONDS):
        await until(all_sent)
    for transport, _ in made:
        transport.abort()
    return summary([1000 * delay for delay in found], queries)


async def write(connection: Connection, committed_at: dict[int, float], seconds: float) -> None:
    """Write transitions as a processor does: several in each commit."""
    revision = await connection.fetchval("SELECT revision FROM revision_counter")
    begun = time.perf_counter()
    for batch in range(int(seconds * BATCHES_PER_SECOND)):
        await asyncio.sleep(max(0.0, begun + batch / BATCHES_PER_SECOND - time.perf_counter()))
        ids = range(1, TRANSITIONS_IN_BATCH + 1)
        async with connection.transaction():
            await append_transitions(
                connection,
                [
                    Transition(Entity.WORKER, n, None, StatusType.RUNNING, Reason.REPORTED, {})
                    for n in ids
                ],
            )
        now = time.perf_counter()
        committed_at.update(dict.fromkeys(range(revision + 1, revision + 1 + len(ids)), now))
        revision += len(ids)


def summary(found_ms: Sequence[float], transactions_per_second: float) -> Delays:
    p99 = percentile(found_ms, 0.99)
    assert p99 is not None
    return Delays(
        statistics.median(found_ms), p99, max(found_ms), len(found_ms), transactions_per_second
    )


if __name__ == "__main__":
    found = uvloop.run(watched(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
    sys.stdout.buffer.write(msgspec.json.encode(found))
