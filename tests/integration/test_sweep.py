"""The sweep over the database and the one over rows in memory conclude alike."""

from __future__ import annotations

import copy
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from manman_status.domain.guard import GuardRules
from manman_status.domain.liveness import Thresholds
from manman_status.domain.rows import Rows, ServerInstance, Worker
from manman_status.domain.status import INFERRED, Reason, StatusType
from manman_status.domain.sweep import Horizon, SweepRules
from manman_status.leadership import LEASE, Leadership, Term
from manman_status.processor.leader.lateness import PAGES_AT_ONCE, Lateness
from manman_status.processor.leader.sweep import Sweeper
from manman_status.processor.statistics import Statistics
from manman_status.store.leases import hold_lease
from manman_status.store.pool import Pool, create_pool
from manman_status.store.sweep import read_guards
from manman_status.store.writes import lock_instances, lock_workers, store_rows, transaction_time
from tests.builders import START
from tests.model.sweep import sweep

RULES = SweepRules(
    thresholds=Thresholds(),
    guard=GuardRules(minimum_workers=3, percent=30, hold_seconds=60, release_percent=10),
)
WORKERS = 60
GROUPS = (None, "eu-1", "eu-2")
DRAINS: tuple[dict[str, str], ...] = ({}, {}, {"drain": "true"}, {"drain": "Off"})
INTERVALS = (None, 1.0, 5.0, 20.0)
STATUSES = (
    StatusType.RUNNING,
    StatusType.RUNNING,
    StatusType.RUNNING,
    StatusType.LOST,
    StatusType.COMPLETE,
)
OBSERVE = "UPDATE observation SET observed_through = $1, resumed_at = $2, advanced_at = $1"


def some_rows(chance: Any, now: Any, *, silent_share: Any) -> Any:
    """No time of theirs is within two seconds of an edge: the database's clock goes on while it
    sweeps."""

    def ago(*seconds: Any) -> Any:
        return now - timedelta(seconds=chance.choice(seconds))

    rows = Rows()
    for worker_id in range(1, WORKERS + 1):
        status = chance.choice(STATUSES)
        beat = ago(18, 33, 48, 63, 93) if chance.random() < silent_share else ago(0.1)
        group = chance.choice(GROUPS)
        rival_since = chance.choice((None, now - timedelta(seconds=90)))
        rows.workers[worker_id] = Worker(
            worker_id=worker_id,
            created_date=now,
            status_since=ago(4, 22, 75),
            last_heartbeat=None if chance.random() < 0.1 else beat,
            status=status,
            reason=Reason.HEARTBEAT_EXPIRED if status is StatusType.LOST else Reason.REPORTED,
            evidence=chance.choice(({}, {"held_since": now})) if status is StatusType.LOST else {},
            labels=({} if group is None else {"group": group}) | chance.choice(DRAINS),
            interval_seconds=chance.choice(INTERVALS),
            incarnation=5,
            inventory_incarnation=5,
            inventory_seq=5,
            rival_since=rival_since,
            rival_beat_at=rival_since and chance.choice((rival_since, ago(4, 22, 75))),
        )
        for instance_id in range(worker_id * 10, worker_id * 10 + 3):
            rows.put(
                ServerInstance(
                    instance_id=instance_id,
                    created_date=now,
                    status_since=ago(4, 22, 75),
                    worker_id=worker_id,
                    status=StatusType.RUNNING,
                    missing_since=chance.choice((None, ago(4, 18, 33, 75))),
                    claim_incarnation=chance.choice((4, 5)),
                    claim_seq=1,
                    claim_status=StatusType.RUNNING,
                )
            )
    rows.changed_workers.update(rows.workers)
    rows.changed_instances.update(rows.instances)
    return rows


def stored(rows: Rows) -> dict[tuple[str, int], Any]:
    """Statuses that a person sees; the reasons that the sweep gives with what they rest on."""
    return {
        (type(row).__name__, key): (
            row.status,
            row.reason,
            sorted(row.evidence) if row.reason in INFERRED else None,
        )
        for some in (rows.workers, rows.instances)
        for key, row in some.items()
    }


