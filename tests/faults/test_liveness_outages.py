"""Monitoring breaks for longer than every timeout, and no living worker is ever LOST for it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from tests.conftest import SharedRabbitMQ
from tests.faults.liveness import Observed
from tests.fleet import INTERVAL_SECONDS, TIMEOUT_SECONDS, Fleet
from tests.kinds import Eventually, StartRole

WORKERS = 20
LONGER_THAN_EVERY_TIMEOUT = TIMEOUT_SECONDS + 2


async def all_healthy(fleet: Fleet, observed: Observed) -> bool:
    return await observed.healthy() == len(fleet.workers)


async def is_blind(observed: Observed) -> bool:
    return await observed.lag() > LONGER_THAN_EVERY_TIMEOUT


async def stays_so_for_a_timeout(fleet: Fleet, observed: Observed, eventually: Eventually) -> None:
    """All healthy, nobody lost, also when the grace after an outage is over."""
    passed = await observed.through() + timedelta(seconds=TIMEOUT_SECONDS + 1)
    await eventually(lambda: observed.has_passed(passed))
    await eventually(lambda: all_healthy(fleet, observed))
    assert await observed.lost() == []


@pytest.fixture
async def watched_fleet(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> Any:
    """One processor and a healthy fleet."""
    processor = await start_quick()
    fleet.recruit(WORKERS)
    await eventually(lambda: all_healthy(fleet, observed))
    return processor


async def test_while_the_broker_is_stopped_nobody_is_lost(
    watched_fleet: Any,
    fleet: Fleet,
    observed: Observed,
    rabbitmq: SharedRabbitMQ,
    eventually: Eventually,
) -> None:
    await asyncio.to_thread(rabbitmq.stop)
    through = await observed.through()
    await eventually(lambda: is_blind(observed))
    assert await observed.through() - through < timedelta(seconds=1)
    await asyncio.to_thread(rabbitmq.start)
    await eventually(fleet.is_connected)
    await eventually(lambda: all_healthy(fleet, observed))
    await stays_so_for_a_timeout(fleet, observed, eventually)
    assert watched_fleet.returncode is None


@pytest.mark.slow
async def test_while_the_broker_hangs_nobody_is_lost(
    watched_fleet: Any,
    fleet: Fleet,
    observed: Observed,
    rabbitmq: SharedRabbitMQ,
    eventually: Eventually,
) -> None:
    os.kill(rabbitmq.pid, signal.SIGSTOP)
    try:
        await eventually(lambda: is_blind(observed))
        await eventually(lambda: "canaries_do_not_return" in watched_fleet.log)
    finally:
        os.kill(rabbitmq.pid, signal.SIGCONT)
    await eventually(lambda: all_healthy(fleet, observed))
    await stays_so_for_a_timeout(fleet, observed, eventually)
    assert (
        watched_fleet.log.count("canaries_do_not_return")
        == watched_fleet.log.count("canaries_return")
        == 1
    )


async def test_short_cut_from_the_broker_starts_a_whole_grace(
    start_quick: StartRole,
    fleet: Fleet,
    observed: Observed,
    rabbitmq: SharedRabbitMQ,
    broker: str,
    eventually: Eventually,
) -> None:
    """Each cut may cost every worker a beat. So one that goes silent beside it is marked LOST
    later, not never."""
    grace_seconds = TIMEOUT_SECONDS + 6
    processor = await start_quick(recovery_grace_seconds=grace_seconds)
    fleet.recruit(WORKERS)
    await eventually(lambda: all_healthy(fleet, observed))
    began = await observed.through()
    await eventually(lambda: observed.has_passed(began + timedelta(seconds=grace_seconds)))
    await cut_connections(rabbitmq, broker, eventually)
    cut = await observed.value("SELECT now()")
    fleet.workers[1].beating = False
    await eventually(lambda: observed.has_passed(cut + timedelta(seconds=TIMEOUT_SECONDS + 3)))
    assert await observed.lost() == []
    await eventually(observed.lost)
    assert set(await observed.lost()) == {("worker", 1), ("game_server_instance", 1001)}
    assert await observed.value(
        "SELECT at FROM transitions WHERE new_status = 'LOST' LIMIT 1"
    ) > cut + timedelta(seconds=grace_seconds - 1)
    assert processor.log.count("was_cut_off_from_broker") == 1


async def cut_connections(rabbitmq: SharedRabbitMQ, broker: str, eventually: Eventually) -> None:
    """All of the test's virtual host, as a proxy or a network does it: both sides connect again by
    themselves."""
    virtual_host = urlsplit(broker).path[1:]
    async with httpx.AsyncClient(base_url=rabbitmq.management_url, timeout=30) as management:

        async def names() -> list[Any]:
            answer = await management.get(f"/api/vhosts/{virtual_host}/connections")
            return [connection["name"] for connection in answer.json() if "name" in connection]

        for name in await eventually(names):
            await management.delete(f"/api/connections/{quote(name)}")


async def test_after_every_processor_was_killed_nobody_is_lost(
    watched_fleet: Any,
    start_quick: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
) -> None:
    second = await start_quick()
    watched_fleet.kill()
    second.kill()
    await eventually(lambda: is_blind(observed))
    await start_quick()
    await eventually(lambda: all_healthy(fleet, observed))
    await stays_so_for_a_timeout(fleet, observed, eventually)
    assert await observed.value("SELECT count(*) FROM processors") == 1


async def test_stopped_database_loses_no_worker_and_no_event(
    watched_fleet: Any,
    fleet: Fleet,
    observed: Observed,
    postgres: EmbeddedPostgres,
    eventually: Eventually,
) -> None:
    await asyncio.to_thread(postgres.stop)
    begun = time.monotonic()
    try:
        for number, worker in fleet.workers.items():
            stays, ends = 2000 + number, 3000 + number
            worker.servers.append(stays)
            for report in (
                worker.life.server_started(stays),
                worker.life.server_started(ends),
                worker.life.server_stopped(ends, exit_code=number % 2),
            ):
                await fleet.report(report)
        await eventually(lambda: time.monotonic() - begun > LONGER_THAN_EVERY_TIMEOUT)
    finally:
        await asyncio.to_thread(postgres.start)
    await eventually(lambda: all_healthy(fleet, observed))
    await stays_so_for_a_timeout(fleet, observed, eventually)
    changes = await observed.rows(
        "SELECT entity_id, array_agg(new_status ORDER BY revision) FROM transitions WHERE entity_id"
        " > 2000 GROUP BY 1"
    )
    ended = {3000 + i: ["RUNNING", "CRASHED" if i % 2 else "COMPLETE"] for i in fleet.workers}
    assert dict(changes) == {2000 + i: ["RUNNING"] for i in fleet.workers} | ended


@pytest.mark.slow
async def test_hung_processor_stops_the_watermark_until_cut_off(
    watched_fleet: Any,
    start_quick: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
) -> None:
    await start_quick()
    fleet.beat_every = (
        INTERVAL_SECONDS  # every other beat is given to the one that hangs, and none is spare
    )
    os.kill(watched_fleet.pid, signal.SIGSTOP)
    try:
        through = await observed.through()
        await eventually(lambda: is_blind(observed))
        assert await observed.through() - through < timedelta(seconds=1)
        assert await observed.lost() == []
        await eventually(lambda: all_healthy(fleet, observed), within_seconds=40)
    finally:
        os.kill(watched_fleet.pid, signal.SIGCONT)
    await eventually(lambda: registered(observed, 2))
    await stays_so_for_a_timeout(fleet, observed, eventually)


async def registered(observed: Observed, number: int) -> bool:
    return await observed.value("SELECT count(*) FROM processors") == number


SLEEP = (
    "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.4);"
    " RETURN NULL; END'"
)
SLOW = "CREATE TRIGGER slow AFTER UPDATE ON workers EXECUTE FUNCTION sleep()"


@pytest.mark.slow
async def test_slow_processor_marks_only_the_dead_lost(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    # An observation that moves every second or two is slow, not broken: no grace may hide what is
    # concluded.
    await start_quick(batch_max_events=20, minimum_timeout_seconds=TIMEOUT_SECONDS)
    fleet.beat_every = INTERVAL_SECONDS
    fleet.recruit(300)
    await eventually(lambda: all_healthy(fleet, observed))
    # Each worker's beats are now stored further apart than its timeout, and later and later.
    await observed.rows(SLEEP)
    await observed.rows(SLOW)
    fleet.workers[7].go_silent()
    await eventually(lambda: is_blind(observed))
    await observed.rows("DROP TRIGGER slow ON workers")
    await eventually(observed.lost)
    passed = await observed.through() + timedelta(seconds=TIMEOUT_SECONDS + 1)
    await eventually(lambda: observed.has_passed(passed))
    assert await observed.lost() == [("game_server_instance", 1007), ("worker", 7)]
    assert await observed.healthy() == 299
