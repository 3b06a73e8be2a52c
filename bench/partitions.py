"""Measure how fast one or more processors turn several heartbeat queues into committed rows."""

from __future__ import annotations

import asyncio
import statistics
import time
from contextlib import ExitStack

import asyncpg

from bench.stack import Stack, until

PARTITIONS = (1, 2, 4)
PROCESSORS = (1, 2)


async def table(stack: Stack) -> str:
    """Heartbeats are sent while they are stored: the sender, too, is part of what is measured."""
    lines = []
    for partitions in PARTITIONS:
        for processors in PROCESSORS:
            rates = [await _rate(stack, partitions, processors) for _ in range(stack.sizes.runs)]
            what = f"{partitions} heartbeat queues, {processors} processors"
            lines.append(f"{what:<46} {statistics.median(rates):>9,.0f} events/s")
    return "\n".join(lines)


async def _rate(stack: Stack, partitions: int, processors: int) -> float:
    connection = await asyncpg.connect(stack.postgres.url)
    share = -(-partitions // processors)
    reads = """SELECT count(*) FILTER (WHERE number BETWEEN 1 AND $1), coalesce(sum(number), 0) FROM
        (
        SELECT (SELECT count(*) FROM jsonb_array_elements_text(statistics -> 'reads') queue WHERE
            queue LIKE $2)
            AS number
        FROM processors WHERE last_seen > now() - interval '2 s') shares"""

    async def is_shared() -> bool:
        [row] = await connection.fetch(reads, share, f"{stack.topology.heartbeat_queue}.%")
        busy, given = row
        return bool(given == partitions and busy == min(partitions, processors))

    try:
        with ExitStack() as roles:
            for _ in range(processors):
                roles.enter_context(stack.role("processor", partitions=partitions))
            await until(is_shared)
            before, began = await stack.beats_stored(connection), time.perf_counter()
            filling = asyncio.create_task(stack.fill(list(stack.beats(stack.sizes.beats))))

            async def all_stored() -> bool:
                return await stack.beats_stored(connection) == before + stack.sizes.beats

            await until(all_stored)
            await filling
            return stack.sizes.beats / (time.perf_counter() - began)
    finally:
        await connection.close()
