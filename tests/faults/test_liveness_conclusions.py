"""Real silence leads to LOST, and a sign of life lifts it again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx

from tests.faults.liveness import Observed
from tests.fleet import TIMEOUT_SECONDS, DatedWorker, Fleet, MinimalWorker, Worker
from tests.kinds import Eventually, StartRole
from tests.messaging import Publisher


async def test_only_the_killed_one_of_a_thousand_is_lost(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    await start_quick()
    fleet.beat_every = 1.0
    fleet.recruit(1000)
    fleet.workers[500].servers += [7001, 7002]

    async def all_healthy() -> Any:
        return await observed.healthy() == 1000 and await observed.value(
            "SELECT count(*) = 1002 FROM server_instances"
        )

    await eventually(all_healthy)
    fleet.workers[500].go_silent()
    await eventually(observed.lost)
    passed = await observed.through() + timedelta(seconds=TIMEOUT_SECONDS)
    await eventually(lambda: observed.has_passed(passed))
    servers = [("game_server_instance", instance_id) for instance_id in (1500, 7001, 7002)]
    assert await observed.lost() == [*servers, ("worker", 500)]
    assert await observed.worker(500) == ("LOST", "heartbeat_expired")
    assert await observed.server(7001) == ("LOST", "worker_lost")

    async def all_others_healthy() -> bool:
        return await observed.healthy() == 999

    await eventually(all_others_healthy)


async def test_silent_worker_is_late_then_lost_then_recovers(
    start_quick: StartRole,
    start_api: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
) -> None:
    """The summary agrees, from what the leader's sweep keeps."""
    await start_quick()
    api = await start_api(default_interval_seconds=1, minimum_timeout_seconds=1, answer_cache_ms=0)
    fleet.recruit(3)

    async def health_of_one(*expected: Any) -> bool:
        async with httpx.AsyncClient(base_url=api.url, timeout=60) as http:
            system = (await http.get("/status/system")).json()["workers"]
        healths = ("healthy", "late", "unhealthy")
        listed = await observed.value("SELECT count(*) FROM late_workers")
        return (*(system[health] for health in healths), listed) == expected

    await eventually(lambda: health_of_one(3, 0, 0, 0))
    fleet.workers[1].go_silent()
    await eventually(lambda: health_of_one(2, 1, 0, 1))
    await eventually(lambda: health_of_one(2, 0, 1, 0))
    assert await observed.worker(1) == ("LOST", "heartbeat_expired")
    fleet.workers[1].go_on()
    await eventually(lambda: health_of_one(3, 0, 0, 0))


