"""Measure what a scrape of /metrics costs with 100,000 healthy workers, three servers of each, and
400,000 that ended."""

from __future__ import annotations

import asyncio
import statistics
from time import perf_counter

import asyncpg
import httpx

from bench import sweep
from bench.http import answers
from bench.stack import Stack
from manman_status.dev.ports import free_port
from manman_status.store.migrate import migrate

GROUPS = 150
SERVERS = """
INSERT INTO server_instances (instance_id, worker_id, created_date, status, status_since, reason)
SELECT id, 1 + id % $1::bigint, now(), CASE WHEN id > $2 THEN 'COMPLETE' ELSE 'RUNNING' END, now(),
    'reported'
  FROM generate_series(1, $2::bigint + $3::bigint) AS id
"""
SERVERS_EACH = 3
ENDED = 400_000
SCRAPES_A_RUN = 10
NO_LONGER_KEPT_AFTER_SECONDS = 3.0
"""All but what has ended, at twenty times what its reading takes."""
HEALTHY = """
UPDATE observation
   SET observed_through = (SELECT max(last_heartbeat) FROM workers), advanced_at = now(),
       resumed_at = now() - interval '1 hour'
 WHERE id = 1
"""


async def cost(stack: Stack) -> str:
    """The whole answer, as a scraper waits for it: from the database, and kept."""
    await sweep.run(stack.postgres.url, "CREATE DATABASE scrape")
    dsn = stack.postgres.url.replace("/postgres", "/scrape")
    await asyncio.to_thread(migrate, dsn)
    connection = await asyncpg.connect(dsn)
    await connection.execute(sweep.SEED, sweep.WORKERS, float(sweep.INTERVAL_SECONDS))
    await connection.execute(
        f"UPDATE workers SET labels = jsonb_build_object('group', 'g' || worker_id % {GROUPS},"
        " 'version', '1.0.0')"
    )
    await connection.execute(SERVERS, sweep.WORKERS, sweep.WORKERS * SERVERS_EACH, ENDED)
    await connection.execute("VACUUM FULL ANALYZE")
    await connection.execute(HEALTHY)
    await connection.execute("UPDATE observation SET blind_after_seconds = 86400")
    await connection.close()
    port = free_port()
    found: dict[str, list[float]] = {"read": [], "kept": []}
    with stack.role("api", database_url=dsn, host="127.0.0.1", port=port):
        url = f"http://127.0.0.1:{port}/metrics"
        await answers(url)
        async with httpx.AsyncClient(timeout=60) as client:
            for _ in range(SCRAPES_A_RUN * stack.sizes.runs):
                await asyncio.sleep(NO_LONGER_KEPT_AFTER_SECONDS)
                for scrapes in found.values():
                    scrapes.append(await scraped(client, url))
    return f"(g) /metrics of {sweep.WORKERS:,} workers: " + ", ".join(
        f"{statistics.median(each):.1f} ms {name} (longest {max(each):.1f})"
        for name, each in found.items()
    )


async def scraped(client: httpx.AsyncClient, url: str) -> float:
    begun = perf_counter()
    (await client.get(url)).raise_for_status()
    return (perf_counter() - begun) * 1000
