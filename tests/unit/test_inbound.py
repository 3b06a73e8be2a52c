"""Bytes to events: everything that can be understood is, and everything else becomes a reason."""

from __future__ import annotations

import codecs
import gzip
import json
import random
import re
import zlib
from datetime import UTC, datetime
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manman_status.domain.events import (
    Heartbeat,
    Inventory,
    InventoryEntry,
    ServerStarted,
    ServerStatusReported,
    ServerStopped,
    WorkerStarted,
    WorkerStatusReported,
    WorkerStopped,
)
from manman_status.domain.status import StatusType
from manman_status.wire.bodies import MAX_BODY_BYTES
from manman_status.wire.control import (
    AlertAcknowledged,
    CanarySent,
    GuardReleased,
    SilenceEnded,
    SilenceRequested,
    control_message,
)
from manman_status.wire.inbound import (
    LEFT_OUT,
    MAX_EVENTS,
    decode,
    find_body,
)

NOON = "2026-11-23T12:00:00Z"
NOON_MICROSECONDS = 1_795_435_200_000_000
MAX = 2**63 - 1


def command(kind: Any, *args: Any, **fields: Any) -> dict[str, Any]:
    return {"command_type": kind, "command_args": list(args), **fields}


def info(**fields: Any) -> dict[str, Any]:
    return {
        "entity_type": "worker",
        "identifier": "7",
        "as_of": NOON,
        "status_type": "RUNNING",
        **fields,
    }


def understood(*messages: Any) -> Any:
    """The events of these, sent as one message when it is one and else as an array."""
    decoded = decode(json.dumps(messages[0] if len(messages) == 1 else messages).encode())
    assert decoded.poison == []
    return decoded.events


def event(message: Any) -> Any:
    (only,) = understood(message)
    return only


def reason(message: Any) -> Any:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    decoded = decode(body)
    assert (decoded.events, decoded.control, decoded.ignored) == ([], [], 0)
    (poison,) = decoded.poison
    assert poison.body == body
    return poison.reason


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (command("HEARTBEAT", "7"), Heartbeat(worker_id=7)),
        (command("WORKER_STARTED", "7"), WorkerStarted(worker_id=7)),
        (command("WORKER_STOPPED", "7"), WorkerStopped(worker_id=7)),
        (command("SERVER_STARTED", "31", "7"), ServerStarted(instance_id=31, worker_id=7)),
        (
            command("SERVER_STARTED", "31", "7", "3"),
            ServerStarted(instance_id=31, worker_id=7, game_server_config_id=3),
        ),
        (command("SERVER_STOPPED", "31", "7"), ServerStopped(instance_id=31, worker_id=7)),
        (command("SERVER_STOPPED", "31"), ServerStopped(instance_id=31)),
        (
            command("SERVER_STOPPED", "31", None, "137"),
            ServerStopped(instance_id=31, exit_code=137),
        ),
        (
            command("SERVER_STOPPED", "31", "7", "0"),
            ServerStopped(instance_id=31, worker_id=7, exit_code=0),
        ),
        (
            info(),
            WorkerStatusReported(worker_id=7, status=StatusType.RUNNING, sent_at=NOON_MICROSECONDS),
        ),
        (
            info(entity_type="game_server_instance", identifier=31, status_type="CRASHED"),
            ServerStatusReported(
                instance_id=31, status=StatusType.CRASHED, sent_at=NOON_MICROSECONDS
            ),
        ),
    ],
)
def test_each_message_is_its_event(message: Any, expected: Any) -> None:
    assert event(message) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (1_763_884_800, 1_763_884_800_000_000),
        (1_763_884_800_123, 1_763_884_800_123_000),
        (1_763_884_800_123_456, 1_763_884_800_123_456),
        (1_763_884_800_123_456_789, 1_763_884_800_123_456),
        (1000, 1000),
        (999_999_999, 999_999_999),
    ],
    ids=["s", "ms", "µs", "ns", "a counter", "a great counter"],
)
def test_the_size_of_an_incarnation_says_its_unit(given: Any, expected: Any) -> None:
    assert event(command("HEARTBEAT", 7, incarnation=given, seq=1)).incarnation == expected


@pytest.mark.parametrize("kind", ["START", "STOP", "STDIN"])
def test_commands_to_workers_are_ignored(kind: Any) -> None:
    decoded = decode(json.dumps(command(kind, {"any": "thing"})).encode())
    assert (decoded.ignored, decoded.count) == (1, 1)


def test_ids_are_strings_or_numbers() -> None:
    assert (
        event(command("HEARTBEAT", 7))
        == event(command("HEARTBEAT", "7"))
        == event(command("HEARTBEAT", "007"))
    )
    assert event(info(identifier=7)) == event(info(identifier="7"))
    assert event(command("HEARTBEAT", str(MAX))).worker_id == MAX


