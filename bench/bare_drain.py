"""The least that draining a queue can cost with this client: `URL COUNT` → messages a second."""

from __future__ import annotations

import asyncio
import sys
import time

import aio_pika
import uvloop
from aio_pika.abc import AbstractIncomingMessage

from manman_status.wire.topology import Topology

ACKNOWLEDGED_AT_ONCE = 1_000


async def drain(url: str, count: int) -> float:
    seen = 0
    began = 0.0
    done = asyncio.Event()

    async def take(message: AbstractIncomingMessage) -> None:
        nonlocal seen, began
        seen += 1
        began = began or time.perf_counter()
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
        return count / (time.perf_counter() - began)


print(uvloop.run(drain(sys.argv[1], int(sys.argv[2]))))
