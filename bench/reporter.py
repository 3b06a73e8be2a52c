"""Measure what the reporter costs a worker: CPU of a heartbeat, and memory over an hour's events.

`python -m bench.reporter URL SECONDS EVENTS` is the worker under measurement, as a process of its
own.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from bench.stack import Stack, until
from manman_status.reporter.delivery import Delivery
from manman_status.reporter.life import WorkerLife
from manman_status.reporter.messages import Report
from manman_status.wire.topology import Topology

SERVERS = 50
EVENTS_PER_HOUR = 7_200
"""A server instance that starts and one that ends, each second."""
BUFFERED = 200
SETTLED_AFTER = 0.2
"""The share of the events after which all permanent memory is allocated."""


class Cost(msgspec.Struct):
    beats: int
    cpu_ms_per_beat: float
    events: int
    beats_beside: int
    settled_mib: float
    at_end_mib: float


async def cost(stack: Stack) -> str:
    with stack.role("processor"):
        await until(stack.is_consumed)
        seconds, events = (
            str(stack.sizes.reporter_seconds),
            str(stack.sizes.reporter_hours * EVENTS_PER_HOUR),
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.reporter", stack.rabbitmq.url, seconds, events),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
    found = msgspec.json.decode(out, type=Cost)
    per_beat, hours = found.cpu_ms_per_beat, found.events / EVENTS_PER_HOUR
    return (
        f"(e) a heartbeat with {SERVERS} servers: {per_beat:.2f} ms of the worker's CPU"
        f" ({found.beats} beats)\n    memory after {SETTLED_AFTER:.0%} of {hours:g} hours' worth of"
        f" events: {found.settled_mib:.1f} MiB, at the end {found.at_end_mib:.1f} MiB"
        f" ({found.events:,} events, {found.beats_beside:,} heartbeats)"
    )


class CountingLife(WorkerLife):
    beaten = 0

    def heartbeat(self) -> Report:
        self.beaten += 1
        return super().heartbeat()

    async def is_idle(self) -> bool:
        return not self.waiting


def a_life(worker_id: int) -> CountingLife:
    labels = {"group": "bench", "version": "1.0.0"}
    return CountingLife(
        worker_id,
        interval_seconds=1,
        labels=labels,
        heartbeats=True,
        inventory=True,
        outbox_size=10_000,
    )


@asynccontextmanager
async def delivered(
    life: WorkerLife, url: str, *, interval_seconds: float
) -> AsyncIterator[Delivery]:
    delivery = Delivery(
        life, url, exchange=Topology().inbound_exchange, interval_seconds=interval_seconds
    )
    running = asyncio.create_task(delivery.run())
    yield delivery
    delivery.close()
    await running


async def beat_for(url: str, seconds: float) -> tuple[int, float]:
    """Heartbeats of a worker that does nothing else, and its CPU seconds, also for what it does
    between them."""
    life = a_life(1)
    for instance_id in range(1, SERVERS + 1):
        life.start_server(instance_id, 3)
    async with delivered(life, url, interval_seconds=1):
        await until(life.is_idle)
        before, cpu = life.beaten, time.process_time()
        await asyncio.sleep(seconds)
        return life.beaten - before, time.process_time() - cpu


async def live_through(url: str, events: int) -> tuple[float, float, int]:
    """Resident memory when settled and at the end, and how many heartbeats there were meanwhile."""
    life = a_life(2)
    settled = 0.0
    async with delivered(life, url, interval_seconds=0.005) as delivery:
        for number in range(events // 2):
            life.start_server(SERVERS + number, 3)
            life.stop_server(number, 0) if number else None
            delivery.wake()
            if life.waiting > BUFFERED:
                await until(life.is_idle)
            if number == int(events / 2 * SETTLED_AFTER):
                settled = resident_mib()
    return settled, resident_mib(), life.beaten


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


async def main(url: str, seconds: float, events: int) -> None:
    beats, cpu = await beat_for(url, seconds)
    settled, at_end, beside = await live_through(url, events)
    print(
        msgspec.json.encode(
            Cost(beats, cpu / beats * 1000, events, beside, settled, at_end)
        ).decode()
    )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