@pytest.mark.parametrize(
    "wrong",
    [
        0,
        -1,
        "0",
        "-7",
        "",
        " 7",
        "7 ",
        "+7",
        "1e3",
        "\u0667",
        "²",
        7.5,
        "7.5",
        True,
        None,
        [7],
        {},
        MAX + 1,
        str(MAX + 1),
    ],
)
def test_what_is_no_id_is_named_with_its_place(wrong: Any) -> None:
    assert "`$.command_args[0]`" in reason(command("HEARTBEAT", wrong))
    assert "`$.command_args[1]`" in reason(command("SERVER_STARTED", 31, wrong))


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"command_type": "HEARTBEAT"}, "$.command_args[0]"),
        (command("HEARTBEAT"), "$.command_args[0]"),
        (command("SERVER_STARTED", 31), "$.command_args[1]"),
        (command("SERVER_STOPPED", 31, 7, "x"), "$.command_args[2]"),
        (command("SERVER_STOPPED", 31, 7, True), "$.command_args[2]"),
        (command("SERVER_STOPPED", 31, 7, seq=-1), "$.seq"),
        (command("WORKER_STARTED", 7, incarnation=MAX + 1), "$.incarnation"),
        (command("WORKER_STOPPED", 7, sent_at="noon"), "$.sent_at"),
        (command("DANCE", 7), "$.command_type"),
        ({"command_type": 7}, "$.command_type"),
        ({"command_type": "HEARTBEAT", "command_args": "7"}, "$.command_args"),
        (info(as_of="noon"), "$.as_of"),
        (info(identifier=None), "$.identifier"),
        (info(identifier="x"), "$.identifier"),
        (info(status_type=None), "$.status_type"),
        (info(status_type="LOST"), "$.status_type"),
        (info(entity_type="moon"), "$.entity_type"),
    ],
)
def test_poison_names_the_place(message: Any, place: Any) -> None:
    """A field that decides status or order of an event is never guessed."""
    assert place in reason(message)


COUNTED = {"incarnation": 5, "seq": 2}
GROUP = {"group": "eu-1"}


@pytest.mark.parametrize(
    ("message", "rest", "said"),
    [
        (
            command("HEARTBEAT", 7, incarnation=-1, seq=2),
            {"seq": 2},
            "-1 is not 1 to 2^63-1 - at `$.incarnation`",
        ),
        (
            command("HEARTBEAT", 7, incarnation=5, seq="x"),
            {"incarnation": 5},
            "'x' is not 1 to 2^63-1 - at `$.seq`",
        ),
        (command("HEARTBEAT", 7, sent_at="noon"), {}, "'noon' is no time - at `$.sent_at`"),
        (command("HEARTBEAT", 7, sent_at=True), {}, "true is no time - at `$.sent_at`"),
        (
            command("HEARTBEAT", 7, interval_seconds="soon"),
            {},
            "'soon' is no number of seconds - at `$.interval_seconds`",
        ),
        (command("HEARTBEAT", 7, labels=["a"]), {}, "an array is no object - at `$.labels`"),
        (
            command("HEARTBEAT", 7, labels=GROUP | {"": "a"}),
            {"labels": GROUP},
            "'' is no key of a label",
        ),
        (
            command("HEARTBEAT", 7, labels=GROUP | {"a": "\0"}),
            {"labels": GROUP},
            "'a' has a NUL character",
        ),
        (
            command("HEARTBEAT", 7, labels=GROUP | {"a": "x" * 300}),
            {"labels": GROUP},
            "'a' has a value of more than 255",
        ),
        (
            command("HEARTBEAT", 7, labels=GROUP | {"a": []}),
            {"labels": GROUP},
            "'a' is a label whose value is no text",
        ),
        (
            command("HEARTBEAT", 7, labels={"group": [], "a": "b"}),
            {},
            "'group' is a label whose value is no text",
        ),
        (
            command("HEARTBEAT", 7, labels={str(n): "" for n in range(65)}),
            {},
            "65 labels are more than 64",
        ),
        (
            command("HEARTBEAT", 7, servers=[{"instance_id": 1}, {"instance_id": 0}]),
            {},
            "at `$.servers[1].instance_id`",
        ),
        (
            command("HEARTBEAT", 7, servers=[{"instance_id": 1, "status": "LOST"}]),
            {},
            "at `$.servers[0].status`",
        ),
        (
            command("HEARTBEAT", 7, servers=[{}]),
            {},
            "null is no id of 1 to 2^63-1 - at `$.servers[0].instance_id`",
        ),
        (command("HEARTBEAT", 7, servers={}), {}, "an object is no array - at `$.servers`"),
        (command("HEARTBEAT", 7, servers=[7]), {}, "7 is no object - at `$.servers[0]`"),
        (
            command("WORKER_STARTED", 7, **COUNTED, sent_at="noon"),
            COUNTED,
            "'noon' is no time - at `$.sent_at`",
        ),
        (command("WORKER_STARTED", 7, interval_seconds=[]), {}, "an array is no number of seconds"),
        (
            command("SERVER_STARTED", 31, 7, "x"),
            {"instance_id": 31},
            "'x' is no id of 1 to 2^63-1 - at `$.command_args[2]`",
        ),
    ],
)
def test_what_cannot_be_understood_is_left_out_alone(message: Any, rest: Any, said: Any) -> None:
    """The event counts with its good fields, and its whole body is kept with what was wrong."""
    body = json.dumps(message).encode()
    decoded = decode(body)
    [taken], [poison] = decoded.events, decoded.poison
    kinds = {
        "HEARTBEAT": Heartbeat,
        "WORKER_STARTED": WorkerStarted,
        "SERVER_STARTED": ServerStarted,
    }
    assert taken == kinds[message["command_type"]](worker_id=7, **rest)
    assert said in poison.reason
    assert poison.reason.endswith(LEFT_OUT)
    assert (poison.body, poison.sender, poison.events, poison.partial) == (
        body,
        "worker 7",
        1,
        True,
    )
    assert (decoded.count, decoded.refused) == (1, 0)


