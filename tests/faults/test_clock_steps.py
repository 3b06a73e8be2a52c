"""The database's clock steps, as by NTP or a failover to a server whose clock differs: PostgreSQL
under libfaketime."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest

from tests.faults.liveness import QUICK, Observed
from tests.faults.stepping import needs_libfaketime
from tests.fleet import TIMEOUT_SECONDS, Fleet, MinimalWorker
from tests.kinds import Eventually, StartRole

pytestmark = needs_libfaketime

HOUR = 3600
GRACE_SECONDS = 6
SETTINGS = {"recovery_grace_seconds": GRACE_SECONDS, "lease_seconds": 3}
PROMPTLY_SECONDS = 60
"""Far less than the hour by which the clock steps, for a machine that stands still now and then."""


@pytest.fixture
def database(stepping_database: str) -> str:
    return stepping_database


@pytest.fixture
async def system(start_api: StartRole) -> AsyncIterator[Any]:
    """Queries an api with the settings of these tests for `/status/system`."""
    api = await start_api(**(QUICK | SETTINGS))
    async with httpx.AsyncClient(base_url=api.url, timeout=60) as client:

        async def query() -> Any:
            return (await client.get("/status/system")).raise_for_status().json()

        yield query


@pytest.fixture
def all_healthy(fleet: Fleet, observed: Observed, eventually: Eventually) -> Any:
    async def healthy() -> bool:
        return await observed.healthy() == len(fleet.workers)

    return lambda: eventually(healthy)


def steps_found(*processors: Any) -> Any:
    return sum(role.log.count('"event": "database_clock_stepped"') for role in processors)


async def has_recovered(system: Any) -> Any:
    observation = (await system())["observation"]
    return observation["state"] == "ok" and observation["reason"] is None


async def test_dead_worker_is_lost_after_a_step_back(
    start_quick: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    clock: Any,
    system: Any,
    all_healthy: Any,
) -> None:
    """Monitoring was degraded by the step and says so."""
    processors = [await start_quick(**SETTINGS), await start_quick(**SETTINGS)]
    fleet.recruit(5)
    fleet.add(MinimalWorker(6))
    await all_healthy()
    clock.step_to(-HOUR)
    stepped = time.monotonic()
    fleet.workers[1].go_silent()
    fleet.workers[6].go_silent()

    async def degraded() -> Any:
        found = (await system())["observation"]
        return found["state"] == "degraded" and found

    found = await eventually(degraded, within_seconds=PROMPTLY_SECONDS)
    assert found["reason"] == "clock_stepped"
    assert found["clock_step"]["seconds"] == pytest.approx(-HOUR, abs=2)
    await eventually(lambda: lost_workers(observed, 1, 6), within_seconds=PROMPTLY_SECONDS)
    assert time.monotonic() - stepped > GRACE_SECONDS
    await eventually(lambda: has_recovered(system), within_seconds=PROMPTLY_SECONDS)
    passed = await observed.through() + timedelta(seconds=2 * TIMEOUT_SECONDS)
    await eventually(lambda: observed.has_passed(passed), within_seconds=PROMPTLY_SECONDS)
    assert await lost_workers(observed, 1, 6)
    assert steps_found(*processors) == 1


async def lost_workers(observed: Observed, *expected: Any) -> bool:
    """True when exactly these workers were ever LOST."""
    lost = {entity_id for entity, entity_id in await observed.lost() if entity == "worker"}
    assert lost <= set(expected)
    return lost == set(expected)


async def test_a_step_forward_is_no_outage(
    start_quick: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    clock: Any,
    system: Any,
    all_healthy: Any,
) -> None:
    processors = [await start_quick(**SETTINGS), await start_quick(**SETTINGS)]
    fleet.recruit(5)
    await all_healthy()
    await observed.rows(
        "INSERT INTO silences (silence_id, created_at, ends_at, created_by, why)"
        " VALUES ('muted', now(), now() + interval '30 min', '', 'test')"
    )
    clock.step_to(HOUR)
    await eventually(lambda: steps_found(*processors), within_seconds=PROMPTLY_SECONDS)
    passed = await observed.through() + timedelta(seconds=GRACE_SECONDS + 2 * TIMEOUT_SECONDS)
    await eventually(lambda: observed.has_passed(passed), within_seconds=PROMPTLY_SECONDS)
    await eventually(lambda: has_recovered(system), within_seconds=PROMPTLY_SECONDS)
    assert await observed.lost() == []
    assert await observed.rows("SELECT began_at, ended_at FROM observation_gaps") == []
    rules = {row["rule"] for row in await observed.rows("SELECT rule FROM alerts")}
    assert rules == {"clock_stepped"}
    assert await observed.value("SELECT ends_at > now() + interval '20 min' FROM silences")
    fleet.workers[1].go_silent()
    await eventually(lambda: lost_workers(observed, 1), within_seconds=PROMPTLY_SECONDS)
    assert steps_found(*processors) == 1


async def test_dead_leader_is_replaced_after_a_step_back(
    start_quick: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    clock: Any,
    all_healthy: Any,
) -> None:
    leader = await start_quick(**SETTINGS)
    await eventually(lambda: '"event": "leading"' in leader.log)
    second = await start_quick(**SETTINGS)
    fleet.recruit(3)
    await all_healthy()
    os.kill(leader.pid, signal.SIGSTOP)
    clock.step_to(-HOUR)
    leader.kill()
    assert await observed.value("SELECT expires_at > now() + interval '50 min' FROM leases")
    await eventually(lambda: '"event": "leading"' in second.log, within_seconds=PROMPTLY_SECONDS)
    fleet.workers[1].go_silent()
    await eventually(lambda: lost_workers(observed, 1), within_seconds=PROMPTLY_SECONDS)


async def test_first_processor_finds_a_step_back_of_meanwhile(
    start_quick: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    clock: Any,
    system: Any,
    all_healthy: Any,
) -> None:
    """The clock stepped back while no processor ran."""
    first = await start_quick(**SETTINGS)
    fleet.recruit(3)
    await all_healthy()
    first.kill()
    clock.step_to(-HOUR)
    # Nobody has seen it yet, but nothing is called well either.
    assert (await system())["observation"]["state"] == "blind"
    second = await start_quick(**SETTINGS)
    fleet.workers[1].go_silent()
    await eventually(lambda: steps_found(second), within_seconds=PROMPTLY_SECONDS)
    await eventually(lambda: lost_workers(observed, 1), within_seconds=PROMPTLY_SECONDS)
    await eventually(lambda: has_recovered(system), within_seconds=PROMPTLY_SECONDS)


async def test_what_cannot_date_itself_still_counts_after_a_step_back(
    start_quick: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    clock: Any,
    all_healthy: Any,
    broker: str,
) -> None:
    """Its reports are ordered by the database's clock."""
    processor = await start_quick(**SETTINGS)
    await publish_plain(broker, "worker.1.lifecycle", "WORKER_STARTED", "1")
    fleet.add(MinimalWorker(1))
    await all_healthy()
    clock.step_to(-HOUR)
    await eventually(lambda: steps_found(processor), within_seconds=PROMPTLY_SECONDS)
    settled = "SELECT clock_steps = 1 AND clock_steps_settled = 1 FROM observation"
    await eventually(lambda: observed.value(settled), within_seconds=PROMPTLY_SECONDS)
    fleet.workers[1].go_silent()
    await publish_plain(broker, "worker.1.lifecycle", "WORKER_STOPPED", "1")
    await eventually(lambda: is_complete(observed), within_seconds=PROMPTLY_SECONDS)


async def is_complete(observed: Observed) -> bool:
    return await observed.worker(1) == ("COMPLETE", "graceful")


async def publish_plain(broker: str, key: Any, command: Any, *arguments: Any) -> None:
    import aio_pika
    import msgspec

    body = msgspec.json.encode({"command_type": command, "command_args": arguments})
    async with await aio_pika.connect(broker) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("internal_service_events", ensure=False)
        await exchange.publish(aio_pika.Message(body), key)
