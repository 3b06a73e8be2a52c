"""The processor reads what the reporter writes."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from manman_status.domain.events import (
    Heartbeat,
    ReportedEvent,
    ServerStarted,
    ServerStopped,
    WorkerStarted,
    WorkerStopped,
)
from manman_status.domain.status import Entity, StatusType
from manman_status.reporter.messages import Incarnation, Report
from manman_status.wire.inbound import decode
from manman_status.wire.messages import COMMANDS, ReportableStatus, RunningServer, StatusInfo

SENT = datetime(2026, 11, 23, 8, 0, 0, 500_000, tzinfo=UTC)
SENT_AT = 1_795_420_800_500_000


def life(number: int | None = 5, first_seq: int = 1) -> Incarnation:
    return Incarnation(
        7,
        number=number,
        first_seq=first_seq,
        interval_seconds=2.0,
        labels={"group": "eu-1"},
        clock=lambda: SENT,
    )


def read(report: Report) -> ReportedEvent:
    decoded = decode(report.body)
    assert not decoded.poison
    (event,) = decoded.events
    return event


def test_a_heartbeat_arrives_with_everything_it_said() -> None:
    report = life(first_seq=42).heartbeat([RunningServer(31, 3)])
    event = read(report)
    assert (report.routing_key, report.durable) == ("worker.7.heartbeat", False)
    assert isinstance(event, Heartbeat)
    assert (event.worker_id, event.incarnation, event.seq, event.sent_at) == (7, 5, 42, SENT_AT)
    assert (event.interval_seconds, event.labels) == (2.0, {"group": "eu-1"})
    assert event.servers is not None
    assert [
        (server.instance_id, server.game_server_config_id)
        for server in event.servers.list_entries()
    ] == [(31, 3)]


def test_no_inventory_is_not_an_empty_inventory() -> None:
    silent, empty = read(life().heartbeat()), read(life().heartbeat([]))
    assert isinstance(silent, Heartbeat)
    assert isinstance(empty, Heartbeat)
    assert silent.servers is None
    assert empty.servers is not None
    assert empty.servers.list_entries() == ()


@pytest.mark.parametrize("exit_code", [None, 0, 139, -9])
def test_the_end_of_a_server_arrives_with_its_exit_code(exit_code: int | None) -> None:
    report = life().server_stopped(31, exit_code=exit_code)
    assert (report.routing_key, report.durable) == ("game_server_instance.31.lifecycle", True)
    assert read(report) == ServerStopped(
        incarnation=5, seq=1, sent_at=SENT_AT, instance_id=31, worker_id=7, exit_code=exit_code
    )


def test_a_life_numbers_its_events() -> None:
    worker = life()
    reports = [
        worker.worker_started(),
        worker.server_started(31, game_server_config_id=3),
        worker.worker_stopped(),
    ]
    order: dict[str, Any] = {"incarnation": 5, "sent_at": SENT_AT}
    assert [read(report) for report in reports] == [
        WorkerStarted(**order, seq=1, worker_id=7, interval_seconds=2.0, labels={"group": "eu-1"}),
        ServerStarted(**order, seq=2, instance_id=31, worker_id=7, game_server_config_id=3),
        WorkerStopped(**order, seq=3, worker_id=7),
    ]
    assert all(report.durable for report in reports)


def test_without_an_incarnation_events_stand_by_their_time() -> None:
    event = read(life(number=None).worker_stopped())
    assert (event.incarnation, event.seq, event.sent_at) == (None, None, SENT_AT)


def test_every_event_comes_from_a_message() -> None:
    bodies = [example for command in COMMANDS.values() for example in command.EXAMPLES]
    bodies += [StatusInfo.EXAMPLES[0] | {"entity_type": entity} for entity in Entity]
    events = [event for body in bodies for event in decode(json.dumps(body).encode()).events]
    assert {*map(type, events)} == {*get_args(ReportedEvent)}


def test_every_status_but_lost_can_be_reported() -> None:
    assert {*ReportableStatus} == {*StatusType} - {StatusType.LOST}