def test_an_inventory_stands_whole_without_a_config_that_is_none() -> None:
    servers = [{"instance_id": 31, "game_server_config_id": "x"}, {"instance_id": 32}]
    decoded = decode(json.dumps(command("HEARTBEAT", 7, servers=servers)).encode())
    [beat], [poison] = decoded.events, decoded.poison
    assert isinstance(beat, Heartbeat)
    assert isinstance(beat.servers, Inventory)
    assert [each.instance_id for each in beat.servers.list_entries()] == [31, 32]
    assert "`$.servers[0].game_server_config_id`" in poison.reason


def test_cause_has_no_values_and_names_the_sender() -> None:
    """A faulty worker version makes few groups of dead letters, however many it sends."""

    def groups(messages: Any) -> set[Any]:
        poison = (decode(json.dumps(message).encode()).poison[0] for message in messages)
        return {(each.cause, each.sender) for each in poison}

    wordy = ({"instance_id": "\n'\"" * size} for size in range(1, 9))
    assert groups(
        command("HEARTBEAT", 7, labels={f"{n}'\"": "x" * (300 + n)}) for n in range(9)
    ) == {("has a value of more than 255 characters - at `$.labels`", "worker 7")}
    assert groups(
        command("HEARTBEAT", 7, servers=[{"instance_id": 1}] * n + [bad])
        for n, bad in enumerate(wordy)
    ) == {("is no id of 1 to 2^63-1 - at `$.servers[].instance_id`", "worker 7")}
    assert groups(command(f"DANCE {n}", n) for n in (7, 7)) == {
        ("unknown command_type - at `$.command_type`", "")
    }
    assert groups([command("SERVER_STOPPED", "x", 7), command("SERVER_STOPPED", "y", "7")]) == {
        ("is no id of 1 to 2^63-1 - at `$.command_args[]`", "worker 7")
    }
    assert groups([info(status_type="LOST")]) == {
        ("is no status that can be reported - at `$.status_type`", "worker 7")
    }
    assert groups([info(identifier="x"), {}, 7, [7, 8], command("HEARTBEAT")]) >= {
        ("is no id of 1 to 2^63-1 - at `$.identifier`", ""),
        ("neither a command_type nor an entity_type", ""),
        ("HEARTBEAT needs worker_id - at `$.command_args[]`", ""),
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"null",
        b"7",
        b"\xff{}",
        b'"\xc3"',
        b"[" * 100_000,
        b"[]",
        b"{}",
        b"[[]]",
        b"[null]",
    ],
)
def test_what_is_no_message_is_one_poison(body: Any) -> None:
    decoded = decode(body)
    assert (len(decoded.poison), decoded.count) == (1, 1)
    assert decoded.poison[0].reason


def test_a_body_has_a_limit() -> None:
    assert "at most" in reason(b" " * (MAX_BODY_BYTES + 1))


def test_an_array_keeps_its_order() -> None:
    events = understood(
        command("WORKER_STARTED", 7), command("HEARTBEAT", 7), command("WORKER_STOPPED", 7)
    )
    assert [type(each) for each in events] == [WorkerStarted, Heartbeat, WorkerStopped]


def test_an_array_has_at_most_a_thousand_events() -> None:
    assert len(understood(*[command("HEARTBEAT", 7)] * MAX_EVENTS)) == MAX_EVENTS
    assert "1001 events" in reason([command("HEARTBEAT", 7)] * (MAX_EVENTS + 1))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(
            b'{"command_type": "DANCE",  "command_args": []}', id="readable but not understood"
        ),
        pytest.param(b'{"command_type": 7}', id="of a wrong type"),
        pytest.param(b"null", id="no object"),
    ],
)
def test_poison_in_an_array_is_poison_alone_with_its_own_bytes(bad: Any) -> None:
    good = [json.dumps(command("HEARTBEAT", worker)).encode() for worker in (1, 2)]
    ignored = b'{"command_type": "STDIN"}'
    decoded = decode(b"[ " + b" , ".join([good[0], bad, ignored, good[1]]) + b" ]")
    assert [getattr(each, "worker_id", None) for each in decoded.events] == [1, 2]
    assert [each.body for each in decoded.poison] == [bad]
    assert (decoded.ignored, decoded.count) == (1, 4)


def test_what_is_wrong_alike_in_an_array_is_one_poison() -> None:
    """An array of a thousand bad events would else be a thousand dead letters. Its body is an array
    again, so that it can be sent again."""
    good = json.dumps(command("HEARTBEAT", 1)).encode()
    partial = json.dumps(command("HEARTBEAT", 2, sent_at="noon")).encode()
    bad = [b"{}", b"7", *(json.dumps(command(f"DANCE {n}", n)).encode() for n in range(1, 300))]
    decoded = decode(b"[" + b",".join([*bad * 3, good, partial, partial]) + b"]")
    assert [getattr(each, "worker_id", None) for each in decoded.events] == [1, 2, 2]
    assert [(each.events, each.sender, each.partial) for each in decoded.poison] == [
        (3, "", False),
        (3, "", False),
        (897, "", False),
        (2, "worker 2", True),
    ]
    assert (decoded.count, decoded.refused) == (906, 903)
    dances, beats = decoded.poison[2:]
    assert (
        dances.reason
        == "'DANCE 1': unknown command_type - at `$.command_type`; and 896 more like it"
    )
    assert [each.events for each in decode(dances.body).poison] == [897]
    assert beats.body == b"[" + partial + b"," + partial + b"]"
    assert len(decode(beats.body).events) == 2


