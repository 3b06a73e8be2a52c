"""Probes, hot reads and the watermark stay within a second beside each attack.

Attackers work in this process as long as the attack lasts. Whoever measures does so in a thread of
its own, with a connection for each request, as an orchestrator's probe has. Of the samples most
must be within the limit: a shared machine stands still now and then, and so a measurement that
fails is made again, up to three times.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from manman_status.alerts.rule import OPEN_AT_ONCE
from manman_status.alerts.silences import LASTING_AT_ONCE
from tests.conftest import run_sql
from tests.faults.liveness import Observed
from tests.faults.test_many_alerts import ALL_ARE_LOST, SILENCES
from tests.integration.api.test_edge import connections
from tests.kinds import Eventually, Role, StartRole
from tests.messaging import Publisher
from tests.odd_messages import HEARTBEAT, LIFECYCLE, command

WITHIN_SECONDS = 1.0
MOST = 0.75
MEASURED_SECONDS = 4.0
MEASURED_TIMES = 3
PAUSE_SECONDS = 0.2
"""Pause between two requests of one client: this process must not be what takes the machine's time.
"""
PATHS = ("/livez", "/readyz", "/status/workers?limit=100", "/status/system")
LAG = "the watermark"
LAG_SECONDS = "SELECT extract(epoch FROM now() - observed_through)::float8 FROM observation"

TOKEN = "0123456789abcdef"
BEARER = {"authorization": f"Bearer {TOKEN}"}
HISTORY = """
INSERT INTO workers (worker_id, created_date, status, status_since, reason)
SELECT n, now() - interval '20 days', 'COMPLETE', now() - interval '1 hour', 'graceful'
  FROM generate_series(10001, 10000 + {workers}) n;
WITH counter AS (
    UPDATE revision_counter SET revision = revision + {transitions} RETURNING revision -
        {transitions} AS before
)
INSERT INTO transitions (revision, at, entity, entity_id, old_status, new_status, reason)
SELECT before + n, now() - interval '20 days' + n * interval '20 days' / {transitions}, 'worker',
       10001 + n % {workers}, 'RUNNING', 'COMPLETE', 'graceful'
  FROM counter, generate_series(1, {transitions}) n;
