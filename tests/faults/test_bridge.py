"""ManMan's workers beat into its own database: a bridge makes them watched, and when it fails,
monitoring has failed and nobody has died."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.faults.liveness import Observed
from tests.kinds import Eventually, FetchRows, StartRole
from tests.manman import ManMan, report
from tests.messaging import Publisher

TIMEOUT_SECONDS = 6.0
"""Three of the intervals that the bridge announces."""
FAILS_SECONDS = 2 * TIMEOUT_SECONDS


async def is_watched(observed: Observed, worker_id: int) -> bool:
    health = await observed.rows("SELECT health FROM worker_health WHERE worker_id = $1", worker_id)
    return [row["health"] for row in health] == ["healthy"]


@pytest.fixture
async def left_alone(
    start_quick: StartRole,
    start_bridge: StartRole,
    manman: ManMan,
    observed: Observed,
    eventually: Eventually,
) -> int:
    """A worker that beats on after its bridge was stopped."""
    await start_quick()
    bridge = await start_bridge()
    worker = await manman.start_worker()
    await eventually(lambda: is_watched(observed, worker))
    assert bridge.stop(within_seconds=10) == 0
    return worker


async def test_a_worker_s_life_is_seen_from_its_rows(
    start_quick: StartRole,
    start_bridge: StartRole,
    manman: ManMan,
    publish: Publisher,
    observed: Observed,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    """Healthy with its servers; killed, LOST with them; ended by the next life, COMPLETE, and they
    CRASHED."""
    await start_quick()
    await start_bridge()
    worker = await manman.start_worker()
    for word in ("CREATED", "INITIALIZING", "RUNNING"):
        await report(publish, "worker", worker, word, datetime.now(UTC).isoformat())
    await manman.start_server(worker)
    await eventually(lambda: is_watched(observed, worker))
    of_server = "SELECT status, reason, worker_id, game_server_config_id FROM server_instances"

    async def server_is(*expected: Any) -> bool:
        return [tuple(row.values()) for row in await rows(of_server)] == [(*expected, worker, 3)]

    await eventually(lambda: server_is("RUNNING", "reported"))
    assert (await rows("SELECT labels FROM workers"))[0]["labels"] == {"host": "manman"}

    manman.kill(worker)
    await eventually(lambda: server_is("LOST", "worker_lost"))
    assert await observed.worker(worker) == ("LOST", "heartbeat_expired")

    resolution = "SELECT resolution FROM alerts WHERE rule = 'worker_lost'"
    await eventually(lambda: rows(f"{resolution} AND resolved_at IS NULL"))
    following = await manman.start_worker()
    await eventually(lambda: is_watched(observed, following))
    await eventually(lambda: rows(f"{resolution} AND resolved_at IS NOT NULL"))
    assert await observed.worker(worker) == ("COMPLETE", "graceful")
    await eventually(lambda: server_is("CRASHED", "worker_lost"))


async def test_ends_of_the_bridge_s_absence_are_found(
    left_alone: int,
    start_bridge: StartRole,
    manman: ManMan,
    observed: Observed,
    eventually: Eventually,
) -> None:
    await manman.end("workers", "worker_id", left_alone)
    await start_bridge()

    async def has_ended() -> bool:
        return bool(await observed.worker(left_alone) == ("COMPLETE", "graceful"))

    await eventually(has_ended)
    assert await observed.lost() == []


async def test_servers_that_end_are_complete(
    start_quick: StartRole,
    start_bridge: StartRole,
    manman: ManMan,
    observed: Observed,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    await start_quick()
    await start_bridge()
    worker = await manman.start_worker()
    server = await manman.start_server(worker)
    await eventually(lambda: rows("SELECT FROM server_instances WHERE status = 'RUNNING'"))
    await manman.end("game_server_instances", "game_server_instance_id", server)
    await eventually(lambda: rows("SELECT FROM server_instances WHERE status = 'COMPLETE'"))


@pytest.mark.parametrize("fault", ["frozen", "killed", "database hangs", "database refuses"])
async def test_a_bridge_that_fails_is_nobody_s_death(
    fault: str,
    start_quick: StartRole,
    start_bridge: StartRole,
    manman: ManMan,
    observed: Observed,
    proxy: Any,
    eventually: Eventually,
) -> None:
    """The observation stands still and names the bridge, and goes on by itself; a worker that died
    meanwhile is found afterwards."""
    await start_quick()
    to_manman = await proxy(manman.url)
    bridge = await start_bridge(manman_database_url=to_manman.url)
    worker = await manman.start_worker()
    await eventually(lambda: is_watched(observed, worker))
    match fault:
        case "frozen":
            os.kill(bridge.pid, signal.SIGSTOP)
        case "killed":
            bridge.kill()
        case "database hangs":
            to_manman.mute()
        case "database refuses":
            await to_manman.refuse()
    stood_at = await observed.through()
    await asyncio.sleep(FAILS_SECONDS)
    assert (await observed.through() - stood_at).total_seconds() < TIMEOUT_SECONDS
    [[slowest]] = await observed.rows(
        "SELECT name FROM bridges WHERE observed_through < now() - interval '5 s'"
    )
    assert slowest == "manman"
    match fault:
        case "frozen":
            os.kill(bridge.pid, signal.SIGCONT)
        case "killed":
            await start_bridge(manman_database_url=to_manman.url)
        case "database hangs":
            to_manman.speak()
        case "database refuses":
            await to_manman.start()
    await eventually(lambda: is_watched(observed, worker))
    await asyncio.sleep(TIMEOUT_SECONDS)
    assert await observed.lost() == []
    manman.kill(worker)
    await eventually(lambda: _is_lost(observed, worker))


async def _is_lost(observed: Observed, worker_id: int) -> bool:
    return ("worker", worker_id) in await observed.lost()


async def test_of_two_bridges_one_leads_and_the_other_follows(
    start_quick: StartRole,
    start_bridge: StartRole,
    manman: ManMan,
    observed: Observed,
    eventually: Eventually,
) -> None:
    await start_quick()
    first = await start_bridge()
    await eventually(lambda: "bridge_started" in first.log)
    second = await start_bridge()
    worker = await manman.start_worker()
    await eventually(lambda: is_watched(observed, worker))
    assert "bridge_started" not in second.log
    first.kill()
    await eventually(lambda: "bridge_started" in second.log)
    await eventually(lambda: is_watched(observed, worker))
    await asyncio.sleep(TIMEOUT_SECONDS)
    assert await observed.lost() == []


async def test_statuses_are_written_for_manman_s_readers(
    start_quick: StartRole,
    start_bridge: StartRole,
    manman: ManMan,
    publish: Publisher,
    observed: Observed,
    eventually: Eventually,
) -> None:
    """They have the form of ManMan's own status processor; one that ManMan does not know is left
    out."""
    await start_quick()
    bridge = await start_bridge(write_status_info="true")
    await eventually(lambda: "bridge_started" in bridge.log)
    worker = await manman.start_worker()
    server = await manman.start_server(worker)
    for unknown in (4711, 2**40):
        await report(publish, "worker", unknown, "RUNNING", "2026-11-23T08:00:00Z")
    await eventually(lambda: is_watched(observed, worker))

    async def written(key: str, number: int, *expected: tuple[str, str]) -> bool:
        return await manman.statuses(key, number) == [*expected]

    await eventually(lambda: written("worker_id", worker, ("worker", "RUNNING")))
    manman.kill(worker)
    lost = ("StatusEventProcessor", "LOST")
    await eventually(lambda: written("worker_id", worker, ("worker", "RUNNING"), lost))
    running = ("game_server_instance", "RUNNING")
    await eventually(lambda: written("game_server_instance_id", server, running, lost))


async def test_a_bridge_that_is_removed_holds_up_nothing(
    left_alone: int, observed: Observed, database: str, eventually: Eventually
) -> None:
    await eventually(lambda: _is_behind(observed))
    removing = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "manman_status", "bridge", "remove", "manman"),
        env={**os.environ, "MANMAN_STATUS_DATABASE_URL": database},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await removing.communicate()
    assert said == b"the observation no longer waits for bridge manman\n"
    await eventually(lambda: _is_lost(observed, left_alone))


async def _is_behind(observed: Observed) -> bool:
    return bool(await observed.lag() > 3)