@pytest.mark.parametrize("element", ["{}", "[]", "n", '{"command_type":"HEARTBEAT"}'])
def test_refused_array_costs_less_than_a_good_one(element: Any) -> None:
    """A message of 3 KB holds a thousand of two bytes: they must not buy more time than 50 KB of
    heartbeats."""

    def seconds(body: Any) -> Any:
        begun = process_time()
        decode(body)
        return process_time() - begun

    good = [command("HEARTBEAT", str(worker)) for worker in range(MAX_EVENTS)]
    refused = ",".join(str(n) if element == "n" else element for n in range(MAX_EVENTS))
    bodies = json.dumps(good).encode(), f"[{refused}]".encode()
    of_good, of_refused = (min(seconds(body) for _ in range(5)) for body in bodies)
    assert of_refused < 3 * of_good  # each its own exception would cost some ten times as much


def test_a_refused_event_is_found_in_its_array() -> None:
    parts = [json.dumps(command("HEARTBEAT", worker)).encode() for worker in (1, 2, 3)]
    body = b"[" + b",".join(parts) + b"]"
    assert find_body(body, decode(body).events[1]) == parts[1]
    assert find_body(parts[0], decode(parts[0]).events[0]) == parts[0]
    parts = [
        json.dumps(command("HEARTBEAT", 7, servers=[{"instance_id": each}])).encode()
        for each in (1, 2, "3")
    ]
    body = gzip.compress(b"[" + b",".join(parts) + b"]")
    assert [find_body(body, each) for each in decode(body).events] == parts


@pytest.mark.parametrize(
    ("sent_at", "microseconds"),
    [
        pytest.param(NOON, NOON_MICROSECONDS, id="UTC"),
        pytest.param("2026-11-23T12:00:00", NOON_MICROSECONDS, id="naive is UTC"),
        pytest.param("2026-11-23T14:00:00.000001+02:00", NOON_MICROSECONDS + 1, id="another zone"),
        pytest.param("1969-07-20T20:17:00Z", 1, id="before the epoch"),
        pytest.param("9999-12-31T23:59:59.999999Z", 253_402_300_799_000_000, id="the last second"),
        pytest.param("0001-01-01T00:00:00+14:00", 1, id="before the first year"),
        pytest.param("9999-12-31T23:59:59-14:00", 253_402_300_799_000_000, id="after the last"),
    ],
)
def test_times(sent_at: Any, microseconds: Any) -> None:
    assert event(command("HEARTBEAT", 7, sent_at=sent_at)).sent_at == microseconds


@pytest.mark.parametrize(
    ("said", "kept"), [(0, 1), (-5, 1), (2, 2), (2.5, 2.5), (1e300, 3600), (None, None)]
)
def test_an_interval_is_kept_within_its_bounds(said: Any, kept: Any) -> None:
    assert event(command("HEARTBEAT", 7, interval_seconds=said)).interval_seconds == kept


def test_null_is_absent() -> None:
    fields = (
        "incarnation",
        "seq",
        "sent_at",
        "interval_seconds",
        "labels",
        "servers",
        "entity_type",
        "status_type",
    )
    assert event(command("HEARTBEAT", 7, **dict.fromkeys(fields))) == Heartbeat(worker_id=7)
    assert event(command("SERVER_STARTED", 31, 7, None)).game_server_config_id is None


def test_unknown_fields_are_ignored() -> None:
    assert event(command("HEARTBEAT", 7, moon="full")) == Heartbeat(worker_id=7)


def test_an_empty_inventory_is_not_none() -> None:
    assert event(command("HEARTBEAT", 7, servers=[])).servers.list_entries() == ()
    assert event(command("HEARTBEAT", 7)).servers is None


def test_an_inventory_lists_each_instance_once_by_id() -> None:
    said = [
        {"instance_id": 9},
        {"instance_id": 3, "game_server_config_id": 5, "status": "INITIALIZING"},
    ]
    assert event(command("HEARTBEAT", 7, servers=[*said, said[0]])).servers.list_entries() == (
        InventoryEntry(3, StatusType.INITIALIZING, 5),
        InventoryEntry(9, StatusType.RUNNING, None),
    )


def test_equal_inventories_have_equal_digests() -> None:
    def digest(*ids: Any) -> Any:
        return event(
            command("HEARTBEAT", 7, servers=[{"instance_id": each} for each in ids])
        ).servers.digest

    assert digest(1, 2) == digest(1, 2)
    assert len({digest(), digest(1), digest(2), digest(1, 2)}) == 4
    assert 0 not in {digest(), digest(1)}


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (0, 0),
        ("0", 0),
        (1, 1),
        ("-9", -9),
        (3221225786, 3221225786),
        (None, None),
        ("", None),
        ("None", None),
    ],
)
def test_exit_codes(said: Any, code: Any) -> None:
    assert event(command("SERVER_STOPPED", 31, 7, said)).exit_code == code


@pytest.mark.parametrize(
    "wrong", ["--1", "-", "1.5", 1.5, 2**63, "9" * 19, [], "\u0663", "0x", "0xg"]
)
def test_what_is_no_exit_code_is_poison(wrong: Any) -> None:
    assert "`$.command_args[2]`" in reason(command("SERVER_STOPPED", 31, 7, wrong))


