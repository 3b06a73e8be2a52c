"""Measure what a bridge costs that reads 1,000 workers, which beat every two seconds, beside
100,000 that have ended."""

from __future__ import annotations

import asyncio

import asyncpg
import psutil

from bench import sweep
from bench.stack import Stack, until
from manman_status.bridge.looks import BEATS_EVERY_SECONDS

WORKERS = 1_000
ENDED = 100_000
TABLES = f"""
CREATE SCHEMA manman;
CREATE TABLE manman.workers (worker_id serial PRIMARY KEY, end_date timestamp,
    last_heartbeat timestamp);
CREATE TABLE manman.game_server_instances (game_server_instance_id serial PRIMARY KEY,
    game_server_config_id int, end_date timestamp, worker_id int);
CREATE INDEX ON manman.game_server_instances (worker_id);
INSERT INTO manman.workers (end_date, last_heartbeat)
SELECT CASE WHEN n <= {ENDED} THEN now() END, now() FROM generate_series(1, {ENDED + WORKERS}) n;
INSERT INTO manman.game_server_instances (game_server_config_id, end_date, worker_id)
SELECT 3, end_date, worker_id FROM manman.workers, generate_series(1, 3);
VACUUM ANALYZE manman.workers;
"""
TENTHS = 10
BEAT = f"""
UPDATE manman.workers SET last_heartbeat = now()
 WHERE worker_id > {ENDED} AND worker_id % {TENTHS} = $1
"""


async def cost(stack: Stack) -> str:
    """The share of a core, once all workers are known."""
    await sweep.run(stack.postgres.url, "CREATE DATABASE manman")
    url = stack.postgres.url.replace("/postgres", "/manman")
    connection = await asyncpg.connect(url)
    for statement in TABLES.split(";\n"):
        if statement.strip():
            await connection.execute(statement)
    beating = asyncio.create_task(beat(connection))
    ours = await asyncpg.connect(stack.postgres.url)
    with stack.role("processor"), stack.role("bridge", manman_database_url=url) as bridge:
        known = f"SELECT count(*) = {WORKERS} FROM workers WHERE labels ? 'host'"
        await until(lambda: ours.fetchval(known))
        process = psutil.Process(bridge.pid)
        before = process.cpu_times()
        await asyncio.sleep(stack.sizes.reporter_seconds)
        after = process.cpu_times()
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    await connection.close()
    await ours.close()
    used = after.user + after.system - before.user - before.system
    share = used / stack.sizes.reporter_seconds
    return f"(i) a bridge, {WORKERS:,} workers: {share:.1%} of a core"


async def beat(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Let a tenth of the workers beat at a time."""
    while True:
        for place in range(TENTHS):
            await connection.execute(BEAT, place)
            await asyncio.sleep(BEATS_EVERY_SECONDS / TENTHS)
