"""Bytes to events: everything that can be understood is, and everything else becomes a reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manman_status.domain.events import (
    Heartbeat,
    InventoryEntry,
    ServerStarted,
    ServerStatusReported,
    ServerStopped,
    WorkerStarted,
    WorkerStatusReported,
    WorkerStopped,
)
from manman_status.domain.status import StatusType
from manman_status.wire.inbound import (
    MAX_BODY_BYTES,
    MAX_EVENTS,
    decode,
    find_body,
)
from manman_status.wire.notices import (
    AlertAcknowledged,
    CanarySent,
    GuardReleased,
    SilenceAsked,
    SilenceEnded,
    alert_notice,
    canary,
    guard_release,
)

NOON = "2026-11-23T12:00:00Z"
NOON_MICROSECONDS = 1_795_435_200_000_000
MAX = 2**63 - 1


def command(kind, *args, **fields):
    return {"command_type": kind, "command_args": list(args), **fields}


def info(**fields):
    return {"entity_type": "worker", "identifier": "7", "as_of": NOON, "status_type": "RUNNING", **fields}


def understood(*messages):
    """The events of these, sent as one message when it is one and else as an array."""
    decoded = decode(json.dumps(messages[0] if len(messages) == 1 else messages).encode())
    assert decoded.poison == []
    return decoded.events


def event(message):
    (only,) = understood(message)
    return only


def reason(message):
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    decoded = decode(body)
    assert (decoded.events, decoded.notices, decoded.ignored) == ([], [], 0)
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
        (command("SERVER_STOPPED", "31", "7", "0"), ServerStopped(instance_id=31, worker_id=7, exit_code=0)),
        (info(), WorkerStatusReported(worker_id=7, status=StatusType.RUNNING, sent_at=NOON_MICROSECONDS)),
        (
            info(entity_type="game_server_instance", identifier=31, status_type="CRASHED"),
            ServerStatusReported(instance_id=31, status=StatusType.CRASHED, sent_at=NOON_MICROSECONDS),
        ),
    ],
)
def test_each_message_is_its_event(message, expected):
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
def test_the_size_of_an_incarnation_says_its_unit(given, expected):
    assert event(command("HEARTBEAT", 7, incarnation=given, seq=1)).incarnation == expected


@pytest.mark.parametrize("kind", ["START", "STOP", "STDIN"])
def test_commands_to_workers_are_ignored(kind):
    decoded = decode(json.dumps(command(kind, {"any": "thing"})).encode())
    assert (decoded.ignored, decoded.count) == (1, 1)


def test_ids_are_strings_or_numbers():
    assert event(command("HEARTBEAT", 7)) == event(command("HEARTBEAT", "7")) == event(command("HEARTBEAT", "007"))
    assert event(info(identifier=7)) == event(info(identifier="7"))
    assert event(command("HEARTBEAT", str(MAX))).worker_id == MAX


@pytest.mark.parametrize(
    "wrong",
    [0, -1, "0", "-7", "", " 7", "7 ", "+7", "1e3", "\u0667", "²", 7.0, True, None, [7], {}, MAX + 1, str(MAX + 1)],
)
def test_what_is_no_id_is_named_with_its_place(wrong):
    assert "`$.command_args[0]`" in reason(command("HEARTBEAT", wrong))
    assert "`$.command_args[1]`" in reason(command("SERVER_STOPPED", 31, wrong))


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"command_type": "HEARTBEAT"}, "$.command_args[0]"),
        (command("HEARTBEAT"), "$.command_args[0]"),
        (command("SERVER_STARTED", 31), "$.command_args[1]"),
        (command("SERVER_STARTED", 31, 7, "x"), "$.command_args[2]"),
        (command("SERVER_STOPPED", 31, 7, "x"), "$.command_args[2]"),
        (command("SERVER_STOPPED", 31, 7, True), "$.command_args[2]"),
        (command("DANCE", 7), "$.command_type"),
        (command("HEARTBEAT", 7, incarnation=0), "$.incarnation"),
        (command("HEARTBEAT", 7, incarnation="1"), "$.incarnation"),
        (command("HEARTBEAT", 7, seq=-1), "$.seq"),
        (command("HEARTBEAT", 7, seq=MAX + 1), "$.seq"),
        (command("HEARTBEAT", 7, sent_at="noon"), "$.sent_at"),
        (command("HEARTBEAT", 7, interval_seconds="10"), "$.interval_seconds"),
        (command("HEARTBEAT", 7, labels={"a": 1}), "$.labels"),
        (command("HEARTBEAT", 7, labels={"": "a"}), "$.labels"),
        (command("HEARTBEAT", 7, labels={"a": "\0"}), "$.labels"),
        (command("HEARTBEAT", 7, labels={"a": "x" * 256}), "$.labels"),
        (command("HEARTBEAT", 7, labels={str(n): "" for n in range(65)}), "$.labels"),
        (command("HEARTBEAT", 7, servers=[{"instance_id": 0}]), "$.servers[0].instance_id"),
        (command("HEARTBEAT", 7, servers=[{"instance_id": 1, "status": "LOST"}]), "$.servers[0].status"),
        (command("HEARTBEAT", 7, servers=[{}]), "$.servers[0]"),
        (command("HEARTBEAT", 7, servers={}), "$.servers"),
        (command("HEARTBEAT", 7, servers=[7]), "$.servers[0]"),
        (info(identifier=None), "$.identifier"),
        (info(identifier="x"), "$.identifier"),
        (info(status_type=None), "$.status_type"),
        (info(status_type="LOST"), "$.status_type"),
        (info(entity_type="moon"), "$.entity_type"),
    ],
)
def test_poison_names_the_place(message, place):
    assert place in reason(message)


@pytest.mark.parametrize(
    "body", [b"", b" ", b"{", b"null", b"7", b"\xff{}", b'"\xc3"', b"[" * 100_000, b"[]", b"{}", b"[[]]", b"[null]"]
)
def test_what_is_no_message_is_one_poison(body):
    decoded = decode(body)
    assert (len(decoded.poison), decoded.count) == (1, 1)
    assert decoded.poison[0].reason


def test_a_body_has_a_limit():
    assert "at most" in reason(b" " * (MAX_BODY_BYTES + 1))


def test_an_array_keeps_its_order():
    events = understood(command("WORKER_STARTED", 7), command("HEARTBEAT", 7), command("WORKER_STOPPED", 7))
    assert [type(each) for each in events] == [WorkerStarted, Heartbeat, WorkerStopped]


def test_an_array_has_at_most_a_thousand_events():
    assert len(understood(*[command("HEARTBEAT", 7)] * MAX_EVENTS)) == MAX_EVENTS
    assert "1001 events" in reason([command("HEARTBEAT", 7)] * (MAX_EVENTS + 1))


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b'{"command_type": "DANCE",  "command_args": []}', id="readable but not understood"),
        pytest.param(b'{"command_type": 7}', id="of a wrong type"),
        pytest.param(b"null", id="no object"),
    ],
)
def test_poison_in_an_array_is_poison_alone_with_its_own_bytes(bad):
    good = [json.dumps(command("HEARTBEAT", worker)).encode() for worker in (1, 2)]
    ignored = b'{"command_type": "STDIN"}'
    decoded = decode(b"[ " + b" , ".join([good[0], bad, ignored, good[1], bad]) + b" ]")
    assert [each.worker_id for each in decoded.events] == [1, 2]
    assert [each.body for each in decoded.poison] == [bad, bad]
    assert (decoded.ignored, decoded.count) == (1, 5)


def test_a_refused_event_is_found_in_its_array():
    parts = [json.dumps(command("HEARTBEAT", worker)).encode() for worker in (1, 2, 3)]
    body = b"[" + b",".join(parts) + b"]"
    assert find_body(body, decode(body).events[1]) == parts[1]
    assert find_body(parts[0], decode(parts[0]).events[0]) == parts[0]


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
def test_times(sent_at, microseconds):
    assert event(command("HEARTBEAT", 7, sent_at=sent_at)).sent_at == microseconds


@pytest.mark.parametrize(("said", "kept"), [(0, 1), (-5, 1), (2, 2), (2.5, 2.5), (1e300, 3600), (None, None)])
def test_an_interval_is_kept_within_its_bounds(said, kept):
    assert event(command("HEARTBEAT", 7, interval_seconds=said)).interval_seconds == kept


def test_null_is_absent():
    fields = ("incarnation", "seq", "sent_at", "interval_seconds", "labels", "servers", "entity_type", "status_type")
    assert event(command("HEARTBEAT", 7, **dict.fromkeys(fields))) == Heartbeat(worker_id=7)
    assert event(command("SERVER_STARTED", 31, 7, None)).game_server_config_id is None


def test_unknown_fields_are_ignored():
    assert event(command("HEARTBEAT", 7, moon="full")) == Heartbeat(worker_id=7)


def test_an_empty_inventory_is_not_none():
    assert event(command("HEARTBEAT", 7, servers=[])).servers.list_entries() == ()
    assert event(command("HEARTBEAT", 7)).servers is None


def test_an_inventory_lists_each_instance_once_by_id():
    said = [{"instance_id": 9}, {"instance_id": 3, "game_server_config_id": 5, "status": "INITIALIZING"}]
    assert event(command("HEARTBEAT", 7, servers=[*said, said[0]])).servers.list_entries() == (
        InventoryEntry(3, StatusType.INITIALIZING, 5),
        InventoryEntry(9, StatusType.RUNNING, None),
    )


def test_equal_inventories_have_equal_digests():
    def digest(*ids):
        return event(command("HEARTBEAT", 7, servers=[{"instance_id": each} for each in ids])).servers.digest

    assert digest(1, 2) == digest(1, 2)
    assert len({digest(), digest(1), digest(2), digest(1, 2)}) == 4
    assert 0 not in {digest(), digest(1)}


@pytest.mark.parametrize(
    ("said", "code"),
    [(0, 0), ("0", 0), (1, 1), ("-9", -9), (3221225786, 3221225786), (None, None), ("", None), ("None", None)],
)
def test_exit_codes(said, code):
    assert event(command("SERVER_STOPPED", 31, 7, said)).exit_code == code


@pytest.mark.parametrize("wrong", ["--1", "-", "1.0", 1.5, 2**63, "9" * 19, [], "\u0663"])
def test_what_is_no_exit_code_is_poison(wrong):
    assert "`$.command_args[2]`" in reason(command("SERVER_STOPPED", 31, 7, wrong))


def test_notices_come_back_as_they_were_sent():
    sent_at = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
    assert decode(canary("host-1", sent_at)).notices == [CanarySent(sent_at)]
    assert decode(guard_release("eu-1")).notices == [GuardReleased("eu-1")]
    assert decode(guard_release("")).notices == [GuardReleased("")]


@pytest.mark.parametrize(
    "message",
    [
        {"command_type": "CANARY"},
        {"command_type": "CANARY", "sent_at": "2026-11-23T12:00:00"},
        {"command_type": "RELEASE_GUARD"},
        {"command_type": "RELEASE_GUARD", "command_args": [7]},
        {"command_type": "RELEASE_GUARD", "command_args": ["x" * 256]},
    ],
)
def test_a_notice_without_its_content_is_poison(message):
    assert reason(message)


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
plain = st.none() | st.booleans() | numbers | st.text(max_size=30)
anything = st.recursive(plain, lambda some: st.lists(some, max_size=4) | st.dictionaries(st.text(max_size=9), some))
KINDS = ["HEARTBEAT", "WORKER_STARTED", "WORKER_STOPPED", "SERVER_STARTED", "SERVER_STOPPED", "CANARY", "RELEASE_GUARD"]
ids = st.integers(-1, 9) | st.sampled_from(["7", "-7", "", "7" * 30, "\u0667"])
times = st.datetimes().map(datetime.isoformat) | st.datetimes(timezones=st.timezones()).map(datetime.isoformat)
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


def assert_accounted_for(body):
    """Whatever it is, each part of it becomes something, and what is left over can be stored."""
    decoded = decode(body)
    assert decoded.count >= 1
    assert all(poison.reason and isinstance(poison.body, bytes) for poison in decoded.poison)
    for each in decoded.events:
        for name in ("worker_id", "instance_id", "incarnation", "seq", "sent_at"):
            value = getattr(each, name, None)
            assert value is None or 1 <= value <= MAX
        if isinstance(each, Heartbeat):
            assert each.interval_seconds is None or 1 <= each.interval_seconds <= 3600
            for entry in each.servers.list_entries() if each.servers else ():
                assert 1 <= entry.instance_id <= MAX
    return decoded


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(body):
    assert_accounted_for(body)


@settings(deadline=None, max_examples=200)
@given(st.one_of(anything, nearly))
def test_no_json_is_too_strange(message):
    assert_accounted_for(json.dumps(message).encode())


@settings(deadline=None)
@given(st.lists(st.one_of(nearly, anything), min_size=1, max_size=5))
def test_each_element_of_an_array_is_taken_as_if_alone(messages):
    together = assert_accounted_for(json.dumps(messages).encode())
    alone = [decode(json.dumps(message).encode()) for message in messages]
    if not any(isinstance(message, list) for message in messages):
        assert together.count == len(messages)
        assert [type(each) for each in together.events] == [type(each) for one in alone for each in one.events]


SILENCE = {"silence_id": "abcd1234", "seconds": 3600, "why": "new switches"}


@pytest.mark.parametrize(
    "notice",
    [
        SilenceAsked(**SILENCE),
        SilenceAsked(**SILENCE, by="ops", group="", worker_id=7, rule="worker_lost", labels={"rack": "3"}),
        SilenceEnded("abcd1234"),
        AlertAcknowledged(12, by="ops", why="on it"),
    ],
)
def test_a_word_about_alerts_is_understood_as_it_was_said(notice):
    assert decode(alert_notice(notice)).notices == [notice]


@pytest.mark.parametrize(
    ("kind", "arguments", "reason"),
    [
        ("SILENCE", [], "SILENCE needs an object - at `$.command_args[0]`"),
        ("SILENCE", ["eu-1"], "Expected `object`, got `str` - at `$.command_args[0]`"),
        ("SILENCE", [SILENCE | {"seconds": 0}], "Expected `float` > 0.0 - at `$.command_args[0].seconds`"),
        ("SILENCE", [SILENCE | {"why": ""}], "Expected `str` of length >= 1 - at `$.command_args[0].why`"),
        ("SILENCE", [SILENCE | {"group": "a\0"}], "a NUL character - at `$.command_args[0]`"),
        ("ACKNOWLEDGE", [{"alert_id": 0}], "Expected `int` >= 1 - at `$.command_args[0].alert_id`"),
    ],
)
def test_a_word_about_alerts_that_cannot_be_meant_is_poison(kind, arguments, reason):
    [poison] = decode(json.dumps(command(kind, *arguments)).encode()).poison
    assert poison.reason == reason
