"""An operator is notified of trouble once, with its cause, and never because the observer itself
was ill."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import aio_pika
import msgspec
import pytest

from manman_status.dev.postgres import EmbeddedPostgres
from manman_status.dev.rabbitmq import EmbeddedRabbitMQ
from manman_status.wire.control import AlertAcknowledged, SilenceEnded, SilenceRequested
from tests.conftest import consumers
from tests.faults.liveness import Observed
from tests.fleet import INTERVAL_SECONDS, Fleet, Worker
from tests.kinds import Eventually, FetchRows, ProcessTree, Role, StartRole
from tests.messaging import Publisher

SERVERS = list(range(1001, 1041))


@pytest.fixture
def start_notifying(start_quick: StartRole, sink: Any) -> StartRole:
    """Starts a processor that notifies the sink, after bursts of a second."""

    async def start(**settings: Any) -> Any:
        return await start_quick(**{"notify_urls": sink.url, "notify_wait_seconds": 1, **settings})

    return start


@pytest.fixture
def dies(broker: str, eventually: Eventually) -> Any:
    """SIGKILL, and until the broker has noticed."""

    async def nobody_consumes() -> bool:
        return not any(
            [
                await consumers(broker, f"manman.status.{name}.0")
                for name in ("heartbeats", "lifecycle")
            ]
        )

    async def kill(processor: Role) -> None:
        processor.kill()
        await eventually(nobody_consumes)

    return kill


async def all_healthy(fleet: Fleet, observed: Observed) -> bool:
    return await observed.healthy() == len(fleet.workers)


async def open_keys(observed: Observed) -> list[Any]:
    rows = await observed.rows("SELECT key FROM alerts WHERE resolved_at IS NULL ORDER BY alert_id")
    return [row["key"] for row in rows]


async def none_open(observed: Observed) -> bool:
    return not await open_keys(observed)


async def is_judged_past(observed: Observed, time: Any) -> Any:
    return await observed.value("SELECT judged_at > $1 FROM alert_progress", time)


def worker_said(worker_id: int, status: Any) -> dict[str, Any]:
    """Its StatusInfo, as of now."""
    now = datetime.now(UTC).isoformat()
    return {
        "entity_type": "worker",
        "identifier": str(worker_id),
        "status_type": status,
        "as_of": now,
    }


async def test_lost_worker_is_notified_once_and_resolved_once(
    start_notifying: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any
) -> None:
    """Its 40 servers are part of its alert."""
    await start_notifying()
    fleet.add(Worker(7, servers=SERVERS, group="eu-1"), *(Worker(i) for i in range(1, 5)))
    await eventually(lambda: all_healthy(fleet, observed))
    fleet.workers[7].go_silent()
    await eventually(lambda: len(sink.messages) == 1)
    assert sink.titles[0] == "[critical] eu-1: worker 7 is silent, and 40 of its servers with it"
    assert "look at its host" in sink.messages[0]["message"]
    fleet.workers[7].go_on()
    await eventually(lambda: len(sink.messages) == 2)
    assert sink.titles[1] == "[over] eu-1: worker 7 is silent, and 40 of its servers with it"
    assert sink.messages[1]["type"] == "success"
    await eventually(lambda: none_open(observed))
    assert len(sink.messages) == 2


async def test_channel_of_critical_alerts_gets_their_end_too(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    publish: Publisher,
    tmp_path: Path,
) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text(f'[channels.night]\nurls = ["{sink.url}"]\nseverities = ["critical"]\n')
    await start_notifying(notify_urls="", notify_routes_file=routes)
    fleet.add(Worker(7, servers=SERVERS), *(Worker(i) for i in range(1, 5)))
    await eventually(lambda: all_healthy(fleet, observed))
    fleet.workers[7].go_silent()
    await eventually(lambda: len(sink.messages) == 1)
    await publish(worker_said(7, "CRASHED"), "worker.7.status")

    async def is_judged() -> Any:
        sql = """SELECT judged_revision >= (SELECT revision FROM transitions WHERE entity = 'worker'
                                             AND entity_id = 7
                                             AND new_status = 'CRASHED') FROM alert_progress"""
        return await observed.value(sql)

    await eventually(is_judged)
    fleet.workers[7].start()
    await eventually(lambda: len(sink.messages) == 2)
    alert = "worker 7 is silent, and 40 of its servers with it"
    assert sink.titles == [f"[critical] {alert}", f"[over] {alert}"]


async def test_what_a_lost_worker_left_behind_is_no_crash_of_its_own(
    start_notifying: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any
) -> None:
    await start_notifying()
    fleet.add(Worker(7, servers=SERVERS), *(Worker(i) for i in range(1, 5)))
    await eventually(lambda: all_healthy(fleet, observed))
    fleet.workers[7].go_silent()
    await eventually(lambda: len(sink.messages) == 1)
    fleet.workers[7].servers = []
    fleet.workers[7].start()

    async def all_superseded() -> bool:
        sql = "SELECT count(*) FROM server_instances WHERE reason = 'superseded'"
        return await observed.value(sql) == len(SERVERS)

    await eventually(all_superseded)
    await eventually(lambda: len(sink.messages) == 2)
    await eventually(lambda: none_open(observed))
    assert await observed.value("SELECT count(*) FROM alerts") == 1


async def test_crashed_worker_is_one_alert_with_its_servers(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    publish: Publisher,
) -> None:
    await start_notifying()
    fleet.add(Worker(7, servers=SERVERS), *(Worker(i) for i in range(1, 5)))
    await eventually(lambda: all_healthy(fleet, observed))
    fleet.workers[7].go_silent()
    await publish(worker_said(7, "CRASHED"), "worker.7.status")

    async def servers_are_part_of_it() -> bool:
        sql = """SELECT count(*) FROM alerts JOIN alerts cause ON cause.alert_id = alerts.part_of
                  WHERE cause.key = 'worker_lost:7' AND cause.severity = 'critical'"""
        return await observed.value(sql) == len(SERVERS)

    await eventually(servers_are_part_of_it)
    await eventually(
        lambda: [
            title for title in sink.titles if "crashed, and 40 of its servers with it" in title
        ]
    )
    fleet.workers[7].servers = []
    fleet.workers[7].start()
    await eventually(lambda: none_open(observed))
    await eventually(
        lambda: sink.titles[-1] == "[over] worker 7 crashed, and 40 of its servers with it"
    )
    assert len(sink.messages) in {
        2,
        3,
    }, "as a warning, if that came first; as critical; and its end"
    assert await observed.value("SELECT count(*) FROM alerts WHERE part_of IS NULL") == 1


GUARDED = {"guard_percent": 30, "guard_release_percent": 50, "canary_interval_seconds": 0.5}
"""An observer that stands still for a second does not let go of them, to hold them again."""


async def test_half_of_a_group_lost_is_one_incident(
    start_notifying: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any
) -> None:
    """It stays one, whether its workers are marked LOST, return or stay silent."""
    await start_notifying(guard_hold_seconds=2, **GUARDED)
    fleet.beat_every = INTERVAL_SECONDS
    fleet.recruit(20, group="eu")
    fleet.add(Worker(50, group="us"))
    await eventually(lambda: all_healthy(fleet, observed))
    for number in range(1, 11):
        fleet.workers[number].go_silent()

    async def all_lost() -> bool:
        return len([each for each in await observed.lost() if each[0] == "worker"]) == 10

    await eventually(all_lost)

    async def all_are_part_of_it() -> bool:
        sql = """SELECT count(*) FROM alerts part JOIN alerts a ON a.alert_id = part.part_of
                 WHERE part.rule = 'worker_lost' AND a.rule = 'fleet_guard'"""
        return await observed.value(sql) == 10

    await eventually(all_are_part_of_it)
    fleet.workers[50].go_silent()  # notified later than the parts would be
    await eventually(lambda: sink.titles[-1:] == ["[warning] us: worker 50 is silent"])
    assert "of group eu fell silent at once" in sink.titles[0]
    assert len(sink.messages) == 2
    for number in range(1, 11):
        fleet.workers[number].go_on()

    async def incident_is_over() -> bool:
        return await open_keys(observed) == ["worker_lost:50"]

    await eventually(incident_is_over)
    await eventually(lambda: len(sink.messages) == 3)
    assert sink.messages[2]["type"] == "success"


async def test_a_worker_that_never_returns_hides_nothing_of_its_group(
    start_notifying: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any
) -> None:
    await start_notifying(guard_hold_seconds=1, **GUARDED)
    fleet.beat_every = INTERVAL_SECONDS
    fleet.recruit(10, group="eu")
    await eventually(lambda: all_healthy(fleet, observed))
    for number in (1, 2, 3, 4):
        fleet.workers[number].go_silent()

    async def all_are_part_of_it() -> bool:
        sql = "SELECT count(*) FROM alerts WHERE rule = 'worker_lost' AND part_of IS NOT NULL"
        return await observed.value(sql) == 4

    await eventually(all_are_part_of_it)
    await eventually(lambda: len(sink.messages) == 1)
    for number in (2, 3, 4):
        fleet.workers[number].go_on()

    async def one_is_missing() -> bool:
        return len(await open_keys(observed)) == 2

    await eventually(one_is_missing)
    fleet.workers[9].go_silent()
    await eventually(
        lambda: (
            sink.titles[1:] == ["[critical] eu: worker 9 is silent, and 1 of its servers with it"]
        )
    )
    fleet.workers[9].go_on()
    await eventually(lambda: len(sink.messages) == 3)
    for number in (2, 3, 4, 5):
        fleet.workers[number].go_silent()
    await eventually(lambda: len(sink.messages) == 4)
    assert ["of group eu fell silent at once" in title for title in sink.titles] == [
        True,
        False,
        False,
        True,
    ]


async def outage_is_one_alert_about_the_observer(
    fleet: Fleet,
    observed: Observed,
    rabbitmq: EmbeddedRabbitMQ,
    eventually: Eventually,
    sink: Any,
    *,
    seconds: float,
) -> None:
    await eventually(lambda: all_healthy(fleet, observed))
    await asyncio.to_thread(rabbitmq.stop)

    async def outage_lasted() -> bool:
        return await observed.lag() > seconds

    try:
        await eventually(outage_lasted, within_seconds=seconds + 10)
    finally:
        await asyncio.to_thread(rabbitmq.start)
    await eventually(fleet.is_connected)
    await eventually(lambda: none_open(observed))
    await eventually(lambda: sink.messages and sink.messages[-1]["type"] == "success")
    [opened, over] = sink.titles
    assert opened.startswith("[critical] the observer is blind")
    assert over.startswith("[over] the observer is blind")
    assert await observed.value("SELECT count(*) FROM alerts") == 1
    assert await observed.lost() == []


async def test_an_outage_of_the_broker_is_one_alert_about_the_observer(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    rabbitmq: EmbeddedRabbitMQ,
    eventually: Eventually,
    sink: Any,
) -> None:
    await start_notifying(degraded_after_seconds=1, blind_after_seconds=4)
    fleet.recruit(10)
    await outage_is_one_alert_about_the_observer(
        fleet, observed, rabbitmq, eventually, sink, seconds=8
    )


@pytest.mark.slow
async def test_a_minute_without_broker_is_one_alert_about_the_observer(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    rabbitmq: EmbeddedRabbitMQ,
    eventually: Eventually,
    sink: Any,
) -> None:
    """The default thresholds notify once: as late first, or as blind at once."""
    await start_notifying(notify_wait_seconds=20)
    fleet.recruit(10)
    await outage_is_one_alert_about_the_observer(
        fleet, observed, rabbitmq, eventually, sink, seconds=60
    )


async def test_leader_that_died_before_notifying_is_replaced_once(
    start_notifying: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any
) -> None:
    """The next leader notifies, and no alert is notified twice."""
    first = await start_notifying(notify_wait_seconds=4)
    second = await start_notifying(notify_wait_seconds=4)
    fleet.add(*(Worker(i, servers=[1000 + i]) for i in range(1, 6)))
    await eventually(lambda: all_healthy(fleet, observed))
    fleet.workers[1].go_silent()

    async def is_opened() -> bool:
        return await open_keys(observed) == ["worker_lost:1"]

    await eventually(is_opened)
    assert sink.messages == []
    leader = await observed.value("SELECT holder FROM leases WHERE name = 'leader'")
    for processor in (first, second):
        if leader in processor.log:
            processor.kill()
    await eventually(lambda: len(sink.messages) == 1)
    fleet.workers[1].go_on()
    await eventually(lambda: len(sink.messages) == 2)
    assert await observed.value("SELECT count(*) FROM alerts") == 1


async def test_next_leader_sends_no_notification_again(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    dies: Any,
) -> None:
    first = await start_notifying()
    fleet.add(*(Worker(i) for i in range(1, 6)))
    await eventually(lambda: all_healthy(fleet, observed))
    fleet.workers[1].go_silent()
    await eventually(lambda: len(sink.messages) == 1)

    async def is_marked() -> Any:
        return await observed.value(
            "SELECT count(*) FROM deliveries WHERE channel <> 'broker' AND told_at IS NOT NULL"
        )

    await eventually(is_marked)
    await dies(first)
    await start_notifying()
    fleet.workers[2].go_silent()
    await eventually(lambda: len(sink.messages) == 2)
    assert [title.count("worker 1") for title in sink.titles] == [1, 0]


async def test_a_silenced_group_stays_quiet_and_says_so(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    publish: Publisher,
    rows: FetchRows,
) -> None:
    await start_notifying()
    await publish.control(
        SilenceRequested(silence_id="maintenance1", seconds=3600, why="new switches", group="eu")
    )
    fleet.add(*(Worker(i, group="eu" if i < 3 else "us") for i in range(1, 11)))
    await eventually(lambda: all_healthy(fleet, observed))
    fleet.workers[1].go_silent()
    fleet.workers[10].go_silent()
    await eventually(lambda: len(sink.messages) == 1)
    assert sink.titles == ["[warning] us: worker 10 is silent"]

    async def both_are_open() -> bool:
        return set(await open_keys(observed)) == {"worker_lost:1", "worker_lost:10"}

    await eventually(both_are_open)
    await publish.control(SilenceEnded("maintenance1"))
    await eventually(lambda: len(sink.messages) == 2)
    assert sink.titles[1] == "[warning] eu: worker 1 is silent"


async def test_silenced_alerts_are_published_on_the_broker(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    publish: Publisher,
    broker: str,
) -> None:
    await start_notifying()
    silence = SilenceRequested(silence_id="quiet", seconds=3600, why="test", worker_id=1)
    await publish.control(silence)
    connection = await aio_pika.connect(broker)
    channel = await connection.channel()
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind("external_service_events", routing_key="alert.#")
    fleet.add(*(Worker(i, servers=[1000 + i]) for i in range(1, 6)))
    await eventually(lambda: all_healthy(fleet, observed))
    received = []

    async def listen() -> Any:
        while message := await queue.get(no_ack=True, fail=False):
            received.append((message.routing_key, msgspec.json.decode(message.body)))
        return received

    fleet.workers[1].go_silent()
    await eventually(listen)
    fleet.workers[1].go_on()

    async def both() -> bool:
        return len(await listen()) == 2

    await eventually(both)
    assert [key for key, _ in received] == ["alert.critical.worker_lost"] * 2
    assert [(body["state"], body["silenced_by"], body["worker_id"]) for _, body in received] == [
        ("open", "quiet", 1),
        ("resolved", "quiet", 1),
    ]
    await connection.close()


async def test_a_worker_that_is_drained_may_end(
    start_notifying: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any
) -> None:
    await start_notifying()
    drained = Worker(1, group="eu")
    drained.life.set_label("drain", "true")
    fleet.add(drained, *(Worker(i, group="eu") for i in range(2, 11)))
    await eventually(lambda: all_healthy(fleet, observed))
    drained.go_silent()
    fleet.workers[2].go_silent()
    await eventually(lambda: len(sink.messages) == 1)
    assert ("worker", 1) in await observed.lost()
    assert await observed.value("SELECT count(*) FROM alerts") == 1
    assert sink.titles == ["[warning] eu: worker 2 is silent"]


async def test_much_of_a_group_that_is_drained_may_end(
    start_notifying: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any
) -> None:
    await start_notifying(guard_percent=30, guard_hold_seconds=600)
    fleet.add(*(Worker(i, group="eu") for i in range(1, 11)))
    for number in range(1, 5):
        fleet.workers[number].life.set_label("drain", "true")
    await eventually(lambda: all_healthy(fleet, observed))
    for number in range(1, 5):
        fleet.workers[number].go_silent()

    async def are_lost() -> bool:
        return sorted(await observed.lost()) == [("worker", number) for number in range(1, 5)]

    await eventually(are_lost)
    fleet.workers[5].go_silent()
    await eventually(lambda: sink.messages)
    assert sink.titles == ["[warning] eu: worker 5 is silent"]
    assert await observed.value("SELECT count(*) FROM alerts") == 1


async def test_failing_channel_delays_no_other_and_catches_up(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    start_sink: Any,
) -> None:
    good, refusing, hanging = start_sink(), start_sink(), start_sink()
    refusing.refuses = True
    hanging.hangs.set()
    processor = await start_notifying(notify_urls=f"{hanging.url} {refusing.url} {good.url}")
    fleet.add(*(Worker(i) for i in range(1, 6)))
    await eventually(lambda: all_healthy(fleet, observed))
    fleet.workers[1].go_silent()
    await eventually(lambda: len(good.messages) == 1)
    await eventually(lambda: refusing.attempts > 1 and hanging.attempts > 0)
    refusing.refuses = False
    hanging.hangs.clear()
    hanging.free.set()
    await eventually(lambda: len(refusing.messages) == 1 and hanging.messages)
    assert len(good.messages) == 1
    assert "notification_failed" in processor.log


async def test_pager_opens_and_resolves_each_alert(
    start_notifying: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any
) -> None:
    await start_notifying(
        notify_urls=sink.pager_url, notify_per_hour=2
    )  # bursts: the deaths and the returns
    fleet.add(*(Worker(i) for i in range(1, 11)))
    await eventually(lambda: all_healthy(fleet, observed))

    def incidents() -> tuple[Any, Any]:
        opened = {message["dedup"] for message in sink.messages if "action" not in message}
        return opened, {
            message["dedup"] for message in sink.messages if message.get("action") == "close"
        }

    silent = range(1, 4)
    for number in silent:
        fleet.workers[number].go_silent()
    await eventually(lambda: len(sink.messages) == len(silent))
    opened, closed = incidents()
    assert ({key.partition(" #")[0] for key in opened}, closed) == (
        {f"worker_lost:{n}" for n in silent},
        set(),
    )
    for number in silent:
        fleet.workers[number].go_on()
    await eventually(lambda: incidents() == (opened, opened))
    assert len(sink.messages) == 2 * len(silent)


async def test_a_channel_that_hangs_does_not_hold_up_the_end(
    start_notifying: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any
) -> None:
    sink.hangs.set()
    processor = await start_notifying()
    fleet.add(*(Worker(i) for i in range(1, 6)))
    await eventually(lambda: all_healthy(fleet, observed))
    fleet.workers[1].go_silent()
    await eventually(lambda: sink.attempts)
    processor.stop(within_seconds=10)


async def test_what_was_acknowledged_is_not_reminded_of(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    publish: Publisher,
) -> None:
    await start_notifying(notify_remind_seconds=2)
    fleet.add(*(Worker(i) for i in range(1, 6)))
    await eventually(lambda: all_healthy(fleet, observed))
    fleet.workers[1].go_silent()
    await eventually(lambda: len(sink.messages) >= 3)
    assert "(still)" in sink.messages[1]["message"]
    alert_id = await observed.value("SELECT alert_id FROM alerts")
    await publish.control(AlertAcknowledged(alert_id, "ops", "on it"))

    async def is_acknowledged() -> bool:
        return await observed.value("SELECT state FROM alerts") == "acknowledged"

    await eventually(is_acknowledged)
    newest = await observed.value("SELECT max(told_at) FROM deliveries WHERE channel <> 'broker'")
    fleet.workers[2].go_silent()  # notified beside it: the channel was looked at since

    def second_is_notified() -> list[Any]:
        return [message for message in sink.messages if "worker 2" in message["message"]]

    await eventually(second_is_notified)
    marks = "SELECT told_at FROM deliveries WHERE channel <> 'broker' AND alert_id = $1"
    assert await observed.value(marks, alert_id) - newest <= timedelta(seconds=3)


async def test_crashes_of_one_config_are_one_crash_loop(
    start_notifying: StartRole, fleet: Fleet, observed: Observed, eventually: Eventually, sink: Any
) -> None:
    await start_notifying()
    fleet.add(*(Worker(i, group="eu") for i in range(1, 6)))
    await eventually(lambda: all_healthy(fleet, observed))
    for number in range(1, 6):
        life = fleet.workers[number].life
        await fleet.report(
            life.server_started(100 + number, game_server_config_id=3),
            life.server_stopped(100 + number, exit_code=137),
        )
    await eventually(lambda: sink.messages)

    async def all_are_part_of_it() -> bool:
        sql = (
            "SELECT count(*) FROM alerts WHERE part_of = (SELECT alert_id FROM alerts WHERE rule ="
            " 'crash_loop')"
        )
        return await observed.value(sql) >= 1

    await eventually(all_are_part_of_it)
    said = "servers of config 3 crash again and again"
    await eventually(lambda: any(said in message["message"] for message in sink.messages))
    assert await open_keys(observed) != []


async def test_a_loop_is_silenced_with_its_worker_until_it_spreads(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    publish: Publisher,
) -> None:
    await start_notifying()
    silence = SilenceRequested(silence_id="memory", seconds=3600, why="new memory", worker_id=1)
    await publish.control(silence)
    fleet.add(*(Worker(i, group="eu" if i == 1 else "us") for i in range(1, 6)))
    await eventually(lambda: all_healthy(fleet, observed))

    async def crash(instance_id: int, on: Any) -> None:
        life = fleet.workers[on].life
        await fleet.report(
            life.server_started(instance_id, game_server_config_id=3),
            life.server_stopped(instance_id, exit_code=137),
        )

    for instance_id in (101, 102, 103):
        await crash(instance_id, on=1)

    async def loops() -> bool:
        return "crash_loop:config:3" in await open_keys(observed)

    await eventually(loops)
    fleet.workers[5].go_silent()
    await eventually(lambda: sink.messages)
    assert sink.titles == ["[warning] us: worker 5 is silent"]
    await crash(104, on=2)
    await eventually(
        lambda: [title for title in sink.titles[1:] if "4 crashes within 10 minutes" in title]
    )
    assert (
        await observed.value("SELECT group_name FROM alerts WHERE key = 'crash_loop:config:3'")
        is None
    )


async def test_resolution_follows_an_alert_that_changed_its_group(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    rows: FetchRows,
    tmp_path: Path,
) -> None:
    """A channel that was notified gets the resolution, whatever its routes match then."""
    routes = tmp_path / "routes.toml"
    routes.write_text(f'[channels.us]\nurls = ["{sink.url}"]\ngroups = ["us"]\n')
    await start_notifying(notify_urls="", notify_routes_file=routes)
    fleet.add(*(Worker(i, group="us") for i in range(1, 6)))
    await eventually(lambda: all_healthy(fleet, observed))
    fleet.workers[1].go_silent()
    await eventually(lambda: len(sink.messages) == 1)
    await rows("UPDATE alerts SET group_name = 'eu' RETURNING 1")
    fleet.workers[1].go_on()
    await eventually(lambda: len(sink.messages) == 2)
    assert sink.messages[1]["type"] == "success"


async def test_dead_letters_are_notified_until_they_are_removed(
    start_notifying: StartRole,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    publish: Publisher,
    dead_letters: Callable[..., Awaitable[Any]],
) -> None:
    await start_notifying()
    await publish({"command_type": "NONSENSE"}, "worker.1.lifecycle")
    await eventually(lambda: sink.titles == ["[warning] 1 dead letter in the queue"])
    assert len(await dead_letters()) == 1
    await eventually(
        lambda: sink.titles[1:] == ["[over] 1 dead letter in the queue"], within_seconds=60
    )


async def test_time_without_any_processor_is_notified_with_its_length(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    eventually: Eventually,
    sink: Any,
    rows: FetchRows,
    dies: Any,
) -> None:
    first = await start_notifying()
    fleet.add(*(Worker(i) for i in range(1, 6)))
    await eventually(lambda: all_healthy(fleet, observed))
    await dies(first)
    await rows(
        "UPDATE alert_progress SET judged_at = judged_at - interval '10 minutes' RETURNING 1"
    )
    await start_notifying()
    await eventually(lambda: sink.messages)
    assert sink.titles[0].startswith("[critical] no processor was at work for 6")
    assert await observed.lost() == []


async def test_short_database_hang_is_no_time_without_a_processor(
    start_notifying: StartRole,
    fleet: Fleet,
    observed: Observed,
    postgres: EmbeddedPostgres,
    process_tree: ProcessTree,
    eventually: Eventually,
    sink: Any,
) -> None:
    await start_notifying(lease_seconds=15, degraded_after_seconds=20)
    fleet.add(*(Worker(i) for i in range(1, 6)))
    await eventually(lambda: all_healthy(fleet, observed))
    pids = [*process_tree(postgres.pid)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(9.5)  # shorter than any time-out
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    judged_at = await observed.value("SELECT clock_timestamp()")
    for _ in range(2):  # the look that hung, and the one after its pause
        await eventually(partial(is_judged_past, observed, judged_at), within_seconds=60)
        judged_at = await observed.value("SELECT judged_at FROM alert_progress")
    assert await observed.rows("SELECT key FROM alerts") == []
