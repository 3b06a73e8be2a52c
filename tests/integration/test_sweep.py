"""The sweep over the database and the one over rows in memory conclude alike."""

from __future__ import annotations

import copy
import random
from datetime import timedelta

import pytest

from manman_status.domain.guard import GuardRules
from manman_status.domain.rows import Rows, ServerInstance, Worker
from manman_status.domain.status import INFERRED, Reason, StatusType
from manman_status.domain.sweep import Horizon, SweepRules, sweep
from manman_status.pipeline.leadership import LEASE, Leadership
from manman_status.pipeline.statistics import Statistics
from manman_status.pipeline.sweep import Sweeper
from manman_status.store.leases import hold_lease
from manman_status.store.pool import create_pool
from manman_status.store.sweep import read_guards
from manman_status.store.writes import lock_instances, lock_workers, store_rows, transaction_time

RULES = SweepRules(
    default_interval=10,
    minimum_timeout=15,
    grace=30,
    guard=GuardRules(minimum_workers=3, percent=30, hold_seconds=60, release_percent=10),
)
WORKERS = 60
GROUPS = (None, "eu-1", "eu-2")
DRAINS = ({}, {}, {"drain": "true"}, {"drain": "Off"})
INTERVALS = (None, 1.0, 5.0, 20.0)
STATUSES = (StatusType.RUNNING, StatusType.RUNNING, StatusType.RUNNING, StatusType.LOST, StatusType.COMPLETE)
OBSERVE = "UPDATE observation SET observed_through = $1, resumed_at = $2, advanced_at = $1"


def some_rows(chance, now, *, silent_share):
    """No time of theirs is within two seconds of an edge: the database's clock goes on while it sweeps."""

    def ago(*seconds):
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


def told(rows):
    """What a person sees of all of them; the reasons that the sweep gives with what they rest on."""
    return {
        (type(row).__name__, key): (row.status, row.reason, sorted(row.evidence) if row.reason in INFERRED else None)
        for some in (rows.workers, rows.instances)
        for key, row in some.items()
    }


@pytest.mark.parametrize("silent_share", [0.05, 0.3, 0.9])
@pytest.mark.parametrize(("lag", "unbroken"), [(0.2, 3600), (2, 45), (0.2, 10)])
async def test_both_lose_the_same_and_hold_the_same(database, silent_share, lag, unbroken):
    chance = random.Random(f"{silent_share} {lag} {unbroken}")
    async with create_pool(database, application="test", size=2, timeout_seconds=10) as pool:
        async with pool.acquire() as connection, connection.transaction():
            now = await transaction_time(connection)
            rows = some_rows(chance, now, silent_share=silent_share)
            horizon = Horizon(now - timedelta(seconds=lag), now - timedelta(seconds=unbroken))
            await store_rows(connection, copy.deepcopy(rows))
            await connection.execute(OBSERVE, horizon.observed_through, horizon.resumed_at)
            token = await hold_lease(connection, LEASE, "test", seconds=60)
        leadership = Leadership(pool, "test", lease_seconds=60)
        await Sweeper(pool, leadership, RULES, interval_seconds=1, statistics=Statistics(), wake=lambda: None).sweep(
            token
        )
        guards = sweep(rows, {}, horizon, at=now, rules=RULES)
        swept = Rows()
        async with pool.acquire() as connection, connection.transaction():
            await lock_workers(connection, sorted(rows.workers), swept)
            await lock_instances(connection, sorted(rows.instances), swept)
            assert await read_guards(connection) == guards
    assert told(swept) == told(rows)