def test_control_messages_come_back_as_they_were_sent() -> None:
    sent_at = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
    sent = CanarySent(sent_at, "host-1", "5f", 3)
    assert decode(control_message(sent)).control == [sent]
    unsigned = command("CANARY", "host-1", sent_at=sent_at.isoformat())
    assert decode(json.dumps(unsigned).encode()).control == [CanarySent(sent_at, "host-1")]
    assert decode(control_message(GuardReleased("eu-1"))).control == [GuardReleased("eu-1")]
    assert decode(control_message(GuardReleased(""))).control == [GuardReleased("")]


@pytest.mark.parametrize(
    "message",
    [
        {"command_type": "CANARY"},
        {"command_type": "CANARY", "sent_at": "2026-11-23T12:00:00"},
        {"command_type": "RELEASE_GUARD"},
        {"command_type": "RELEASE_GUARD", "command_args": [7]},
        {"command_type": "RELEASE_GUARD", "command_args": ["x" * 256]},
        {"command_type": "CANARY", "sent_at": "0001-01-01T00:00:00+23:59"},
        {"command_type": "CANARY", "sent_at": "9999-12-31T23:59:59-23:59"},
        {"command_type": "CANARY", "sent_at": 1795420800},
        {"command_type": "canary", "sent_at": NOON},
        {"command_type": "RELEASE_GUARD", "command_args": ["eu-1", "eu-2"]},
    ],
)
def test_a_control_message_that_does_not_fit_is_poison(message: Any) -> None:
    """It is never read liberally, and its time can be stored: the database would refuse its
    neighbours too."""
    assert reason(message)


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
plain = st.none() | st.booleans() | numbers | st.text(max_size=30)
anything = st.recursive(
    plain, lambda some: st.lists(some, max_size=4) | st.dictionaries(st.text(max_size=9), some)
)
KINDS = [
    "HEARTBEAT",
    "WORKER_STARTED",
    "WORKER_STOPPED",
    "SERVER_STARTED",
    "SERVER_STOPPED",
    "CANARY",
    "RELEASE_GUARD",
]
ids = st.integers(-1, 9) | st.sampled_from(["7", "-7", "", "7" * 30, "\u0667"])
times = st.datetimes().map(datetime.isoformat) | st.datetimes(timezones=st.timezones()).map(
    datetime.isoformat
)
nearly = st.fixed_dictionaries(
    {},
    optional={
        "command_type": st.sampled_from(KINDS) | anything,
        "command_args": st.lists(ids | anything, max_size=4) | anything,
        "incarnation": st.integers() | anything,
        "seq": st.integers() | anything,
        "sent_at": times | anything,
        "interval_seconds": numbers | anything,
        "labels": st.dictionaries(st.text(), st.text()) | anything,
        "servers": st.lists(st.fixed_dictionaries({"instance_id": ids})) | anything,
        "entity_type": st.sampled_from(["worker", "game_server_instance"]) | anything,
        "identifier": ids | anything,
        "as_of": times | anything,
        "status_type": st.sampled_from([*StatusType]) | anything,
    },
)


def assert_accounted_for(body: Any) -> Any:
    """Check that each part of any message becomes something, and the rest can be stored."""
    decoded = decode(body)
    assert decoded.count >= 1
    for poison in decoded.poison:
        assert poison.reason.isprintable()
        assert len(poison.reason) < 600
        assert poison.cause.isprintable()
        assert poison.cause
        assert isinstance(poison.body, bytes)
        assert not poison.partial or poison.sender
    for operator_message in decoded.control:
        assert (
            not isinstance(operator_message, CanarySent) or operator_message.sent_at.tzinfo is UTC
        )
    for each in decoded.events:
        for name in ("worker_id", "instance_id", "incarnation", "seq", "sent_at"):
            value = getattr(each, name, None)
            assert value is None or 1 <= value <= MAX
        for key, value in (getattr(each, "labels", None) or {}).items():
            assert 1 <= len(key) <= 63
            assert len(value) <= 255
            assert "\0" not in key + value
        if isinstance(each, Heartbeat):
            assert each.interval_seconds is None or 1 <= each.interval_seconds <= 3600
            for entry in each.servers.list_entries() if each.servers else ():
                assert 1 <= entry.instance_id <= MAX
    return decoded


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(body: Any) -> None:
    assert_accounted_for(body)


@settings(deadline=None, max_examples=200)
@given(st.one_of(anything, nearly))
def test_no_json_is_too_strange(message: Any) -> None:
    assert_accounted_for(json.dumps(message).encode())


@settings(deadline=None)
@given(st.lists(st.one_of(nearly, anything), min_size=1, max_size=5))
def test_each_element_of_an_array_is_taken_as_if_alone(messages: Any) -> None:
    together = assert_accounted_for(json.dumps(messages).encode())
    alone = [decode(json.dumps(message).encode()) for message in messages]
    if not any(isinstance(message, list) for message in messages):
        assert together.count == len(messages)
        assert [type(each) for each in together.events] == [
            type(each) for one in alone for each in one.events
        ]


SILENCE: dict[str, Any] = {"silence_id": "abcd1234", "seconds": 3600, "why": "new switches"}


@pytest.mark.parametrize(
    "operator_message",
    [
        SilenceRequested(**SILENCE),
        SilenceRequested(
            **SILENCE, by="ops", group="", worker_id=7, rule="worker_lost", labels={"rack": "3"}
        ),
        SilenceEnded("abcd1234"),
        AlertAcknowledged(12, by="ops", why="on it"),
    ],
)
def test_a_word_about_alerts_is_understood_as_it_was_said(operator_message: Any) -> None:
    assert decode(control_message(operator_message)).control == [operator_message]


