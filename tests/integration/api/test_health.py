"""Health in SQL and health in Python are the same rules."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from manman_status.domain.fleet import ObservationState
from manman_status.domain.liveness import Thresholds
from manman_status.domain.status import Health, StatusType
from manman_status.processor.leader.lateness import LAST_PAGE
from manman_status.store.lateness import Pages, add_late, forget_late, note_swept, scan_workers
from manman_status.store.reads import WorkerFilters, list_workers
from manman_status.store.sweep import overdue_workers, read_horizon
from manman_status.store.system_reads import read_fleet
from manman_status.store.thresholds import write_thresholds
from tests.model.health import health, observation_state

if TYPE_CHECKING:
    import httpx

    from manman_status.store.pool import Connection
    from tests.integration.api.conftest import Rows

DEFAULTS = Thresholds()
ODD = Thresholds(
    default_interval_seconds=9.0,
    minimum_timeout_seconds=17.0,
    recovery_grace_seconds=41.0,
    degraded_after_seconds=1.0,
    blind_after_seconds=29.0,
)
INTERVALS = (None, 1.0, 2.0, 4.9, 5.0, 10.0, 60.0, 3600.0)
# Around every edge that some interval has, on both sides of it.
AGES = tuple(
    edge + side for edge in (1.5, 3, 7.5, 15, 30, 90, 180, 5400, 10800) for side in (-0.4, 0.4)
)


async def everybody(rows: Rows) -> dict[int, tuple[StatusType, float | None, float | None]]:
    """One worker of each status, interval and age of its last heartbeat."""
    fleet = dict(enumerate(itertools.product(StatusType, INTERVALS, (None, -5.0, *AGES)), start=1))
    for worker_id, (status, interval, age) in fleet.items():
        await rows.worker(worker_id, status=status, interval_seconds=interval, beat_seconds_ago=age)
    return fleet


OBSERVATIONS = [
    {"lag": 0.0},
    {"lag": 29.9},
    {"lag": 30.1},
    {"lag": None},
    # Within the grace of all, of those with long timeouts only, and of none.
    {"lag": 2.0, "unbroken": 29.9},
    {"lag": 2.0, "unbroken": 30.1},
    {"lag": 2.0, "unbroken": 179.9},
    {"lag": 2.0, "unbroken": 180.1},
]


async def note_late(connection: Connection) -> None:
    """Note late workers as a leader does when it sweeps."""
    horizon = await read_horizon(connection)
    if horizon is not None:
        await forget_late(connection, horizon, limit=100_000)
        through = horizon.observed_through
        scanned = await scan_workers(connection, Pages(0, LAST_PAGE), soon=through)
        await add_late(connection, horizon, scanned.worker_ids)
        await note_swept(connection, horizon, scanned.oldest_heartbeat)


@pytest.mark.parametrize("thresholds", [DEFAULTS, ODD], ids=["defaults", "odd"])
@pytest.mark.parametrize("is_swept", [False, True])
@pytest.mark.parametrize("observation", OBSERVATIONS, ids=str)
async def test_sql_python_and_the_sweep_judge_every_worker_alike(
    observation: dict[str, Any], is_swept: bool, thresholds: Thresholds, rows: Rows
) -> None:
    """Health comes from the rows, and from what the leader's sweep and the triggers keep."""
    async with rows.connection.transaction():
        await write_thresholds(rows.connection, thresholds)
        # now() stands still in a transaction, so the edges are where the rows were put.
        rows.now = await rows.connection.fetchval("SELECT now()")
        await rows.observe(**observation)
        lag = observation["lag"]
        rows.now = rows.ago(lag or 0.0)
        fleet = await everybody(rows)
        if is_swept:
            await note_late(rows.connection)
        judged: dict[int, Health] = {}
        for wanted in Health:
            page = await list_workers(
                rows.connection,
                WorkerFilters(health=wanted),
                after=0,
                limit=len(fleet),
            )
            ids = await rows.connection.fetch(
                "SELECT (unnest($1::text[])::json ->> 'worker_id')::bigint AS id", page.items
            )
            judged |= {row["id"]: wanted for row in ids}
        numbers = await read_fleet(rows.connection)
        await note_late(rows.connection)
        condemned = await condemned_by_the_sweep(rows)
    state = observation_state(lag, thresholds)
    assert numbers.observation.state is state
    expected = {
        worker_id: health(
            status,
            None if age is None else rows.now - timedelta(seconds=age),
            state=state,
            observed_through=None if lag is None else rows.now,
            resumed_at=None if lag is None else rows.ago(observation.get("unbroken") or 86_400.0),
            interval_seconds=interval,
            thresholds=thresholds,
        )
        for worker_id, (status, interval, age) in fleet.items()
    }
    assert judged == expected
    unhealthy = {worker_id for worker_id, found in expected.items() if found is Health.UNHEALTHY}
    overdue = {worker_id for worker_id in unhealthy if fleet[worker_id][0] is not StatusType.LOST}
    if state is ObservationState.BLIND:
        assert not overdue
    else:
        assert overdue == condemned
    assert numbers.workers_by_health == {
        wanted: list(expected.values()).count(wanted) for wanted in Health
    }


