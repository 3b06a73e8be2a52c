"""Reports of a worker, before anything is sent."""

from __future__ import annotations

import logging
import threading
from typing import Any, cast

import pytest

from manman_status.domain.events import (
    Heartbeat,
    ServerStarted,
    ServerStopped,
    WorkerStarted,
    WorkerStopped,
)
from manman_status.reporter import InvalidReport, StatusReporter
from manman_status.reporter.life import WorkerLife
from manman_status.wire.inbound import decode

NOWHERE = "amqp://guest:guest@127.0.0.1:9/"


def a_life(worker_id: int = 7, **options: Any) -> Any:
    defaults = {
        "interval_seconds": 10,
        "labels": None,
        "heartbeats": True,
        "inventory": True,
        "outbox_size": 100,
    }
    return WorkerLife(worker_id, **{**defaults, **options})


def understood(report: Any) -> Any:
    [event] = decode(report.body).events
    return event


def waiting(life: Any) -> list[Any]:
    return [understood(report) for _, report in life.oldest(10_000)]


def listed(life: Any) -> list[Any]:
    return [entry.instance_id for entry in understood(life.heartbeat()).servers.list_entries()]


def test_events_wait_in_order_and_are_numbered() -> None:
    life = a_life()
    life.begin()
    life.start_server(31, 3)
    life.stop_server(31, 137)
    life.end()
    started, running, stopped, ended = waiting(life)
    assert [type(event) for event in waiting(life)] == [
        WorkerStarted,
        ServerStarted,
        ServerStopped,
        WorkerStopped,
    ]
    assert (running.instance_id, running.worker_id, running.game_server_config_id) == (31, 7, 3)
    assert stopped.exit_code == 137
    assert started.seq < running.seq < stopped.seq < ended.seq
    assert {event.incarnation for event in waiting(life)} == {life.incarnation}


def test_a_heartbeat_lists_what_runs_and_nothing_else() -> None:
    life = a_life()
    for instance_id in (31, 32, 33):
        life.start_server(instance_id, None)
    life.stop_server(32, 0)
    assert listed(life) == [31, 33]
    beat = understood(life.heartbeat())
    assert isinstance(beat, Heartbeat)
    assert beat.interval_seconds == 10


def test_drained_worker_keeps_its_other_labels() -> None:
    given = {"group": "eu-1"}
    life = a_life(labels=given)
    life.drain()
    assert understood(life.heartbeat()).labels == {"group": "eu-1", "drain": "true"}
    assert given == {"group": "eu-1"}


def test_heartbeat_without_inventory_names_no_servers() -> None:
    life = a_life(inventory=False)
    life.start_server(31, None)
    assert understood(life.heartbeat()).servers is None


def test_reporter_without_heartbeats_begins_no_life() -> None:
    life = a_life(heartbeats=False)
    life.begin()
    life.start_server(31, None)
    life.end()
    [started] = waiting(life)
    assert (started.incarnation, started.seq) == (None, None)
    assert started.sent_at is not None


def test_an_id_that_is_a_string_is_listed_as_the_number_it_is() -> None:
    life = a_life()
    life.start_server("31", "3")
    assert listed(life) == [31]


@pytest.mark.parametrize(
    ("instance_id", "config_id", "exit_code"),
    [(0, None, None), (None, None, None), (31, 0, None), (31, None, "x")],
)
def test_invalid_report_is_refused_and_leaves_no_trace(
    instance_id: int, config_id: Any, exit_code: Any
) -> None:
    life = a_life()
    with pytest.raises(
        InvalidReport,
        match=r"worker 7: the .* of server instance .* cannot be reported: .*command_args",
    ):
        life.start_server(instance_id, config_id) if exit_code is None else life.stop_server(
            instance_id, exit_code
        )
    assert waiting(life) == []
    assert listed(life) == []


@pytest.mark.parametrize(
    ("worker_id", "options", "problem"),
    [
        (0, {}, "no id of 1 to"),
        ("x", {}, "no id of 1 to"),
        (
            7,
            {"labels": {"": "eu-1"}},
            "no key of a label, which has 1 to 63 characters - at `[$].labels`$",
        ),
        (7, {"labels": {"group": [1]}}, "a label whose value is no text"),
        (7, {"interval_seconds": 0.5}, "an interval is 1 to 3600 seconds"),
    ],
)
def test_worker_that_could_never_be_received_is_refused(
    worker_id: int, options: Any, problem: Any
) -> None:
    with pytest.raises(InvalidReport, match=problem):
        StatusReporter(NOWHERE, worker_id=worker_id, **options)


def test_a_url_of_something_else_is_refused_without_showing_it() -> None:
    with pytest.raises(InvalidReport, match="amqp:// or amqps://") as refused:
        StatusReporter("http://user:open-sesame@host/", worker_id=7)
    assert "open-sesame" not in str(refused.value)


def test_full_outbox_drops_and_counts_the_oldest() -> None:
    life = a_life(outbox_size=10)
    for instance_id in range(1, 26):
        life.start_server(instance_id, None)
    assert [event.instance_id for event in waiting(life)] == list(range(16, 26))
    assert (life.waiting, life.dropped) == (10, 15)


def test_late_confirm_of_a_dropped_report_drops_nothing() -> None:
    life = a_life(outbox_size=2)
    life.start_server(1, None)
    life.start_server(2, None)
    [_, (number, _)] = life.oldest(2)
    life.start_server(3, None)
    life.start_server(4, None)
    life.confirm(number)
    assert [event.instance_id for event in waiting(life)] == [3, 4]


def test_numbers_follow_the_order_in_the_outbox_whoever_calls() -> None:
    life = a_life(outbox_size=10_000)

    def work(first: Any) -> None:
        for instance_id in range(first, first + 500):
            life.start_server(instance_id, None)

    threads = [threading.Thread(target=work, args=(1 + 500 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [event.seq for event in waiting(life)]
    assert len(numbers) == 2000
    assert numbers == sorted(numbers)


async def test_report_that_cannot_be_sent_is_logged_not_raised(
    caplog: pytest.LogCaptureFixture,
) -> None:
    reporter = StatusReporter(NOWHERE, worker_id=7)
    with caplog.at_level(logging.INFO):
        await reporter.server_started(31)
        async with reporter as report:
            await report.server_started(-1)
            await report.server_started(cast("int", object()))
            await report.server_started(32)
        await report.server_stopped(32)
    logged = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert [line.partition(": ")[2].partition(" cannot")[0] for line in logged[:2]] == [
        "anything",
        "the start of server instance -1",
    ]
    assert "its reporter is not open" in logged[-1]
    assert logged[-2] == "worker 7: 3 events were not sent before the end"
    assert not [
        record for record in caplog.records if record.name.startswith(("aiormq", "aio_pika"))
    ]


async def test_a_life_begins_once() -> None:
    async with StatusReporter(NOWHERE, worker_id=7) as report:
        with pytest.raises(RuntimeError, match="make another"):
            await report.start()
        await report.close(graceful=False)
    with pytest.raises(RuntimeError, match="make another"):
        await report.start()