@pytest.mark.parametrize(
    ("kind", "arguments", "reason"),
    [
        ("SILENCE", [], "Expected `array` of length 1, got 0 - at `$.command_args`"),
        ("SILENCE", ["eu-1"], "Expected `object`, got `str` - at `$.command_args[0]`"),
        (
            "SILENCE",
            [SILENCE | {"seconds": 0}],
            "Expected `float` > 0.0 - at `$.command_args[0].seconds`",
        ),
        (
            "SILENCE",
            [SILENCE | {"why": ""}],
            "Expected `str` of length >= 1 - at `$.command_args[0].why`",
        ),
        ("SILENCE", [SILENCE | {"group": "a\0"}], "a NUL character - at `$.command_args[0]`"),
        ("ACKNOWLEDGE", [{"alert_id": 0}], "Expected `int` >= 1 - at `$.command_args[0].alert_id`"),
    ],
)
def test_a_word_about_alerts_that_cannot_be_meant_is_poison(
    kind: Any, arguments: Any, reason: Any
) -> None:
    [poison] = decode(json.dumps(command(kind, *arguments)).encode()).poison
    assert poison.reason == reason


BEAT = json.dumps(command("HEARTBEAT", 7, seq=5, incarnation=3)).encode()
COUNTED_BEAT = Heartbeat(worker_id=7, incarnation=3, seq=5)
# AMQP 1.0 sections as RabbitMQ 3.10 and 4.0 hand them on.
AMQP_TEXT = b'\0Sw\xa11{"command_type":"HEARTBEAT","command_args":["7"]}'
AMQP_BINARY = b'\0Sw\xa01{"command_type":"HEARTBEAT","command_args":["7"]}'
AMQP_LONG_TEXT = (
    b'\0Sw\xb1\x00\x00\x01]{"command_type":"HEARTBEAT","command_args":["7"]}' + b" " * 300
)
AMQP_MAP = (
    b"\0Sw\xd1\0\0\0u\0\0\0\n\xa1\x0ccommand_type\xa1\tHEARTBEAT\xa1\x0ccommand_args\xd0\0\0\0\x07\0\0\0\x01"
    b"\xa1\x017\xa1\x03seqU\x05\xa1\x10interval_seconds\x82@\x04\0\0\0\0\0\0\xa1\x06labels\xd1\0\0\0\x0f\0\0\0\x02"
    b"\xa1\x05group\xa1\x02eu"
)
AMQP_SEQUENCE = (
    b"\0Sv\xd0\0\0\0@\0\0\0\x01\xd1\0\0\0007\0\0\0\x04\xa1\x0ccommand_type\xa1\tHEARTBEAT"
    b"\xa1\x0ccommand_args\xd0\0\0\0\x07\0\0\0\x01\xa1\x017"
)


def beat(**fields: Any) -> Any:
    return command("HEARTBEAT", 7, **fields)


def timed(said: Any) -> tuple[Any, Any]:
    return beat(sent_at=said), Heartbeat(worker_id=7, sent_at=NOON_MICROSECONDS)


def started(*arguments: Any) -> tuple[Any, Any]:
    return command("SERVER_STARTED", *arguments), ServerStarted(
        instance_id=31, worker_id=7, game_server_config_id=3
    )


def exited(said: Any, code: Any) -> tuple[Any, Any]:
    return command("SERVER_STOPPED", 31, 7, said), ServerStopped(
        instance_id=31, worker_id=7, exit_code=code
    )