async def test_clocks_that_are_an_hour_off_make_no_difference(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    await start_quick()
    hour = timedelta(hours=1)
    offs = [-hour, timedelta(0), hour]
    fleet.add(*(Worker(number, clock_off=off) for number, off in enumerate(offs, 1)))
    fleet.add(*(DatedWorker(number, clock_off=off) for number, off in enumerate(offs, 4)))

    async def healthy() -> bool:
        return await observed.healthy() == len(fleet.workers)

    async def all_lost() -> bool:
        return len(await observed.lost()) == len(fleet.workers)

    await eventually(healthy)
    passed = await observed.through() + timedelta(seconds=TIMEOUT_SECONDS)
    await eventually(lambda: observed.has_passed(passed))
    assert await observed.lost() == []
    for worker in fleet.workers.values():
        worker.go_silent()
    await eventually(all_lost)
    for worker in fleet.workers.values():
        worker.start()
    await eventually(healthy)


async def test_lost_worker_recovers_with_the_servers_it_lists(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    await start_quick()
    worker = Worker(1, servers=[11, 12, 13])
    fleet.add(worker)
    await eventually(lambda: observed.server(13))
    worker.go_silent()
    await eventually(lambda: is_so(observed.worker(1), "LOST", "heartbeat_expired"))
    assert await observed.server(11) == ("LOST", "worker_lost")
    worker.servers.remove(13)
    worker.go_on()
    await eventually(lambda: is_so(observed.worker(1), "RUNNING", "recovered"))
    await eventually(lambda: is_so(observed.server(11), "RUNNING", "recovered"))
    assert await observed.server(12) == ("RUNNING", "recovered")
    assert await observed.server(13) == ("LOST", "worker_lost")
    await eventually(lambda: is_so(observed.server(13), "CRASHED", "missing_from_inventory"))
    [evidence] = await observed.rows(
        "SELECT at - (evidence ->> 'missing_since')::timestamptz AS missing FROM transitions"
        " WHERE entity_id = 13 AND new_status = 'CRASHED'"
    )
    assert evidence["missing"] >= timedelta(seconds=TIMEOUT_SECONDS)


async def is_so(query: Any, *expected: Any) -> bool:
    return await query == expected


async def test_server_missing_from_a_new_incarnation_is_superseded(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    await start_quick()
    worker = Worker(1, servers=[11, 12])
    fleet.add(worker)
    await eventually(lambda: observed.server(12))
    worker.servers.remove(11)
    worker.start()
    await eventually(lambda: is_so(observed.server(11), "CRASHED", "superseded"))
    assert await observed.server(12) == ("RUNNING", "reported")
    assert await observed.lost() == []


async def test_the_next_life_supersedes_what_a_lost_life_left_behind(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    await start_quick()
    worker = Worker(1, servers=[11])
    fleet.add(worker)
    await eventually(lambda: observed.server(11))
    worker.go_silent()
    await eventually(lambda: is_so(observed.server(11), "LOST", "worker_lost"))
    worker.start()
    worker.go_silent()
    worker.servers = [12]
    await fleet.report(worker.life.worker_started())
    await eventually(lambda: is_so(observed.worker(1), "RUNNING", "recovered"))
    worker.go_on()
    await eventually(lambda: is_so(observed.server(11), "CRASHED", "superseded"))
    assert await observed.server(12) == ("RUNNING", "reported")


async def test_server_left_by_a_stopped_worker_has_crashed(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    """The worker stopped normally without reporting its server."""
    await start_quick()
    worker = Worker(1)
    fleet.add(worker)
    await fleet.report(worker.life.server_started(11), worker.life.server_started(12))
    worker.servers = [11, 12]
    await eventually(lambda: observed.server(12))
    worker.go_silent()
    await fleet.report(worker.life.server_stopped(12), worker.life.worker_stopped())
    await eventually(lambda: is_so(observed.server(11), "CRASHED", "worker_lost"))
    assert await observed.server(12) == ("COMPLETE", "graceful")
    assert await observed.worker(1) == ("COMPLETE", "graceful")
    assert await observed.lost() == []


async def test_worker_without_inventory_recovers_its_servers(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    await start_quick()
    worker = MinimalWorker(1)
    fleet.add(worker)
    await fleet.report(worker.life.server_started(11), worker.life.server_started(12))
    await eventually(lambda: observed.server(12))
    await eventually(observed.healthy)
    worker.go_silent()
    await eventually(lambda: is_so(observed.server(12), "LOST", "worker_lost"))
    await fleet.report(worker.life.server_stopped(12))
    await eventually(lambda: is_so(observed.server(12), "COMPLETE", "graceful"))
    worker.go_on()
    await eventually(lambda: is_so(observed.worker(1), "RUNNING", "recovered"))
    assert await observed.server(11) == ("RUNNING", "recovered")
    assert await observed.server(12) == ("COMPLETE", "graceful")


async def test_worker_without_heartbeats_is_never_lost(
    start_quick: StartRole,
    publish: Publisher,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
) -> None:
    await start_quick()
    said = {
        "entity_type": "worker",
        "identifier": "9",
        "as_of": "2026-11-23T08:00:00Z",
        "status_type": "RUNNING",
    }
    await publish(said, "worker.9.status")
    await publish(
        {"command_type": "SERVER_STARTED", "command_args": ["31", "8"]},
        "game_server_instance.31.lifecycle",
    )
    await eventually(lambda: observed.worker(9))
    fleet.add(Worker(1))
    await eventually(lambda: observed.worker(1))
    fleet.workers[1].go_silent()
    await eventually(observed.lost)
    assert await observed.lost() == [("worker", 1)]
    assert await observed.worker(9) == ("RUNNING", "reported")
    assert await observed.server(31) == ("RUNNING", "reported")