UPDATE alert_progress SET judged_revision = (SELECT revision FROM revision_counter);
ANALYZE;
"""


class Target:
    """The target of an attack, and what attackers have."""

    def __init__(
        self, api: Role, publish: Publisher, database: str, sink: Any, eventually: Eventually
    ) -> None:
        self.api = api
        self.publish = publish
        self.database = database
        self.sink = sink
        self.eventually = eventually


@asynccontextmanager
async def going_on(*attackers: Any) -> AsyncIterator[None]:
    """Each is a coroutine without end. One that fails fails the test."""
    tasks = [asyncio.create_task(attacker) for attacker in attackers]
    try:
        yield
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def poison_flood(per_second: Any) -> Any:
    """Arrays of a thousand elements that are no events, and bodies as deep as the reader goes."""

    @asynccontextmanager
    async def attack(target: Target) -> AsyncIterator[None]:
        strange: list[Any] = [{}, [], "x"]
        arrays = [json.dumps([what] * 1_000).encode() for what in strange]
        arrays.append(json.dumps([*range(1_000)]).encode())
        deep = b'{"command_type":"HEARTBEAT","command_args":' + b"[" * 990 + b"]" * 990 + b"}"
        large = json.dumps(
            command("HEARTBEAT", "7", servers=[{"instance_id": "x" * 900_000}])
        ).encode()

        async def flood() -> None:
            for number in itertools.count():
                bodies = [*arrays, deep] * (per_second // 50)
                await target.publish.many(
                    [(body, (HEARTBEAT, LIFECYCLE)[number % 2]) for body in bodies]
                )
                if number % 10 == 0:
                    await target.publish(large, HEARTBEAT)
                await asyncio.sleep(0.1)

        async with going_on(flood()):
            yield

    return attack


def silent_connections(number: int) -> Any:
    @asynccontextmanager
    async def attack(target: Target) -> AsyncIterator[None]:
        async with connections(target.api, number):
            yield

    return attack


def slow_headers(number: int) -> Any:
    """A byte at a time, beside HTTP/2 with compressed headers that nobody requested."""

    @asynccontextmanager
    async def attack(target: Target) -> AsyncIterator[None]:
        port = int(target.api.url.rpartition(":")[2])
        frame = b"\0\x10\0\1\4" + b"\0\0\0\1" + b"\x82\x84\x86" + b"\xbe" * (4096 - 3)
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0" + frame * 8

        writers = []

        async def drip() -> None:
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writers.append(writer)
                    for byte in (
                        b"GET /status/workers HTTP/1.1\r\nHost: api\r\n" + b"X-A: b\r\n" * 100
                    ):
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(0.5)

        async def compress() -> None:
            while True:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writers.append(writer)
                    writer.write(preface)
                    await reader.read(-1)
                await asyncio.sleep(0.05)

        async with going_on(*(drip() for _ in range(number)), *(compress() for _ in range(4))):
            yield
        for writer in writers:
            writer.close()

    return attack


def requests(call: Any, callers: Any) -> Any:
    """`call` sends one request; by so many at once, again and again."""

    async def keep_calling(api: Role) -> None:
        async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
            for number in itertools.count():
                with contextlib.suppress(httpx.TransportError):
                    await call(http, number)
                await asyncio.sleep(PAUSE_SECONDS)

    @asynccontextmanager
    async def attack(target: Target) -> AsyncIterator[None]:
        async with going_on(*(keep_calling(target.api) for _ in range(callers))):
            yield

    return attack


def on_history(transitions: int, call: Any, callers: int) -> Any:
    """`requests` to an api with so many transitions in its history."""

    @asynccontextmanager
    async def attack(target: Target) -> AsyncIterator[None]:
        await run_sql(
            target.database, HISTORY.format(transitions=transitions, workers=transitions // 20)
        )
        async with requests(call, callers)(target):
            yield

    return attack


async def read_the_past(http: httpx.AsyncClient, number: int) -> None:
    past = datetime.now(UTC) - timedelta(seconds=3_600 + 60 * number)
    path = ("/status/workers", "/status/system", "/status/uptime", "/status/badge.svg")[number % 4]
    windows = {"/status/uptime": f"{20 * 1_440 - number}m", "/status/badge.svg": "30d"}
    given = {"window": windows[path]} if path in windows else {"at": past.isoformat()}
    answer = await http.get(path, params=given, headers=BEARER)
    assert answer.status_code in {200, 503}, answer.text


async def replay(http: httpx.AsyncClient, _: int) -> None:
    async with http.stream("GET", "/status/events", params={"from": 0}, headers=BEARER) as response:
        taken = 0
        async for piece in response.aiter_raw():
            taken += len(piece)
            await asyncio.sleep(0.01)
            if taken > 1_000_000:
                return


async def guess(http: httpx.AsyncClient, number: int) -> None:
    await http.post("/sign-in", data={"token": f"guess-{number}"})


def new_ids(number: int) -> Any:
    """In half as many groups, 2,500 a second, and silent afterwards: each is a worker that is lost
    a little later."""

    @asynccontextmanager
    async def attack(target: Target) -> AsyncIterator[None]:
        async def flood() -> None:
            for first in range(1_000_000, 1_000_000 + number, 500):
                await asyncio.sleep(0.2)
                beats = [
                    command("HEARTBEAT", str(i), labels={"group": f"g{i // 2}"})
                    for i in range(first, first + 500)
                ]
                await target.publish(beats, HEARTBEAT)
            await asyncio.Event().wait()

        async with going_on(flood()):
            yield

    return attack


def silences(number: int, workers: Any) -> Any:
    @asynccontextmanager
    async def attack(target: Target) -> AsyncIterator[None]:
        await run_sql(
            target.database, SILENCES.format(silences=number), ALL_ARE_LOST.format(workers=workers)
        )

        async def call(http: httpx.AsyncClient, number: int) -> None:
            path = ("/status/alerts", "/status/silences")[number % 2]
            await http.get(path, params={"limit": 100}, headers=BEARER)

        async with requests(call, 2)(target):
            yield
        await target.eventually(lambda: target.sink.messages)

    return attack


@asynccontextmanager
async def names_with_markup(target: Target) -> AsyncIterator[None]:
    """Markup in every group's name, as long as a label may be."""
    names = [
        "<script>alert(1)</script>",
        "@everyone [x](http://x)",
        "\x1b[31m\r\nBcc: x",
        "ʘ\u202e" * 60,
        "%s{0}" * 40,
    ]

    async def flood() -> None:
        for number in itertools.count():
            labels = {
                "group": f"{names[number % 5]}{number % 500}"[:255],
                "version": names[number % 5],
            }
            await target.publish.many(
                [
                    (command("HEARTBEAT", str(5_000 + i), labels=labels), HEARTBEAT)
                    for i in range(100)
                ]
            )
            await asyncio.sleep(0.1)

    async def call(http: httpx.AsyncClient, _: Any) -> None:
        page = await http.get("/", headers=BEARER)
        assert "<script>alert(1)" not in page.text

    async with going_on(flood()), requests(call, 2)(target):
        yield


