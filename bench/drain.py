"""The speed at which a full heartbeat queue becomes committed rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import asyncpg
import psutil

from bench.stack import Speed, Stack, compared_with_cpu, speed
from manman_status.reporter.messages import Report

ARRAY = 100


async def singles(stack: Stack) -> str:
    """Compare with a consumer that only acknowledges the same messages."""
    ours, bare = [], []
    for _ in range(stack.sizes.runs):
        reports = list(stack.beats(stack.sizes.beats))
        await stack.fill(reports)
        bare.append(await speed("bench.bare_drain", stack.rabbitmq.url, str(len(reports))))
        await stack.fill(reports)
        ours.append(await drained(stack))
    return compared_with_cpu("(a) single heartbeats", ours, "acknowledging alone", bare)


async def arrays(stack: Stack) -> str:
    """Compare with a loop of upserts that has nothing to read, decode, merge or compare."""
    ours, bare = [], []
    for _ in range(stack.sizes.runs):
        await stack.fill(packed(list(stack.beats(stack.sizes.beats))))
        ours.append(await drained(stack))
        bare.append(await speed("bench.bare_upsert", stack.postgres.url, str(stack.sizes.beats)))
    return compared_with_cpu(
        f"(b) heartbeats in arrays of {ARRAY}", ours, "500-row upserts alone", bare
    )


def packed(reports: list[Report]) -> Iterator[Report]:
    for start in range(0, len(reports), ARRAY):
        some = reports[start : start + ARRAY]
        body = b"[" + b",".join(report.body for report in some) + b"]"
        yield Report(some[0].routing_key, body, durable=False)


async def drained(stack: Stack) -> Speed:
    """The speed from a processor's first commit to its last: its start does not count."""
    connection = await asyncpg.connect(stack.postgres.url)
    try:
        before = await stack.beats_stored(connection)
        with stack.role("processor") as role:
            process = psutil.Process(role.pid)
            began = began_cpu = 0.0
            at_first = before
            while True:
                stored, now = await stack.beats_stored(connection), time.perf_counter()
                if stored > before and not began:
                    began, began_cpu, at_first = now, cpu_seconds(process), stored
                if stored == stack.beats_sent:
                    events = stored - at_first
                    cpu = cpu_seconds(process) - began_cpu
                    return Speed(events / (now - began), cpu / events * 1e6)
                await asyncio.sleep(0.05)
    finally:
        await connection.close()


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


HOT_UPDATES = """
SELECT 100.0 * n_tup_hot_upd / nullif(n_tup_upd, 0) FROM pg_stat_user_tables WHERE relname =
    'workers'
"""


async def hot_updates(stack: Stack) -> str:
    connection = await asyncpg.connect(stack.postgres.url)
    share = await connection.fetchval(HOT_UPDATES)
    await connection.close()
    return f"    updates of workers that were HOT: {share:.1f} %"
