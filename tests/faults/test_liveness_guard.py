"""Much of a group silent at once: held, then lost little by little, unless a person or the workers
say otherwise."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from manman_status.wire.control import GuardReleased
from tests.faults.liveness import Observed
from tests.fleet import INTERVAL_SECONDS, Fleet, Worker
from tests.kinds import Eventually, StartRole
from tests.messaging import Publisher

HOLD_SECONDS = 8
SILENT = [1, 3, 6, 8, 11, 13, 16, 18]
"""40 % of the group `eu`, which is 1 to 20. Their deadlines are spread over several sweeps."""

GUARDS = "SELECT group_name, held, group_size FROM guards"


@pytest.fixture
async def start_guarded(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> StartRole:
    """Starts a processor that holds at 30 %, and two groups."""

    async def start(**settings: Any) -> Any:
        processor = await start_quick(guard_percent=30, **settings)
        fleet.beat_every = INTERVAL_SECONDS
        fleet.recruit(20, group="eu")
        fleet.add(*(Worker(i, group="us") for i in range(21, 31)))

        await eventually(lambda: all_healthy(observed, 30))
        return processor

    return start


async def all_healthy(observed: Observed, number: int) -> bool:
    return await observed.healthy() == number


def go_silent(fleet: Fleet) -> None:
    for number in SILENT:
        fleet.workers[number].go_silent()


async def held(observed: Observed) -> list[Any]:
    return [tuple(row) for row in await observed.rows(GUARDS)]


async def all_held(observed: Observed) -> bool:
    return await held(observed) == [("eu", len(SILENT), 20)]


async def is_open(observed: Observed) -> bool:
    return not await held(observed)


def lost_workers(lost: Any) -> list[Any]:
    return [number for entity, number in lost if entity == "worker"]


async def all_lost(observed: Observed) -> bool:
    return sorted(lost_workers(await observed.lost())) == SILENT


async def test_after_the_hold_they_are_lost_at_the_limited_rate(
    start_guarded: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    processor = await start_guarded(guard_hold_seconds=HOLD_SECONDS)
    go_silent(fleet)
    await eventually(lambda: all_held(observed))
    assert await observed.lost() == []
    opened = await observed.value("SELECT opened_at FROM guards")
    await eventually(lambda: all_lost(observed))
    await eventually(lambda: is_open(observed))
    sweeps = Counter(
        row["at"]
        for row in await observed.rows(
            "SELECT at FROM transitions WHERE entity = 'worker' AND new_status = 'LOST'"
        )
    )
    assert min(sweeps) >= opened + timedelta(seconds=HOLD_SECONDS)
    assert set(sweeps.values()) == {2}, "10 % of 20 a sweep"
    # Notified once, and again only where the observer stood still and began anew.
    await eventually(
        lambda: processor.log.count("fleet_guard_holds") == processor.log.count("fleet_guard_ended")
    )
    await eventually(lambda: all_healthy(observed, 30 - len(SILENT)))


@pytest.mark.slow
async def test_a_held_group_does_not_hold_another_one(
    start_guarded: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    await start_guarded(guard_hold_seconds=600)
    go_silent(fleet)
    await eventually(lambda: all_held(observed))
    fleet.workers[21].go_silent()
    await eventually(observed.lost)
    assert await observed.lost() == [("worker", 21)]
    assert await all_held(observed)


@pytest.mark.slow
async def test_a_person_releases_all_at_once(
    start_guarded: StartRole,
    fleet: Fleet,
    publish: Publisher,
    observed: Observed,
    eventually: Eventually,
) -> None:
    await start_guarded(guard_hold_seconds=600)
    go_silent(fleet)
    await eventually(lambda: all_held(observed))
    await publish.control(GuardReleased("us"))
    await publish.control(GuardReleased("eu"))
    await eventually(lambda: all_lost(observed))
    assert await is_open(observed)
    at = "SELECT count(DISTINCT at) FROM transitions WHERE new_status = 'LOST'"
    assert await observed.value(at) == 1


@pytest.mark.slow
async def test_workers_that_return_open_the_guard_and_were_never_lost(
    start_guarded: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    await start_guarded(guard_hold_seconds=600)
    go_silent(fleet)
    await eventually(lambda: all_held(observed))
    for number in SILENT:
        fleet.workers[number].go_on()
    await eventually(lambda: is_open(observed))
    assert await observed.lost() == []


@pytest.mark.slow
async def test_rest_is_held_until_the_hold_ends_when_most_return(
    start_guarded: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    await start_guarded(guard_hold_seconds=HOLD_SECONDS)
    go_silent(fleet)
    await eventually(lambda: all_held(observed))
    opened = await observed.value("SELECT opened_at FROM guards")
    for number in SILENT[:5]:
        fleet.workers[number].go_on()
    await eventually(lambda: is_open(observed))
    assert sorted(lost_workers(await observed.lost())) == SILENT[5:]
    first = await observed.value("SELECT min(at) FROM transitions WHERE new_status = 'LOST'")
    assert first >= opened + timedelta(seconds=HOLD_SECONDS)


async def test_two_workers_are_too_few_to_hold(
    start_quick: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually
) -> None:
    await start_quick(guard_percent=30)
    fleet.recruit(2)
    await eventually(lambda: observed.worker(2))
    for worker in fleet.workers.values():
        worker.go_silent()
    await eventually(lambda: both_lost(observed))


async def both_lost(observed: Observed) -> bool:
    return sorted(lost_workers(await observed.lost())) == [1, 2]