async def condemned_by_the_sweep(rows: Rows) -> set[int]:
    horizon = await read_horizon(rows.connection)
    if horizon is None:
        return set()
    overdue = await overdue_workers(rows.connection, horizon, limit=10_000)
    return {worker.worker_id for worker in overdue}


@pytest.mark.parametrize("interval", INTERVALS)
async def test_the_deadline_is_the_one_that_python_computes(
    interval: float | None, rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.worker(1, interval_seconds=interval)
    seconds = interval or DEFAULTS.default_interval_seconds
    worker = (await http.get("/status/workers/1")).json()
    expected = rows.now + timedelta(seconds=DEFAULTS.timeout(interval))
    assert worker["deadline"] == expected.isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert worker["interval_seconds"] == seconds


@pytest.mark.parametrize(
    ("status", "beat_seconds_ago", "health", "reason", "has_deadline"),
    [
        ("RUNNING", 0.0, "healthy", "reported", True),
        ("RUNNING", 20.0, "late", "reported", True),
        ("RUNNING", 40.0, "unhealthy", "reported", True),
        ("RUNNING", None, "unknown", "never_beat", False),
        ("LOST", 40.0, "unhealthy", "reported", True),
        ("COMPLETE", 0.0, "terminated", "reported", False),
        ("CRASHED", None, "terminated", "reported", False),
    ],
)
async def test_what_is_shown_of_a_worker(
    status: str,
    beat_seconds_ago: float | None,
    health: str,
    reason: str,
    has_deadline: bool,
    rows: Rows,
    http: httpx.AsyncClient,
) -> None:
    await rows.worker(1, status=status, beat_seconds_ago=beat_seconds_ago)
    worker = (await http.get("/status/workers")).json()["items"][0]
    assert (worker["health"], worker["reason"], worker["status"]) == (health, reason, status)
    assert worker["is_healthy"] == (health == "healthy")
    assert (worker["deadline"] is not None) == has_deadline


async def test_while_nobody_sweeps_each_worker_is_judged_at_the_answer(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    """And while somebody does, nobody who has become late since is looked for."""

    async def late() -> tuple[int, int]:
        workers = (await http.get("/status/workers?health=late")).json()["items"]
        return (await http.get("/status/system")).json()["workers"]["late"], len(workers)

    await rows.worker(1)
    await note_late(rows.connection)
    await rows.worker(2, beat_seconds_ago=20)
    assert await late() == (0, 0)
    await note_late(rows.connection)
    assert await late() == (1, 1)
    await rows.worker(3, beat_seconds_ago=20)
    await rows.connection.execute(
        "UPDATE sweeps SET swept_through = swept_through - interval '11 s'"
    )
    assert await late() == (2, 2)


async def test_late_worker_that_ended_since_the_sweep_counts_once(
    rows: Rows, http: httpx.AsyncClient
) -> None:
    await rows.worker(1, beat_seconds_ago=20)
    await note_late(rows.connection)
    await rows.connection.execute("UPDATE workers SET status = 'COMPLETE'")
    workers = (await http.get("/status/system")).json()["workers"]
    assert workers == {
        "total_active": 0,
        "healthy": 0,
        "late": 0,
        "unhealthy": 0,
        "unknown": 0,
        "terminated": 1,
    }
    assert (await http.get("/status/workers?health=late")).json()["items"] == []
