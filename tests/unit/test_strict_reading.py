"""The strict reading of a body says what the liberal one says, or refuses.

Nearly all that is read is in the usual form, and reading it strictly costs a fraction: nothing may
mean something else because another event beside it was refused.
"""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manman_status.wire.inbound import Meaning, decode, decode_liberally, decode_strictly
from manman_status.wire.liberal import read_liberally
from manman_status.wire.messages import COMMANDS
from tests.odd_messages import BEAT, TEMPLATES, command, mutated
from tests.unit.test_inbound import ODD, VALID, mutate


def plain(item: Any) -> tuple[Any, Any]:
    """A plain event, with the list of its inventory. Its digest is of the bytes that were read,
    which differ: a liberal reading writes an inventory anew."""
    fields = msgspec.structs.asdict(item)
    if (servers := fields.get("servers")) is not None:
        assert servers.digest
        fields["servers"] = servers.list_entries()
    return type(item), fields


def whole(decoded: Any) -> tuple[Any, Any, Any, Any, Any]:
    items = [plain(item) for item in (*decoded.events, *decoded.control)]
    return items, decoded.ignored, decoded.poison, decoded.json_bytes, decoded.count


def assert_read_alike(body: bytes) -> None:
    assert whole(decode(body)) == whole(decode_liberally(body))
    meanings = strictly(body)
    if not meanings or b"\xef\xbf\xbd" in body.decode("utf-8", "replace").encode():
        return  # the strict reading does not look at the text of fields that it ignores
    is_array = body.lstrip().startswith(b"[")
    parts = msgspec.json.decode(body, type=list[msgspec.Raw]) if is_array else [body]
    for meaning, part in zip(meanings, map(bytes, parts), strict=True):
        read = read_liberally(part)
        assert (plain(read.meaning), read.left_out) == (plain(meaning), [])


def test_every_field_is_read_alike_by_both() -> None:
    """The examples have every field, so that a new one is in them and in both readings."""
    examples = [example for command in COMMANDS.values() for example in command.EXAMPLES]
    fields = {field for command in COMMANDS.values() for field in command.__struct_encode_fields__}
    assert fields - {name for example in examples for name in example} == set()
    for example in examples:
        assert_read_alike(json.dumps(example).encode())


def strictly(body: bytes) -> list[Meaning]:
    try:
        return decode_strictly(body)
    except Exception:  # noqa: BLE001 - whatever refuses it
        return []


numbers = st.integers(-1, 2**64) | st.sampled_from(
    [0, 1, 10**9, 10**12, 10**15, 10**18, 2**63 - 1, 2**63]
)
times = st.datetimes().map(str) | st.datetimes(timezones=st.timezones()).map(
    lambda time: time.isoformat()
)
texts = st.text(max_size=8) | st.sampled_from(
    ["", "\0", "7", "007", "7.0", "None", "null", "command_type", "x" * 256]
)
values = st.none() | st.booleans() | numbers | st.floats(allow_nan=False) | texts
entries = st.fixed_dictionaries(
    {"instance_id": numbers | texts},
    optional={
        "game_server_config_id": values,
        "status": st.sampled_from(["RUNNING", "LOST", "running", None]),
    },
)
fields = {
    "incarnation": values,
    "seq": values,
    "sent_at": times | values,
    "interval_seconds": values,
    "labels": st.dictionaries(texts, texts | values, max_size=66) | values,
    "servers": st.lists(entries, max_size=4) | values,
    "entity_type": values,
    "moon": values | st.lists(values),
}
kinds = ["HEARTBEAT"] * 5 + [
    "WORKER_STARTED",
    "WORKER_STOPPED",
    "SERVER_STARTED",
    "SERVER_STOPPED",
    "STOP",
    "heartbeat",
]
commands = st.fixed_dictionaries(
    {
        "command_type": st.sampled_from(kinds),
        "command_args": st.lists(numbers | texts | st.none(), max_size=4),
    },
    optional=fields,
)


@given(message=commands | st.lists(commands, min_size=1, max_size=3), ascii_only=st.booleans())
def test_generated_bodies_are_read_alike(message: Any, ascii_only: Any) -> None:
    assert_read_alike(json.dumps(message, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))


def test_mutated_bodies_are_read_alike() -> None:
    chance = random.Random(13)
    for _ in range(5_000):
        bodies = [chance.choice(VALID) for _ in range(3)]
        for place in range(3):
            bodies[place] = mutate(bodies[place], chance) or b"0"
            assert_read_alike(bodies[place])
        assert_read_alike(b"[" + b",".join(bodies) + b"]")
        # Where Python's recursion limit lies depends on the depth of the call, which differs.
        if (strange := mutated(chance)).count(b"[") + strange.count(b'{"a":') < 800:
            assert_read_alike(strange)


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("field", ["command_type", "command_args", *fields])
def test_an_odd_value_in_any_field_is_read_alike(field: Any, odd: Any) -> None:
    body = json.dumps(BEAT | {field: "here"}).encode().replace(b'"here"', odd)
    assert_read_alike(body)
    assert_read_alike(b"[%s,%s]" % (json.dumps(BEAT).encode(), body))


@pytest.mark.parametrize(
    "second",
    [
        b'"command_type":"WORKER_STOPPED"',
        b'"command\\u005ftype":"WORKER_STOPPED"',
        b'"command_type" : "STOP"',
        b'"command_type":7',
        b'"command_args":["8"]',
        b'"seq":7,"seq":8',
        b'"seq":"x","seq":8',
        b'"labels":{"command_type":"a"}',
        b'"labels":{"a":"\\u0000"}',
        b'"labels":{"a":"1","a":"2"}',
    ],
)
def test_of_a_field_that_comes_twice_the_same_one_counts(second: Any) -> None:
    first = b'{"command_type":"HEARTBEAT","command_args":["7"],%s}' % second
    last = b'{%s,"command_type":"HEARTBEAT","command_args":["7"]}' % second
    for body in (first, last, b"[%s,%s]" % (first, last)):
        assert_read_alike(body)


@pytest.mark.parametrize(
    "message",
    [
        *(
            each
            for each in TEMPLATES
            if isinstance(each, dict) and each.get("command_type") in kinds
        ),
        [BEAT, command("SERVER_STARTED", "31", "7", "3")],
        BEAT | {"labels": {"group": "Köln"}},
        BEAT | {"moon": "full"},
        command("HEARTBEAT", 7, seq=None, labels=None, servers=None),
    ],
)
def test_the_usual_form_is_read_fast(message: Any) -> None:
    """Else this is no faster than before, and no other test would say so."""
    body = json.dumps(message, ensure_ascii=False).encode()
    assert strictly(body)
    assert_read_alike(body)
