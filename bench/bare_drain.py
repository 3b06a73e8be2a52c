"""The least that draining a queue can cost with this client: `URL COUNT` → messages a second, µs of
CPU of one."""

from __future__ import annotations

import asyncio
import sys
import time

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from manman_status.wire.topology import Topology

ACKNOWLEDGED_AT_ONCE = 1_000


async def drain(url: str, count: int) -> tuple[float, float]:
    seen = 0
    began = began_cpu = 0.0
    done = asyncio.Event()

    async def take(message: AbstractIncomingMessage) -> None:
        nonlocal seen, began, began_cpu
        seen += 1
        if not began:
            began, began_cpu = time.perf_counter(), time.process_time()
        if seen % ACKNOWLEDGED_AT_ONCE == 0 or seen == count:
            await message.ack(multiple=True)
        if seen == count:
            done.set()

    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=2_000)
        queue = await channel.get_queue(Topology().queues(1)[0])
        await queue.consume(take)
        await done.wait()
        seconds, cpu = time.perf_counter() - began, time.process_time() - began_cpu
        return count / seconds, cpu / count * 1e6


print(*uvloop.run(drain(sys.argv[1], int(sys.argv[2]))))
