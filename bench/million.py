"""Measure what reading costs at 10,000, 100,000 and 1,000,000 workers, and what grows with them."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from time import perf_counter

import asyncpg
import httpx
import psutil

from bench import sweep
from bench.http import answers
from bench.stack import Stack
from manman_status.dev.ports import free_port
from manman_status.domain.guard import GuardRules
from manman_status.domain.liveness import Thresholds
from manman_status.domain.sweep import SweepRules
from manman_status.leadership import LEASE, Leadership, Term
from manman_status.processor.leader.sweep import Sweeper
from manman_status.processor.leader.uptime_days import UptimeDays
from manman_status.processor.statistics import Statistics
from manman_status.store.leases import hold_lease
from manman_status.store.migrate import migrate
from manman_status.store.pool import Pool, create_pool

GROUPS = 20
SERVERS_EACH = 3
DAYS = 30
OVERDUE = 101
"""One worker in so many, when the fleet is swept: some of each group."""
LATE = 1_001
"""One in so many has missed two beats."""
TIMES = 7
LONGEST_SECONDS = 60
BLIND_AFTER_SECONDS = 86_400.0

# As the leader keeps them, for the days that are over.
PARTITIONS = f"""
DO $$ BEGIN
    FOR n IN 0..{DAYS + 1} LOOP
        EXECUTE
            format('CREATE TABLE IF NOT EXISTS %I PARTITION OF transitions'
            ' FOR VALUES FROM (%L) TO (%L)',
            'transitions_' || to_char(now() AT TIME ZONE 'UTC' - n * interval '1 day', 'YYYYMMDD'),
            date_trunc('day', now(), 'UTC') - n * interval '1 day',
            date_trunc('day', now(), 'UTC') - (n - 1) * interval '1 day');
    END LOOP;
END $$
"""
# Each worker came within the retention, and one in ten was lost once since then, for up to two
# hours.
HISTORIES = f"""
CREATE UNLOGGED TABLE lives AS
SELECT id, now() - came * interval '1 day' AS at,
       CASE WHEN id % 10 = 3 THEN now() - lost * interval '1 day' END AS lost,
       random() * interval '2 hours' AS lasts
  FROM (SELECT id, came, random() * came AS lost
          FROM (SELECT id, 0.1 + random() * {DAYS - 1} AS came FROM generate_series(1, $1::bigint)
              AS id) c) l
"""
WORKERS = f"""
INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since, reason,
    interval_seconds, labels)
SELECT id, at, now() - CASE WHEN id % {LATE} = 5 THEN 25 ELSE 10 * random() END * interval
    '1 second',
       CASE WHEN lost + lasts > now() THEN 'LOST' ELSE 'RUNNING' END, coalesce(lost, at),
           'reported', 10,
       jsonb_build_object('group', 'g' || id % {GROUPS}, 'version', '1.' || id % 7)
  FROM lives
"""
SERVERS = f"""
INSERT INTO server_instances (instance_id, worker_id, created_date, status, status_since, reason)
SELECT {SERVERS_EACH} * id + n, id, at, 'RUNNING', at, 'reported' FROM lives, generate_series(1,
    {SERVERS_EACH}) AS n
"""
TRANSITIONS = f"""
INSERT INTO transitions (revision, at, entity, entity_id, old_status, new_status, reason)
SELECT row_number() OVER (ORDER BY at), at, entity, entity_id, old_status, new_status, 'reported'
    FROM (
    SELECT at, 'worker' AS entity, id AS entity_id, NULL AS old_status, 'RUNNING' AS new_status FROM
        lives
    UNION ALL SELECT lost, 'worker', id, 'RUNNING', 'LOST' FROM lives WHERE lost IS NOT NULL
    UNION ALL SELECT lost + lasts, 'worker', id, 'LOST', 'RUNNING' FROM lives WHERE lost + lasts <=
        now()
    UNION ALL SELECT at, 'game_server_instance', {SERVERS_EACH} * id + n, NULL, 'RUNNING'
                FROM lives, generate_series(1, {SERVERS_EACH}) AS n
) t
"""
COUNT = "UPDATE revision_counter SET revision = (SELECT max(revision) FROM transitions)"
OBSERVE = """
UPDATE observation
   SET observed_through = (SELECT max(last_heartbeat) FROM workers), advanced_at = now(),
       resumed_at = now() - interval '1 hour'
 WHERE id = 1
"""
BEAT = f"""
UPDATE workers SET last_heartbeat = now() - CASE WHEN worker_id % {OVERDUE} = 7 THEN 60 ELSE 0 END *
    interval '1 second'
