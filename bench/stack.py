"""The servers under measurement, the fleet that is in them, and the messages that a fleet sends."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import aio_pika
import asyncpg
import msgspec

from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.processes import Child
from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from manman_status.reporter.messages import Incarnation, Report
from manman_status.store.migrate import migrate
from manman_status.wire.messages import RunningServer
from manman_status.wire.topology import Topology

SERVERS_PER_WORKER = 3


class Sizes(msgspec.Struct, frozen=True):
    workers: int
    beats: int
    runs: int
    http_seconds: int
    sweep_seconds: int
    reporter_seconds: int
    reporter_hours: int
    watchers: int
    watch_seconds: int
    million: tuple[int, ...]


FULL = Sizes(
    workers=10_000,
    beats=100_000,
    runs=3,
    http_seconds=5,
    sweep_seconds=60,
    reporter_seconds=30,
    reporter_hours=4,
    watchers=500,
    watch_seconds=20,
    million=(10_000, 100_000, 1_000_000),
)
QUICK = Sizes(
    workers=1_000,
    beats=10_000,
    runs=1,
    http_seconds=1,
    sweep_seconds=10,
    reporter_seconds=10,
    reporter_hours=1,
    watchers=50,
    watch_seconds=3,
    million=(5_000, 10_000),
)


class Stack:
    """PostgreSQL and RabbitMQ, durable as in production, and a fleet whose workers all beat in
    turn."""

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self.sizes = sizes
        self.topology = Topology(heartbeat_ttl_seconds=86_400)
        self._folder = folder
        self.postgres = EmbeddedPostgres(folder / "postgres")
        self.rabbitmq = EmbeddedRabbitMQ(folder / "rabbitmq")
        labels = {"group": "bench", "version": "1.0.0"}
        self._fleet = [
            Incarnation(worker_id, number=1, interval_seconds=10, labels=labels)
            for worker_id in range(1, sizes.workers + 1)
        ]
        self.beats_sent = 0

    def __enter__(self) -> Self:
        self.rabbitmq.launch()
        self.postgres.start()
        self.rabbitmq.wait_until_ready()
        migrate(self.postgres.url)
        return self

    def __exit__(self, *_: object) -> None:
        self.rabbitmq.stop()
        self.postgres.stop()

    async def seed(self) -> None:
        """Declare the topology and make a row of each worker and instance, by the processor
        itself."""
        connection = await asyncpg.connect(self.postgres.url)
        with self.role("processor"):
            await until(self.is_consumed)
            await self.fill(self.beats(self.sizes.workers))

            async def all_stored() -> bool:
                return await self.beats_stored(connection) == self.beats_sent

            async def all_told() -> bool:
                """The rows' first transitions are republished: no part of what is measured
                later."""
                unsent = (
                    "SELECT (SELECT revision FROM revision_counter) - (SELECT sent_revision FROM"
                    " relay)"
                )
                return await connection.fetchval(unsent) == 0

            await until(all_stored)
            await until(all_told)
        await connection.execute("VACUUM ANALYZE")
        await connection.close()

    def beats(self, count: int) -> Iterator[Report]:
        """Heartbeats one after the other, so that each worker sends another only when all others
        have."""
        for number in range(count):
            worker = self._fleet[(self.beats_sent + number) % len(self._fleet)]
            first = worker.worker_id * SERVERS_PER_WORKER
            yield worker.heartbeat(
                [
                    RunningServer(first + n, game_server_config_id=3)
                    for n in range(SERVERS_PER_WORKER)
                ]
            )
        self.beats_sent += count

    async def fill(self, reports: Iterable[Report]) -> None:
        """Put them into the heartbeat queue; returns when all of them are there."""
        async with await aio_pika.connect(self.rabbitmq.url) as connection:
            channel = await connection.channel(publisher_confirms=False)
            exchange = await channel.get_exchange(self.topology.inbound_exchange, ensure=False)
            for report in reports:
                await exchange.publish(aio_pika.Message(report.body), report.routing_key)
            # A question on the same channel is answered after everything before it was routed.
            await channel.get_exchange(self.topology.inbound_exchange)

    async def is_consumed(self) -> bool:
        async with await aio_pika.connect(self.rabbitmq.url) as connection:
            channel = await connection.channel()
            try:
                queue = await channel.get_queue(self.topology.queues(1)[0])
            except aio_pika.exceptions.ChannelNotFoundEntity:
                return False
            return bool(queue.declaration_result.consumer_count)

    async def beats_stored(self, connection: asyncpg.Connection[asyncpg.Record]) -> int:
        """`seq` counts a worker's beats from 1."""
        stored: int = await connection.fetchval("SELECT coalesce(sum(seq), 0)::bigint FROM workers")
        return stored

    @contextmanager
    def role(self, name: str, **settings: object) -> Iterator[Child]:
        given = {
            "database_url": self.postgres.url,
            "rabbitmq_url": self.rabbitmq.url,
            "heartbeat_ttl_seconds": self.topology.heartbeat_ttl_seconds,
            "log_level": "warning",
            **settings,
        }
        environment = {f"MANMAN_STATUS_{name.upper()}": str(value) for name, value in given.items()}
        command = [sys.executable, "-m", "manman_status", "serve", "--role", name]
        with self.child(command, environment) as child:
            yield child

    @contextmanager
    def child(
        self, command: list[str], environment: dict[str, str] | None = None
    ) -> Iterator[Child]:
        env = {**os.environ, **(environment or {})}
        child = Child(command[2], command, log_file=self._folder / f"{command[-1]}.log", env=env)
        try:
            yield child
        finally:
            child.stop()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while True:
        if await condition():
            return
        await asyncio.sleep(0.1)


class Speed(NamedTuple):
    """`rate` is in events a second. `cpu_us` is what one event takes of the process's own CPU time,
    user and system: what else runs on the machine changes it less."""

    rate: float
    cpu_us: float


async def speed(*command: str) -> Speed:
    """The two numbers that a process of ours prints."""
    return Speed(*map(float, (await output(*command)).split()))


async def answer(*command: str) -> float:
    """The number that a process of ours prints."""
    return float(await output(*command))


async def output(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, command
    return out


def compared(what: str, ours: list[float], beside: str, bare: list[float], unit: str) -> str:
    measured, least = statistics.median(ours), statistics.median(bare)
    return (
        f"{what:<46} {measured:>9,.0f} {unit}   {beside:<26} {least:>9,.0f} {unit}   ratio"
        f" {measured / least:.2f}"
    )


def compared_with_cpu(what: str, ours: list[Speed], beside: str, bare: list[Speed]) -> str:
    line = compared(
        what, [each.rate for each in ours], beside, [each.rate for each in bare], "events/s"
    )
    measured, least = (statistics.median(each.cpu_us for each in some) for some in (ours, bare))
    return f"{line}   CPU of one {measured:.0f} and {least:.0f} µs"
