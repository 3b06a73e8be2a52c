"""Messages whose AMQP properties no client library reads: the broker passes them on all the
same."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import pytest
from yarl import URL

from manman_status.reporter.transport import OwnTransport
from tests.integration.test_trust import is_observed_anew
from tests.kinds import Eventually, FetchRows, StartRole
from tests.messaging import Publisher

BEAT = {"command_type": "HEARTBEAT", "command_args": ["7"]}
TIMESTAMP, HEADERS, CONTENT_TYPE = 1 << 6, 1 << 13, 1 << 15
LONGEST_FRAME = 100_000


def short(text: Any) -> Any:
    return bytes([len(text)]) + text


def table(content: Any) -> Any:
    return struct.pack(">I", len(content)) + content


def deep_table() -> Any:
    content = b""
    while len(content) < LONGEST_FRAME:
        content = short(b"a") + b"F" + table(content)
    return table(content)


def frame(kind: Any, channel: Any, payload: Any) -> Any:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def publishing(channel: Any, routing_key: Any, flags: Any, properties: Any) -> Any:
    """The frames of Basic.Publish, as bytes: pamqp would refuse to write these."""
    body = json.dumps(BEAT).encode()
    method = (
        struct.pack(">HHH", 60, 40, 0)
        + short(b"internal_service_events")
        + short(routing_key)
        + b"\x00"
    )
    header = struct.pack(">HHQH", 60, 0, len(body), flags) + properties
    return frame(1, channel, method) + frame(2, channel, header) + frame(3, channel, body)


@pytest.fixture
async def publish_raw(broker: str) -> AsyncIterator[Any]:
    transport = OwnTransport(broker)
    connection = aio_pika.Connection(URL(broker))
    connection.kwargs["transport_factory"] = transport
    await connection.connect()
    channel = await connection.channel(publisher_confirms=False)

    def publish(routing_key: Any, flags: Any, properties: Any) -> None:
        assert transport._writer is not None
        transport._writer.write(publishing(channel.number, routing_key, flags, properties))

    yield publish
    await channel.get_exchange("internal_service_events")  # nothing of it closed the channel
    await connection.close()


STRANGE = {
    "a time in the year 584554051": (TIMESTAMP, b"\xff" * 8),
    "a content type that is not UTF-8": (CONTENT_TYPE, short(b"\xff")),
    "a header's name that is not UTF-8": (HEADERS, table(short(b"\xff") + b"V")),
    "a header with that time": (HEADERS, table(short(b"a") + b"T" + b"\xff" * 8)),
    "headers nested deeply": (HEADERS, deep_table()),
}


async def test_no_property_of_a_message_stops_a_queue(
    start_processor: StartRole,
    publish: Publisher,
    publish_raw: Any,
    rows: FetchRows,
    eventually: Eventually,
) -> None:
    """Two processors run, since each waits for the other to settle all that it was given."""
    roles = [await start_processor(canary_interval_seconds=0.2) for _ in range(2)]
    for flags, properties in STRANGE.values():
        publish_raw(b"worker.7.heartbeat", flags, properties)
        publish_raw(b"worker.7.lifecycle", flags, properties)
    publish_raw(b"worker.\xff.heartbeat", 0, b"")
    publish_raw(b"worker.\xff.lifecycle", 0, b"")
    stored = (
        "SELECT 1 FROM processors HAVING sum((statistics #>> '{events,Heartbeat,stored}')::int)"
        " >= $1"
    )
    await eventually(lambda: rows(stored, 2 * len(STRANGE) + 2))
    await is_observed_anew(rows, eventually)
    for role in roles:
        assert "reading_interrupted" not in role.log
        assert "was_cut_off_from_broker" not in role.log
