"""One sweeps at a time: another follows when it is killed or hangs, and what it had in hand is not
written."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from tests.faults.liveness import Observed
from tests.fleet import TIMEOUT_SECONDS, Fleet
from tests.kinds import Eventually, StartRole

UNHURRIED = {"lease_seconds": 3, "minimum_timeout_seconds": 6}
"""The lease as it is by default, and timeouts that are longer than what another needs to follow."""


def is_leading(role: Any) -> bool:
    return '"event": "leading"' in role.log


@pytest.fixture
async def leader(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> Any:
    """The leader of a fleet of five."""
    leader = await start_quick(**UNHURRIED)
    await eventually(lambda: is_leading(leader))
    fleet.recruit(5)
    await eventually(lambda: all_healthy(fleet, observed))
    return leader


async def all_healthy(fleet: Fleet, observed: Observed) -> bool:
    return await observed.healthy() == len(fleet.workers)


async def deadline(observed: Observed, worker_id: int, timeout_seconds: Any) -> Any:
    """Time at which it is overdue, once its last heartbeat is stored."""
    last = "SELECT last_heartbeat FROM workers WHERE worker_id = $1"
    return await observed.value(last, worker_id) + timedelta(seconds=timeout_seconds)


LOST = [("game_server_instance", 1001), ("worker", 1)]


async def test_killed_leader_is_replaced_and_nobody_is_lost_twice(
    leader: Any, start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    second = await start_quick(**UNHURRIED)
    fleet.workers[1].go_silent()
    due = await deadline(observed, 1, UNHURRIED["minimum_timeout_seconds"]) - timedelta(seconds=0.5)
    await eventually(lambda: observed.has_passed(due))
    leader.kill()
    await eventually(lambda: is_leading(second))
    await eventually(observed.lost)
    await eventually(lambda: one_processor(observed))
    await eventually(lambda: others_healthy(fleet, observed))
    assert await observed.lost() == LOST


async def one_processor(observed: Observed) -> bool:
    return await observed.value("SELECT count(*) FROM processors") == 1


async def others_healthy(fleet: Fleet, observed: Observed) -> bool:
    return await observed.healthy() == len(fleet.workers) - 1


BLOCKED = "SELECT 1 FROM pg_stat_activity WHERE $1 = ANY(pg_blocking_pids(pid))"


@pytest.mark.slow
async def test_hung_leader_is_replaced_and_writes_nothing_later(
    leader: Any,
    start_quick: StartRole,
    fleet: Fleet,
    observed: Observed,
    database: str,
    eventually: Eventually,
) -> None:
    """It hangs between its statements and finds its lease gone when it wakes."""
    await start_quick(**UNHURRIED)
    blocker = await asyncpg.connect(database)
    fleet.workers[1].go_silent()
    passed = await observed.value("SELECT now()")
    await eventually(lambda: observed.has_passed(passed))
    await blocker.execute("BEGIN; SELECT FROM workers WHERE worker_id = 1 FOR UPDATE")
    # Until it has checked its lease, and waits for the worker's row.
    await eventually(lambda: observed.rows(BLOCKED, blocker.get_server_pid()))
    os.kill(leader.pid, signal.SIGSTOP)
    try:
        await blocker.close()
        await eventually(observed.lost)
    finally:
        os.kill(leader.pid, signal.SIGCONT)
    passed = await observed.through() + timedelta(seconds=2)
    await eventually(lambda: observed.has_passed(passed))
    assert await observed.lost() == LOST
    assert await observed.healthy() == 4


@pytest.mark.slow
async def test_a_leader_whose_lease_ran_out_unnoticed_writes_nothing(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    """The leader slept. The next one sweeps rarely, to distinguish the writes of both."""
    first = await start_quick(lease_seconds=60)
    second = await start_quick(sweep_interval_seconds=7)
    fleet.recruit(5)
    await eventually(lambda: all_healthy(fleet, observed))
    assert is_leading(first)
    await observed.rows("UPDATE leases SET expires_at = now()")
    await eventually(lambda: is_leading(second))
    fleet.workers[1].go_silent()
    due = await deadline(observed, 1, TIMEOUT_SECONDS)
    await eventually(lambda: observed.has_passed(due + timedelta(seconds=1.5)))
    assert await observed.lost() == []
    await eventually(observed.lost)
    assert await observed.lost() == LOST