slow = pytest.mark.slow
ATTACKS = [
    pytest.param(poison_flood(200), id="poison"),
    pytest.param(silent_connections(2_100), id="silent-connections"),
    pytest.param(slow_headers(100), id="slow-headers-and-http2"),
    pytest.param(on_history(50_000, read_the_past, 20), id="expensive-reads"),
    pytest.param(
        on_history(1_000_000, read_the_past, 20), id="expensive-reads-of-a-million", marks=slow
    ),
    pytest.param(on_history(20_000, replay, 100), id="replaying-streams"),
    pytest.param(requests(guess, 20), id="guessed-tokens"),
    pytest.param(new_ids(5_000), id="new-ids"),
    pytest.param(new_ids(50_000), id="new-ids-50000", marks=slow),
    pytest.param(silences(LASTING_AT_ONCE, 1_000), id="silences"),
    pytest.param(silences(LASTING_AT_ONCE, 2 * OPEN_AT_ONCE), id="silences-and-alerts", marks=slow),
    pytest.param(names_with_markup, id="markup"),
]


def answers_within(address: Any, path: str) -> Any:
    """Seconds until the first line came that says 200; infinite for anything else."""
    begun = time.monotonic()
    try:
        with socket.create_connection(address, timeout=5) as connection:
            shown = f"Host: api\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
            connection.sendall(f"GET {path} HTTP/1.1\r\n{shown}".encode())
            answer = connection.recv(4096)
            while connection.recv(65536):
                pass
    except OSError:
        return float("inf")
    return time.monotonic() - begun if answer.startswith(b"HTTP/1.1 200") else float("inf")


async def lags(database: str) -> Any:
    connection = await asyncpg.connect(database)
    try:
        return await connection.fetchval(LAG_SECONDS)
    finally:
        await connection.close()


def measured(api: Role, database: str) -> Any:
    """Durations of many samples, by what they measure."""
    host, port = api.url.removeprefix("http://").split(":")
    samples: dict[str, list[float]] = {what: [] for what in (*PATHS, LAG)}
    until = time.monotonic() + MEASURED_SECONDS
    while time.monotonic() < until:
        for path in PATHS:
            samples[path].append(answers_within((host, int(port)), path))
        samples[LAG].append(asyncio.run(lags(database)))
        time.sleep(0.05)
    return samples


def too_slow(samples: Any) -> dict[str, Any]:
    """Measurements that are not within the limit most of the time, with a few of its samples from
    the least to the greatest."""
    return {
        what: [
            round(sorted(seconds)[int(share * (len(seconds) - 1))], 2)
            for share in (0, 0.25, 0.5, 0.75, 0.9, 1)
        ]
        for what, seconds in samples.items()
        if sum(each <= WITHIN_SECONDS for each in seconds) < MOST * len(seconds)
    }


@pytest.mark.parametrize("attack", ATTACKS)
async def test_probes_reads_and_watermark_stay_within_a_second(
    attack: Any,
    start_quick: StartRole,
    start_api: StartRole,
    publish: Publisher,
    observed: Observed,
    database: str,
    sink: Any,
    eventually: Eventually,
) -> None:
    processor = await start_quick(
        notify_urls=sink.url,
        notify_wait_seconds=1,
        minimum_timeout_seconds=3,
        database_timeout_seconds=10,
    )
    api = await start_api(api_tokens=TOKEN, database_timeout_seconds=5)
    await publish(
        [command("HEARTBEAT", str(i), interval_seconds=600) for i in range(1, 101)], HEARTBEAT
    )
    await eventually(lambda: observed.value("SELECT count(*) = 100 FROM workers"))
    async with attack(Target(api, publish, database, sink, eventually)):
        for _ in range(MEASURED_TIMES):
            slow_ones = too_slow(await asyncio.to_thread(measured, api, database))
            if not slow_ones:
                break
        assert not slow_ones
    assert processor.returncode is None
    assert api.returncode is None
