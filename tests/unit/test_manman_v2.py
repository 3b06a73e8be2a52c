"""ManMan V2's dialect: its messages as events, and these as rows."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest

from manman_status.domain.conclusions import lose_worker
from manman_status.domain.events import (
    Heartbeat,
    ServerStatusReported,
    ServerStopped,
    WorkerStarted,
    WorkerStopped,
)
from manman_status.domain.rows import Rows
from manman_status.domain.status import Reason, StatusType
from manman_status.wire.dialects import entrance_of
from manman_status.wire.inbound import Decoded
from manman_status.wire.topology import Topology
from tests.builders import fold, inventory
from tests.manman_v2 import QUEUE, Message, health, host, session

decode = entrance_of(Topology(), QUEUE).decode


def read(message: Message) -> Decoded:
    return decode(json.dumps(message.body).encode(), routing_key=message.key)


def events_of(*messages: Message) -> list[Any]:
    decoded = [read(message) for message in messages]
    assert not any(each.poison for each in decoded)
    return [event for each in decoded for event in each.events]


def reported(status: StatusType, **fields: Any) -> ServerStatusReported:
    return ServerStatusReported(instance_id=31, status=status, **fields)


@pytest.mark.parametrize(
    ("message", "event"),
    [
        (host(7, "online"), WorkerStarted(worker_id=7, interval_seconds=5.0)),
        (host(7, "offline"), WorkerStopped(worker_id=7)),
        (health(7), Heartbeat(worker_id=7, interval_seconds=5.0, outlives_an_end=True)),
        (session(31, "pending"), reported(StatusType.CREATED, reported_as="pending")),
        (session(31, "starting"), reported(StatusType.INITIALIZING, reported_as="starting")),
        (
            session(31, "running", sgc_id=3),
            reported(StatusType.RUNNING, game_server_config_id=3),
        ),
        (session(31, "stopping"), reported(StatusType.RUNNING, reported_as="stopping")),
        (session(31, "stopped"), reported(StatusType.COMPLETE, reported_as="stopped")),
        (session(31, "completed"), reported(StatusType.COMPLETE, reported_as="completed")),
        (session(31, "crashed", exit_code=137), reported(StatusType.CRASHED, exit_code=137)),
        (session(31, "lost"), reported(StatusType.LOST)),
        (session(31, "running", colour="red"), reported(StatusType.RUNNING)),
    ],
    ids=lambda each: each.key if isinstance(each, Message) else "",
)
def test_each_message_is_the_event_it_stands_for(message: Message, event: Any) -> None:
    assert events_of(message) == [event]


@pytest.mark.parametrize(
    "message",
    [host(7, "stale"), Message({"anything": 1}, "drain.host.7")],
    ids=lambda each: each.key,
)
def test_an_opinion_of_silence_and_a_stranger_are_ignored(message: Message) -> None:
    decoded = read(message)
    assert (decoded.count, decoded.ignored) == (1, 1)


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (host(7, "asleep"), "is no known status of a host - at `$.status`"),
        (session(31, "dancing"), "is no known status of a session - at `$.status`"),
        (session(31, "RUNNING"), "is no known status of a session - at `$.status`"),
        (session(31, "crashed", exit_code="oom"), "`$.exit_code`"),
        (session(31, "running", sgc_id=-1), "`$.sgc_id`"),
        (Message({"server_id": 8}, "health.host.7"), "is not the id that the routing key names"),
        (Message({"server_id": 7}, "health.host.all"), "is not the id that the routing key names"),
        (Message({"server_id": 0}, "health.host.0"), "`$.server_id`"),
        (Message({"status": "online"}, "status.host.7"), "missing required field `server_id`"),
        (Message({"session_id": 31}, "status.session.31"), "missing required field `status`"),
    ],
    ids=str,
)
def test_a_refused_message_says_why(message: Message, cause: str) -> None:
    decoded = read(message)
    assert decoded.count == decoded.refused == 1
    assert cause in decoded.poison[0].reason


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"7", b"[]"], ids=repr)
def test_bytes_of_any_kind_are_refused_and_never_raise(body: bytes) -> None:
    for key in ("status.host.7", "health.host.7", "status.session.31", "canary.host.canary"):
        assert decode(body, routing_key=key).refused == 1


def test_a_dead_letter_s_cause_has_no_values_and_its_sender_is_the_host() -> None:
    [first], [second] = (read(host(7, word)).poison for word in ("asleep", "drunk"))
    assert first.cause == second.cause
    assert first.sender == "worker 7"


def status_of(rows: Rows, session_id: int = 31) -> tuple[Any, ...]:
    """Status, reason and evidence, of which the time of receipt is left out."""
    instance = rows.instances[session_id]
    evidence = {name: value for name, value in instance.evidence.items() if name != "as_of"}
    return instance.status, instance.reason, evidence


def test_a_session_shows_the_word_of_its_host() -> None:
    rows = fold(events_of(session(31, "starting"), session(31, "running")))
    assert status_of(rows) == (StatusType.RUNNING, Reason.REPORTED, {})
    fold(events_of(session(31, "stopping")), rows=rows, receipts=[2])
    assert status_of(rows) == (StatusType.RUNNING, Reason.REPORTED, {"reported_as": "stopping"})
    fold(events_of(session(31, "stopped")), rows=rows, receipts=[3])
    assert status_of(rows) == (StatusType.COMPLETE, Reason.REPORTED, {})


def test_a_crash_keeps_its_exit_code_and_the_first_end_stands() -> None:
    rows = fold(
        events_of(
            session(31, "crashed", exit_code=137),
            session(31, "stopped"),
            session(31, "running"),
            session(32, "crashed"),
            session(33, "crashed", exit_code=0),
        )
    )
    assert status_of(rows) == (StatusType.CRASHED, Reason.EXIT_CODE, {"exit_code": 137})
    assert status_of(rows, 32) == (StatusType.CRASHED, Reason.REPORTED, {})
    assert status_of(rows, 33) == (StatusType.CRASHED, Reason.REPORTED, {"exit_code": 0})


@pytest.mark.parametrize("code", [None, 0, 137])
def test_a_server_stops_without_its_worker_being_named(code: int | None) -> None:
    rows = fold([ServerStopped(instance_id=31, exit_code=code)])
    status = StatusType.CRASHED if code else StatusType.COMPLETE
    assert rows.instances[31].status is status
    assert rows.instances[31].exit_code == code
    assert not rows.workers


def test_a_reported_lost_is_no_end_and_a_later_report_lifts_it() -> None:
    rows = fold(events_of(session(31, "running"), session(31, "lost")))
    assert status_of(rows) == (StatusType.LOST, Reason.REPORTED, {})
    assert rows.instances[31].end_date is None
    fold(events_of(session(31, "running")), rows=rows, receipts=[2])
    assert status_of(rows)[0] is StatusType.RUNNING


def test_a_listing_in_a_heartbeat_lifts_a_reported_lost() -> None:
    rows = fold(
        [
            *events_of(session(31, "running"), session(31, "lost")),
            Heartbeat(worker_id=7, servers=inventory(31)),
        ]
    )
    assert status_of(rows)[0] is StatusType.RUNNING


def test_sessions_outlive_restart_end_and_loss_of_every_host() -> None:
    rows = fold(
        [
            *events_of(host(7, "online"), session(31, "running"), host(7, "offline")),
            *events_of(host(7, "online"), health(7)),
            Heartbeat(worker_id=7, servers=inventory()),
        ]
    )
    at = rows.workers[7].status_since + timedelta(hours=1)
    lose_worker(rows, rows.workers[7], at, {})
    assert rows.workers[7].status is StatusType.LOST
    assert status_of(rows) == (StatusType.RUNNING, Reason.REPORTED, {})
    assert (rows.instances[31].worker_id, rows.instances[31].missing_since) == (None, None)


def test_a_heartbeat_a_timeout_after_the_end_begins_a_life() -> None:
    """The message that the host started may be lost: V2 publishes without confirmation."""
    stopped = events_of(host(7, "online"), host(7, "offline"))

    def status_after(heartbeat: Heartbeat, *, seconds: int) -> StatusType | None:
        return fold([*stopped, heartbeat], receipts=[0, 1, seconds * 1_000_000]).workers[7].status

    [beat] = events_of(health(7))
    assert status_after(beat, seconds=14) is StatusType.COMPLETE  # it crossed the end
    assert status_after(beat, seconds=16) is StatusType.RUNNING
    assert status_after(Heartbeat(worker_id=7), seconds=16) is StatusType.COMPLETE