@pytest.mark.parametrize("silent_share", [0.05, 0.3, 0.9])
@pytest.mark.parametrize(("lag", "unbroken"), [(0.2, 3600), (2, 45), (0.2, 10)])
async def test_both_lose_the_same_and_hold_the_same(
    database: str, silent_share: Any, lag: Any, unbroken: Any
) -> None:
    chance = random.Random(f"{silent_share} {lag} {unbroken}")
    async with create_pool(database, application="test", size=2, timeout_seconds=10) as pool:
        async with pool.acquire() as connection, connection.transaction():
            now = await transaction_time(connection)
            rows = some_rows(chance, now, silent_share=silent_share)
            horizon = Horizon(now - timedelta(seconds=lag), now - timedelta(seconds=unbroken))
            await store_rows(connection, copy.deepcopy(rows))
            await connection.execute(OBSERVE, horizon.observed_through, horizon.resumed_at)
            token = await hold_lease(connection, LEASE, "test", seconds=60)
            assert isinstance(token, int)
        leadership = Leadership(pool, "test", lease_seconds=60)
        await Sweeper(
            leadership, RULES, interval_seconds=1, statistics=Statistics(), wake=lambda: None
        ).sweep(Term(pool, token))
        guards = sweep(rows, {}, horizon, at=now, rules=RULES)
        swept = Rows()
        async with pool.acquire() as connection, connection.transaction():
            await lock_workers(connection, sorted(rows.workers), swept)
            await lock_instances(connection, sorted(rows.instances), swept)
            assert await read_guards(connection) == guards
    assert stored(swept) == stored(rows)


FILL_WORKERS = """
INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since, reason, labels)
SELECT n, now(), now() - CASE WHEN n <= $2 THEN interval '100 s' ELSE interval '0 s' END, 'RUNNING',
       now() - interval '1 h', 'reported', jsonb_build_object('group', 'g' || n % $3::bigint)
  FROM generate_series(1, $1::bigint) n
"""
FILL_INSTANCES = """
INSERT INTO server_instances (instance_id, worker_id, created_date, status, status_since, reason,
    missing_since)
SELECT n, $2, now(), 'RUNNING', now() - interval '1 h', 'reported', $3 FROM generate_series(1,
    $1::bigint) n
"""
SIZES = """
SELECT count(*) FILTER (WHERE entity = 'worker') AS workers,
       count(*) FILTER (WHERE entity = 'game_server_instance') AS instances
  FROM transitions GROUP BY at ORDER BY at
"""
LOST_WORKERS = "SELECT count(*) FROM workers WHERE status = 'LOST'"
HELD = "INSERT INTO guards VALUES ($1, now() - $2 * interval '1 s', 0, 0, NULL, $3)"


class LeaderDiedError(Exception):
    pass


def dies() -> None:
    raise LeaderDiedError


@pytest.fixture
async def pool(database: str) -> AsyncIterator[Pool]:
    async with create_pool(database, application="test", size=2, timeout_seconds=60) as pool:
        await pool.execute(OBSERVE, await pool.fetchval("SELECT now()"), START)
        yield pool


async def fill(pool: Pool, workers: Any, *, silent: Any, groups: Any) -> None:
    await pool.execute(FILL_WORKERS, workers, silent, groups)


async def sweep_once(pool: Pool, *, wake: Any = lambda: None) -> None:
    """Sweep as a leader that has just begun to lead."""
    async with pool.acquire() as connection:
        await connection.execute("UPDATE leases SET expires_at = now()")
        token = await hold_lease(connection, LEASE, "test", seconds=60)
        assert isinstance(token, int)
    leadership = Leadership(pool, "test", lease_seconds=60)
    sweeper = Sweeper(leadership, RULES, interval_seconds=1, statistics=Statistics(), wake=wake)
    await sweeper.sweep(Term(pool, token))


async def sizes(pool: Pool) -> list[Any]:
    """Numbers of workers and instances in each transaction."""
    return [tuple(row) for row in await pool.fetch(SIZES)]


async def test_a_sweep_marks_many_workers_in_pieces(pool: Pool) -> None:
    await fill(pool, 2_500, silent=2_500, groups=1_250)
    await sweep_once(pool)
    assert await sizes(pool) == [(1_000, 0), (1_000, 0), (500, 0)]


async def test_a_worker_with_many_servers_is_lost_in_pieces(pool: Pool) -> None:
    await fill(pool, 1, silent=1, groups=1)
    await pool.execute(FILL_INSTANCES, 11_000, 1, None)
    await sweep_once(pool)
    assert await sizes(pool) == [(1, 5_000), (0, 5_000), (0, 1_000)]
    evidence = "SELECT DISTINCT reason, evidence ->> 'deadline' IS NOT NULL FROM server_instances"
    assert [tuple(row) for row in await pool.fetch(evidence)] == [("worker_lost", True)]


