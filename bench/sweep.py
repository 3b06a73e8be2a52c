"""Measure what the sweep costs while 100,000 workers beat and none is overdue."""

from __future__ import annotations

import asyncio
import statistics
from time import perf_counter

import asyncpg

from bench.stack import Stack
from manman_status.domain.guard import GuardRules
from manman_status.domain.liveness import Thresholds
from manman_status.domain.sweep import SweepRules
from manman_status.leadership import LEASE, Leadership, Term
from manman_status.processor.leader.sweep import Sweeper
from manman_status.processor.statistics import Statistics
from manman_status.store.leases import hold_lease
from manman_status.store.migrate import migrate
from manman_status.store.pool import create_pool

WORKERS = 100_000
INTERVAL_SECONDS = 10

SEED = """
INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since, reason,
    interval_seconds)
SELECT id, now(), now() - $2 * random() * interval '1 second', 'RUNNING', now(), 'reported', $2
  FROM generate_series(1, $1::bigint) AS id
"""
OBSERVE = """
UPDATE observation
   SET observed_through = clock_timestamp(), advanced_at = now(), resumed_at = now() - interval
       '1 hour' WHERE id = 1
"""
BEAT = "UPDATE workers SET last_heartbeat = clock_timestamp() WHERE worker_id % $1 = $2"


async def cost(stack: Stack) -> str:
    """The mean over the seconds of a whole minute, each with a tenth of the fleet beating before it
    is swept."""
    await run(stack.postgres.url, "CREATE DATABASE sweep")
    dsn = stack.postgres.url.replace("/postgres", "/sweep")
    await asyncio.to_thread(migrate, dsn)
    rules = SweepRules(
        thresholds=Thresholds(),
        guard=GuardRules(minimum_workers=3, percent=30, hold_seconds=60, release_percent=10),
    )
    async with create_pool(dsn, application="bench", size=2, timeout_seconds=60) as pool:
        await pool.execute(SEED, WORKERS, float(INTERVAL_SECONDS))
        await pool.execute("VACUUM ANALYZE workers")
        async with pool.acquire() as connection:
            token = await hold_lease(connection, LEASE, "bench", seconds=3600)
        assert isinstance(token, int)
        leadership = Leadership(pool, "bench", lease_seconds=3600)
        sweeper = Sweeper(
            leadership, rules, interval_seconds=1, statistics=Statistics(), wake=lambda: None
        )
        spent = []
        for second in range(stack.sizes.sweep_seconds):
            begun = perf_counter()
            await pool.execute(BEAT, INTERVAL_SECONDS, second % INTERVAL_SECONDS)
            await pool.execute(OBSERVE)
            swept = perf_counter()
            await sweeper.sweep(Term(pool, token))
            done = perf_counter()
            spent.append((done - swept) * 1000)
            await asyncio.sleep(max(0.0, 1 - (done - begun)))
        lost = await pool.fetchval("SELECT count(*) FROM workers WHERE status = 'LOST'")
    assert lost == 0, f"{lost} workers lost"
    return (
        f"(d) sweep of {WORKERS:,} workers, none overdue: {statistics.mean(spent):.1f} ms a second"
        f" on average, {max(spent):.0f} ms at most"
    )


async def run(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