LIBERAL = {
    "a byte order mark": [
        (codecs.BOM_UTF8 + BEAT, COUNTED_BEAT),
        (codecs.BOM_UTF8 + b" \n" + BEAT, COUNTED_BEAT),
    ],
    "a compressed body": [
        (gzip.compress(BEAT), COUNTED_BEAT),
        (zlib.compress(BEAT), COUNTED_BEAT),
        (zlib.compress(BEAT, 1), COUNTED_BEAT),
        (gzip.compress(codecs.BOM_UTF8 + BEAT), COUNTED_BEAT),
    ],
    "an AMQP 1.0 body": [
        (AMQP_TEXT, Heartbeat(worker_id=7)),
        (AMQP_BINARY, Heartbeat(worker_id=7)),
        (AMQP_LONG_TEXT, Heartbeat(worker_id=7)),
        (AMQP_MAP, Heartbeat(worker_id=7, seq=5, interval_seconds=2.5, labels={"group": "eu"})),
        (AMQP_SEQUENCE, Heartbeat(worker_id=7)),
        (AMQP_SEQUENCE[:2] + b"w" + AMQP_SEQUENCE[3:], Heartbeat(worker_id=7)),
    ],
    "ids": [
        started(31.0, "7.0", "3.00"),
        started("31.0", 7, 3.0),
        (info(identifier=7.0), event(info())),
        (info(identifier="7.0"), event(info())),
    ],
    "`incarnation`, `seq`": [
        (beat(incarnation="3", seq=5.0), COUNTED_BEAT),
        (beat(incarnation=3.0, seq="5.0"), COUNTED_BEAT),
        (beat(incarnation=3, seq=0), Heartbeat(worker_id=7, incarnation=3)),
        (beat(incarnation=0, seq=5), Heartbeat(worker_id=7, seq=5)),
        (beat(incarnation="0", seq="0"), Heartbeat(worker_id=7)),
    ],
    "times": [
        timed(1_795_435_200),
        timed(1_795_435_200.0),
        timed("1795435200"),
        timed(1_795_435_200_000),
        timed("1795435200000.000"),
        timed(NOON_MICROSECONDS),
        timed(str(NOON_MICROSECONDS)),
        timed(NOON_MICROSECONDS * 1000 + 999),
        timed("20261123T120000Z"),
        timed("2026-11-23T12:00Z"),
        timed("2026-11-23 13:00:00.000+01"),
        timed("2026-11-23T11:59:60Z"),
        (info(as_of=1_795_435_200), event(info())),
        (beat(sent_at=10**12 - 1), Heartbeat(worker_id=7, sent_at=253_402_300_799_000_000)),
        (
            beat(sent_at="9999-12-31T23:59:60Z"),
            Heartbeat(worker_id=7, sent_at=253_402_300_799_000_000),
        ),
    ],
    "`interval_seconds`": [
        (beat(interval_seconds="10"), Heartbeat(worker_id=7, interval_seconds=10)),
        (beat(interval_seconds="2.5"), Heartbeat(worker_id=7, interval_seconds=2.5)),
        (beat(interval_seconds=10**400), Heartbeat(worker_id=7, interval_seconds=3600)),
        (beat(interval_seconds="-1"), Heartbeat(worker_id=7, interval_seconds=1)),
    ],
    "labels": [
        (
            beat(labels={"rack": 3, "share": 0.5, "drain": True, "old": False, "none": None}),
            Heartbeat(
                worker_id=7, labels={"rack": "3", "share": "0.5", "drain": "true", "old": "false"}
            ),
        )
    ],
    "`command_type`, `entity_type`, `status_type`": [
        (beat() | {"command_type": "heartbeat"}, Heartbeat(worker_id=7)),
        (info(entity_type="WORKER", status_type="running"), event(info())),
        (
            info(entity_type="Game_Server_Instance", status_type="Running"),
            event(info(entity_type="game_server_instance")),
        ),
    ],
    "an exit code": [
        exited("1.0", 1),
        exited(-9.0, -9),
        exited("0xC0000005", 3221225477),
        exited("0x0", 0),
        exited("null", None),
    ],
    "a field that the event does not use": [
        (command("WORKER_STOPPED", 7, labels=7, servers=7, as_of=7), WorkerStopped(worker_id=7)),
        (info(labels=7, sent_at="noon", seq=-1), event(info())),
    ],
}
LIBERAL_INVENTORIES = [
    {"instance_id": "31", "game_server_config_id": "3", "status": "initializing"},
    {"instance_id": 31.0, "game_server_config_id": 3.0, "status": "Initializing"},
    {"instance_id": "31.0", "game_server_config_id": 3, "status": "INITIALIZING", "other": []},
]
CASES = [
    pytest.param(*case, id=f"{row} {n}")
    for row, cases in LIBERAL.items()
    for n, case in enumerate(cases)
]


@pytest.mark.parametrize(("message", "expected"), CASES)
def test_it_is_understood_as_well(message: Any, expected: Any) -> None:
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    decoded = decode(body)
    assert (decoded.events, decoded.poison) == ([expected], [])


def test_the_size_is_that_of_the_unpacked_json() -> None:
    """A bound on memory is not deceived by small bodies."""
    assert [
        decode(each).json_bytes
        for each in (BEAT, gzip.compress(BEAT), gzip.compress(bytes(2**20 + 1)))
    ] == [
        len(BEAT),
        len(BEAT),
        len(gzip.compress(bytes(2**20 + 1))),
    ]


@pytest.mark.parametrize("entry", LIBERAL_INVENTORIES)
def test_an_inventory_is_read_liberally_too(entry: Any) -> None:
    assert event(beat(servers=[entry])).servers.list_entries() == (
        InventoryEntry(31, StatusType.INITIALIZING, 3),
    )


@pytest.mark.parametrize("holder", ["", "None", "null", None])
def test_a_place_holder_is_no_config(holder: Any) -> None:
    entry = {"instance_id": 31, "game_server_config_id": holder}
    assert event(beat(servers=[entry])).servers.list_entries() == (
        InventoryEntry(31, StatusType.RUNNING, None),
    )


def test_a_command_to_workers_is_ignored_whatever_it_holds() -> None:
    assert decode(b'{"command_type": "stdin", "labels": 7, "command_args": 7}').ignored == 1