"""

RULES = SweepRules(
    thresholds=Thresholds(blind_after_seconds=BLIND_AFTER_SECONDS),
    guard=GuardRules(minimum_workers=3, percent=30, hold_seconds=60, release_percent=10),
)
READS = {
    "first page": "/status/workers",
    "page of 1,000": "/status/workers?limit=1000",
    "group": "/status/workers?group=g3",
    "label": "/status/workers?label=version:1.3",
    "one worker": "/status/workers/4711",
    "/status/system": "/status/system",
    "badge": "/status/badge.svg",
    "/metrics": "/metrics",
    "page's bar": "/page/bar",
    "health=late": "/status/workers?health=late",
    "health=unhealthy": "/status/workers?health=unhealthy",
    "uptime, fleet": "/status/uptime?window=30d",
    "uptime, group": "/status/uptime?window=30d&group=g3",
    "uptime badge": "/status/badge.svg?window=30d",
    "page's map": "/page/map.json",
}


async def table(stack: Stack) -> str:
    """A column a size; medians in ms, each answer read anew."""
    found = [await measured(stack, size) for size in stack.sizes.million]
    sizes = "".join(f"{size:>14,}" for size in stack.sizes.million)
    lines = [
        f"(h) {'workers':<24}{sizes}",
        *(
            f"    {name:<24}" + "".join(f"{column[name]:>14}" for column in found)
            for name in found[0]
        ),
    ]
    return "\n".join(lines)


async def measured(stack: Stack, size: int) -> dict[str, str]:
    name = f"million_{size}"
    await sweep.run(stack.postgres.url, f"CREATE DATABASE {name}")
    dsn = stack.postgres.url.replace("/postgres", f"/{name}")
    await asyncio.to_thread(migrate, dsn)
    await fill(dsn, size)
    found: dict[str, str] = {}
    async with create_pool(dsn, application="bench", size=2, timeout_seconds=600) as pool:
        token, leadership = await lead(pool)
        sweeper = Sweeper(
            leadership, RULES, interval_seconds=1, statistics=Statistics(), wake=lambda: None
        )
        await sweeper.sweep(Term(pool, token))
        found["first build of days, s"] = f"{await built(pool, leadership, token):,.1f}"
        await pool.execute("VACUUM ANALYZE")
        found |= await reads(stack, dsn)
        found[f"sweep, 1 in {OVERDUE} overdue"] = await swept(pool, sweeper, token)
        again = await median(lambda: sweeping(sweeper, Term(pool, token)))
        found["sweep, no more of them"] = f"{again:,.1f}"
    await sweep.run(stack.postgres.url, f"DROP DATABASE {name} WITH (FORCE)")
    return found


async def fill(dsn: str, size: int) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute(PARTITIONS)
    await connection.execute(HISTORIES, size)
    for statement in (
        WORKERS,
        SERVERS,
        TRANSITIONS,
        COUNT,
        "DROP TABLE lives",
        "VACUUM ANALYZE",
        OBSERVE,
    ):
        await connection.execute(statement)
    await connection.close()


async def lead(pool: Pool) -> tuple[int, Leadership]:
    async with pool.acquire() as connection:
        token = await hold_lease(connection, LEASE, "bench", seconds=7200)
    assert isinstance(token, int)
    return token, Leadership(pool, "bench", lease_seconds=7200)


async def built(pool: Pool, leadership: Leadership, token: int) -> float:
    days = UptimeDays(leadership, retention_days=DAYS)
    begun = perf_counter()
    while await days.make_some(Term(pool, token)):
        pass
    return perf_counter() - begun


async def reads(stack: Stack, dsn: str) -> dict[str, str]:
    port = free_port()
    settings = {
        "host": "127.0.0.1",
        "port": port,
        "database_url": dsn,
        "answer_cache_ms": 0,
        "database_timeout_seconds": LONGEST_SECONDS,
    }
    found = {}
    with stack.role("api", **settings) as api:
        url = f"http://127.0.0.1:{port}"
        await answers(f"{url}/livez")
        found["api's memory, idle"] = mib(api.pid)
        async with httpx.AsyncClient(base_url=url, timeout=4 * LONGEST_SECONDS) as client:
            for name, path in READS.items():
                if name == "page's map":
                    found["api's memory, read"] = mib(api.pid)
                found[name] = f"{await median(lambda path=path: timed(client, path)):,.1f}"  # type: ignore[misc]
        found["api's memory, map"] = mib(api.pid)
    return found


async def median(once: Callable[[], Awaitable[float]]) -> float:
    """The first is not counted: it opens connections, and plans."""
    return statistics.median([await once() for _ in range(TIMES + 1)][1:])


async def timed(client: httpx.AsyncClient, path: str) -> float:
    begun = perf_counter()
    async with client.stream("GET", path) as response:
        response.raise_for_status()
        async for _ in response.aiter_raw():
            pass
    return (perf_counter() - begun) * 1000


def mib(pid: int) -> str:
    """Format the memory of a process and its children."""
    process = psutil.Process(pid)
    family = (process, *process.children(recursive=True))
    return f"{sum(each.memory_info().rss for each in family) / 2**20:,.0f} MiB"


async def swept(pool: Pool, sweeper: Sweeper, token: int) -> str:
    """Sweep once: none is lost twice."""
    for statement in (BEAT, "VACUUM workers", OBSERVE):
        await pool.execute(statement)
    lost = "SELECT count(*) FROM workers WHERE status = 'LOST'"
    before = await pool.fetchval(lost)
    took = await sweeping(sweeper, Term(pool, token))
    assert await pool.fetchval(lost) > before
    return f"{took:,.1f}"


async def sweeping(sweeper: Sweeper, term: Term) -> float:
    begun = perf_counter()
    await sweeper.sweep(term)
    return (perf_counter() - begun) * 1000
