"""Admission by a message's exchange and routing key, and by the signature of a canary."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, get_args

import pytest

from manman_status.processor.admission import Admission
from manman_status.processor.seal import Seal
from manman_status.wire.control import (
    CONTROL_KEYS,
    AlertAcknowledged,
    CanarySent,
    ControlMessage,
    ForgetRequested,
    GuardReleased,
    SilenceEnded,
    SilenceRequested,
    control_key,
    control_message,
)
from manman_status.wire.inbound import decode

INBOUND, CONTROL = "internal_service_events", "manman.status.control"
NOW = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
CONTROL_MESSAGES = [
    GuardReleased("eu"),
    SilenceRequested(silence_id="abcd", seconds=1, why="w"),
    SilenceEnded("abcd"),
    AlertAcknowledged(1),
    ForgetRequested(worker_id=7),
]


def seal(secret: Any = b"s" * 32) -> Any:
    made = Seal()
    made.use(secret)
    return made


def read(body: Any, *, exchange: Any = INBOUND, key: Any, must_match: bool = True) -> Any:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    admission = Admission(
        seal(),
        queue="q",
        kind="heartbeats",
        control_exchange=CONTROL,
        body_must_match_key=must_match,
    )
    return decode(body, admission.by(exchange, key))


def command(kind: Any, *arguments: Any) -> dict[str, Any]:
    return {"command_type": kind, "command_args": list(arguments)}


def status_info(entity: Any, identifier: Any) -> dict[str, Any]:
    return {"entity_type": entity, "identifier": identifier, "status_type": "RUNNING"}


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (command("HEARTBEAT", "7"), "worker.7.heartbeat"),
        (command("WORKER_STARTED", "7"), "worker.7.lifecycle"),
        (command("WORKER_STOPPED", "7"), "worker.7.lifecycle"),
        (command("SERVER_STARTED", "31", "7"), "game_server_instance.31.lifecycle"),
        (command("SERVER_STARTED", "31", "7"), "worker.7.lifecycle"),
        (command("SERVER_STOPPED", "31", "7", "0"), "game_server_instance.31.lifecycle"),
        (command("SERVER_STOPPED", "31"), "game_server_instance.31.lifecycle"),
        (status_info("worker", "7"), "worker.7.status"),
        (status_info("game_server_instance", 31), "game_server_instance.31.status"),
        (command("START", "31"), "worker.8.lifecycle"),
        ([command("HEARTBEAT", "7"), command("SERVER_STARTED", "31", "7")], "worker.7.lifecycle"),
    ],
)
def test_an_event_fits_the_key_that_names_it(body: Any, key: Any) -> None:
    decoded = read(body, key=key)
    assert (decoded.poison, decoded.count) == ([], len(body) if isinstance(body, list) else 1)


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (command("HEARTBEAT", "8"), "worker.7.heartbeat"),
        (command("HEARTBEAT", "7"), "worker.77.heartbeat"),
        (command("HEARTBEAT", "7"), "worker.07.heartbeat"),
        (command("HEARTBEAT", "7"), "worker.canary.heartbeat"),
        (command("HEARTBEAT", "7"), "game_server_instance.7.lifecycle"),
        (command("HEARTBEAT", "7"), "manman.status.heartbeats.0"),
        (command("HEARTBEAT", "7"), ""),
        (command("WORKER_STOPPED", "8"), "worker.7.lifecycle"),
        (command("SERVER_STARTED", "31", "8"), "worker.7.lifecycle"),
        (command("SERVER_STOPPED", "31", "7"), "game_server_instance.7.lifecycle"),
        (command("SERVER_STOPPED", "31"), "worker.31.lifecycle"),
        (status_info("worker", "8"), "worker.7.status"),
        (status_info("game_server_instance", 7), "worker.7.status"),
    ],
)
def test_event_under_a_foreign_key_is_refused_if_keys_count(body: Any, key: Any) -> None:
    [poison] = read(body, key=key).poison
    assert "body_must_match_key" in poison.reason
    assert read(body, key=key, must_match=False).poison == []


def test_of_an_array_the_events_of_others_are_refused_alone() -> None:
    beats = [command("HEARTBEAT", worker) for worker in (7, 8, 7)]
    decoded = read(beats, key="worker.7.heartbeat")
    assert [event.worker_id for event in decoded.events] == [7, 7]
    assert [json.loads(poison.body) for poison in decoded.poison] == [beats[1]]


def test_every_control_message_has_a_key_of_its_own() -> None:
    kinds = set(get_args(ControlMessage)) - {CanarySent}
    assert CONTROL_KEYS.keys() == kinds == {type(message) for message in CONTROL_MESSAGES}
    assert len(set(CONTROL_KEYS.values())) == len(kinds)


@pytest.mark.parametrize("message", CONTROL_MESSAGES)
def test_a_control_message_needs_its_exchange_and_its_key(message: Any) -> None:
    body, key = control_message(message), control_key(message)
    assert read(body, exchange=CONTROL, key=key).control == [message]
    for exchange, other in (
        (INBOUND, key),
        ("", key),
        (CONTROL, "worker.7.lifecycle"),
        (CONTROL, ""),
    ):
        decoded = read(body, exchange=exchange, key=other, must_match=False)
        assert (decoded.control, len(decoded.poison)) == ([], 1)


def test_the_control_exchange_takes_no_events() -> None:
    [poison] = read(command("HEARTBEAT", "7"), exchange=CONTROL, key="worker.7.heartbeat").poison
    assert "takes control messages only" in poison.reason


def signed(
    secret: Any = b"s" * 32,
    *,
    kind: str = "heartbeats",
    sender: str = "host-1",
    sent_at: Any = NOW,
    steps: int = 2,
) -> Any:
    return json.loads(seal(secret).signed_canary(kind, sender, sent_at, steps))


def test_canary_counts_only_with_its_own_mac() -> None:
    """The MAC covers kind, time, processor and the steps of the clock."""
    true = signed()
    mac = true["command_args"][1]
    counted = CanarySent(NOW, "host-1", mac, 2, came_by="worker.canary-7.heartbeat")
    assert read(true, key="worker.canary-7.heartbeat").control == [counted]
    for false in (
        {**true, "command_args": ["host-1"]},
        {**true, "command_args": ["host-1", mac[:-1], 2]},
        {**true, "command_args": ["host-2", mac, 2]},
        {**true, "command_args": ["host-1", mac, 3]},
        {**true, "command_args": ["host-1", mac]},
        {**true, "sent_at": "2099-01-01T00:00:00Z"},
        signed(b"t" * 32),
        signed(kind="lifecycle"),
    ):
        decoded = read(false, key="worker.canary.heartbeat")
        assert (decoded.control, decoded.poison, decoded.ignored) == ([], [], 1)


def test_without_the_secret_no_canary_counts() -> None:
    unready = Seal()
    [made] = decode(unready.signed_canary("heartbeats", "host-1", NOW, 0)).control
    assert isinstance(made, CanarySent)
    assert not unready.is_true("heartbeats", made)