@pytest.mark.parametrize("is_missing", [True, False])
async def test_many_missing_or_abandoned_servers_end_in_pieces(pool: Pool, is_missing: Any) -> None:
    await fill(pool, 1, silent=0, groups=1)
    if not is_missing:
        await pool.execute("UPDATE workers SET status = 'COMPLETE'")
    await pool.execute(FILL_INSTANCES, 6_000, 1, START if is_missing else None)
    await sweep_once(pool)
    assert await sizes(pool) == [(0, 5_000), (0, 1_000)]


async def test_guards_of_many_groups_are_written_and_end(pool: Pool) -> None:
    await fill(pool, 4_500, silent=4_500, groups=1_500)
    await sweep_once(pool)
    assert (await pool.fetchval("SELECT count(*) FROM guards"), await sizes(pool)) == (1_500, [])
    await pool.execute("UPDATE workers SET last_heartbeat = now()")
    await sweep_once(pool)
    assert (await pool.fetchval("SELECT count(*) FROM guards"), await sizes(pool)) == (0, [])


@pytest.mark.parametrize(
    ("workers", "silent", "guard"),
    [
        pytest.param(5_000, 1_400, None, id="a quarter of the group, without a guard"),
        pytest.param(2_000, 1_400, (10, START), id="released by hand"),
        # A tenth of 20,000 is more than are left.
        pytest.param(20_000, 1_400, (61, None), id="the last of those on hold"),
    ],
)
async def test_next_leader_completes_an_interrupted_sweep(
    pool: Pool, workers: Any, silent: Any, guard: Any
) -> None:
    await fill(pool, workers, silent=silent, groups=1)
    if guard:
        await pool.execute(HELD, "g0", *guard)
    with pytest.raises(LeaderDiedError):
        await sweep_once(pool, wake=dies)
    assert await pool.fetchval(LOST_WORKERS) == 1_000
    await sweep_once(pool)
    assert await pool.fetchval(LOST_WORKERS) == silent
    assert await pool.fetchval("SELECT count(*) FROM guards") == 0


async def test_leader_that_dies_while_releasing_leaves_the_hold(
    pool: Pool,
) -> None:
    """The next one goes on at the limited rate, and does not begin the hold again."""
    await fill(pool, 12_000, silent=12_000, groups=1)
    await pool.execute(HELD, "g0", 61, None)
    before = await pool.fetchval("SELECT opened_at FROM guards")
    with pytest.raises(LeaderDiedError):
        await sweep_once(pool, wake=dies)
    assert await pool.fetchval(LOST_WORKERS) == 1_000
    await sweep_once(pool)
    assert await pool.fetchval(LOST_WORKERS) == 1_000 + 1_200
    guard = await pool.fetchrow(
        "SELECT opened_at, held, group_size, releasing_since IS NOT NULL FROM guards"
    )
    assert guard is not None
    assert tuple(guard) == (before, 12_000 - 2_200, 12_000, True)


MANY = 160_000
"""Workers whose rows fill several slices."""
SOME_BEAT = """
UPDATE workers SET last_heartbeat = now() + $1 * interval '1 s'
 WHERE worker_id % 211 <> 5 AND worker_id % 20 = $1::int % 20
"""
LATE = "SELECT worker_id FROM worker_health WHERE is_active(status) AND late_from < $1 ORDER BY 1"
NOTED = "SELECT worker_id FROM late_workers ORDER BY 1"


async def test_late_workers_of_a_large_fleet_are_known_at_once(pool: Pool) -> None:
    """Though a sweep reads only some slices of the table."""
    await pool.execute(
        "INSERT INTO workers (worker_id, created_date, last_heartbeat, status, status_since,"
        " reason, interval_seconds) SELECT n, now(), now() - (n % 97) * interval '0.1 s',"
        " 'RUNNING', now(), 'reported', 10 + n % 3 FROM generate_series(1, $1::bigint) n",
        MANY,
    )
    assert await pool.fetchval("SELECT pg_relation_size('workers') / 8192") > 2 * PAGES_AT_ONCE
    lateness = Lateness(RULES.thresholds)
    now = await pool.fetchval("SELECT max(last_heartbeat) FROM workers")
    late = 0
    async with pool.acquire() as connection:
        token = await hold_lease(connection, LEASE, "test", seconds=600)
        assert isinstance(token, int)
        for second in range(1, 25):
            await connection.execute(SOME_BEAT, second)
            horizon = Horizon(now + timedelta(seconds=second), now)
            await lateness.look(connection, Term(pool, token), horizon)
            expected = await connection.fetch(LATE, horizon.observed_through)
            assert await connection.fetch(NOTED) == expected, second
            late = max(late, len(expected))
    assert late > 1_000