def test_every_row_of_the_contract_has_its_case() -> None:
    contract = (Path(__file__).parents[2] / "docs/contract.md").read_text(encoding="utf-8")
    [table] = re.findall(r"\n\| also understood \|.*\n\|[-|]+\n((?:\|.*\n)+)", contract)
    assert [row.split("|")[1].strip() for row in table.splitlines()] == [*LIBERAL]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(
            gzip.compress(bytes(10 * MAX_BODY_BYTES)), "more than 1048576 bytes", id="bomb"
        ),
        pytest.param(gzip.compress(BEAT)[:-1], "does not end", id="cut off"),
        pytest.param(gzip.compress(BEAT) + b"x", "does not end", id="followed"),
        pytest.param(b"\x1f\x8bnonsense", "not readable", id="damaged"),
        pytest.param(
            AMQP_MAP[:-1], "an AMQP 1.0 amqp-value section that cannot be read", id="AMQP, cut off"
        ),
        pytest.param(
            b"\0Sw\x98" + bytes(16), "an AMQP 1.0 amqp-value section", id="AMQP, of another type"
        ),
        pytest.param(
            b"\0Sw\xf0\0\0\0\x0a\x7f\xff\xff\xff@", "an array of constants", id="AMQP, a bomb"
        ),
        pytest.param(b"\0Sw" + b"\xc0\xff\1" * 500, "nested too deeply", id="AMQP, nested"),
        pytest.param(
            b"\0Sv\xa1\x017", "an AMQP 1.0 amqp-sequence section", id="AMQP, a sequence of text"
        ),
        pytest.param(
            b"\0Sw\xc1\x04\2U\1U\2", "a map whose keys are not text", id="AMQP, a map by number"
        ),
        pytest.param(
            b"\x93\x01",
            "content_encoding 'br', content_type 'application/msgpack'",
            id="something else",
        ),
    ],
)
def test_a_body_that_cannot_be_unpacked_says_why(body: Any, said: Any) -> None:
    [poison] = decode(body, content_encoding="br", content_type="application/msgpack").poison
    assert said in poison.reason
    assert poison.body == body


@pytest.mark.parametrize(
    "field", ["command_args", "labels", "servers", "sent_at", "seq", "status_type", "moon"]
)
def test_no_depth_escapes(field: Any) -> None:
    """Python's recursion limit is met in the decoder or after it, at depths that depend on the
    caller's own."""
    good = json.dumps(command("HEARTBEAT", 1)).encode()
    for depth in (100, *range(900, 1010), 5_000, 100_000):
        nested = b'{"a":' * depth + b"1" + b"}" * depth
        for value in (nested, b"[" + nested + b"]"):
            body = b'{"command_type":"HEARTBEAT","command_args":["7"],"%s":%s}' % (
                field.encode(),
                value,
            )
            assert_accounted_for(body)
            decoded = assert_accounted_for(b"[%s,%s]" % (good, body))
            assert depth > 100 or decoded.events[0].worker_id == 1


VALID = [
    json.dumps(message).encode()
    for message in (
        command("HEARTBEAT", "7"),
        beat(
            incarnation=1763884800123456,
            seq=42,
            sent_at=NOON,
            interval_seconds=10,
            servers=[
                {"instance_id": 31, "game_server_config_id": 3, "status": "RUNNING"},
                {"instance_id": 32},
            ],
            labels={"group": "eu-1", "version": "1.4.2"},
        ),
        command("WORKER_STARTED", 7, incarnation=5, seq=1),
        command("WORKER_STOPPED", 7, sent_at=NOON),
        command("SERVER_STARTED", "31", "7", "3"),
        command("SERVER_STOPPED", "31", "7", "0"),
        info(),
        info(entity_type="game_server_instance", status_type="CRASHED"),
        command("SILENCE", SILENCE),
        command("ACKNOWLEDGE", {"alert_id": 12}),
        command("RELEASE_GUARD", "eu-1"),
        {"command_type": "CANARY", "command_args": ["vm-1"], "sent_at": NOON},
    )
] + [AMQP_MAP, AMQP_SEQUENCE, AMQP_TEXT]
ODD = [
    b"null", b"true", b"0", b"-1", b"7.0", b"1e400", b"-1e-400", b"%d" % 2**63, b"9" * 400,
    b"1795435200", b'"7.0"',
    b'""', b'"None"', b'"\\u0000"', b'"\\ud800"', b'"\xff"', b'"\x1b[2J"', b'"\\u202e\\n"',
    b'"' + b"x" * 300 + b'"', b"[]", b"{}",
    b'"0001-01-01T00:00:00+23:59"', b'"9999-12-31T23:59:59-23:59"', b'"2026-12-31T23:59:60Z"',
    b'"lost"', b'"running"',
    b"[" * 990 + b"]" * 990, b'{"a":' * 970 + b"1" + b"}" * 970, b'[{"instance_id":"x"}]',
    b'{"group":[]}', b",", b"\0",
]  # fmt: skip
TOKEN = re.compile(rb'"[^"]*"|-?[0-9][0-9.]*|[][{}:,]')


def mutate(body: Any, chance: Any) -> Any:
    """One small accident: a bit, a cut, a repeat, or an odd value in the place of a token."""
    place = chance.randrange(len(body))
    match chance.randrange(8):
        case 0:
            return (
                body[:place] + bytes([body[place] ^ 1 << chance.randrange(8)]) + body[place + 1 :]
            )
        case 1:
            return body[:place]
        case 2:
            return body[:place] + body[place // 2 :]
        case 3:
            return chance.choice((codecs.BOM_UTF8, b"[", b"\0Sw", b"\x1f\x8b")) + body
        case _:
            token = chance.choice([*TOKEN.finditer(body)] or [*re.finditer(b"^", body)])
            return body[: token.start()] + chance.choice(ODD) + body[token.end() :]


def test_no_accident_is_too_strange() -> None:
    """100,000 of them, alone and in arrays: nothing is raised and everything is accounted for."""
    chance = random.Random(12)
    for _ in range(20_000):
        bodies = [chance.choice(VALID) for _ in range(4)]
        for place in range(4):
            for _ in range(chance.randint(1, 3)):
                bodies[place] = mutate(bodies[place], chance) or b"0"
            assert_accounted_for(bodies[place])
        body = b"[" + b",".join(bodies) + b"]"
        assert_accounted_for(gzip.compress(body, 1) if chance.random() < 0.1 else body)
