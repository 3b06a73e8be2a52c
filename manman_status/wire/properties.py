"""AMQP frames as the client library reads them: no property stops it, and deliveries cost less.

A message's publisher chooses its routing key and properties, and RabbitMQ passes most of them on as
they are. pamqp raises at a time after the year 9999, at text that is not UTF-8 and at tables nested
a thousand deep. That ends the connection, the broker sends the message again, and nothing behind it
is ever read. Here such a property counts as absent, and such text is replaced.
"""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Any, ClassVar

from pamqp import commands, decode

LENGTH_BYTES = 4


class Deliver(commands.Basic.Deliver):
    """The method frame before each message, read in the order of its fields.

    pamqp looks up the type of every field, and copies the rest of the frame for each.
    """

    __slots__: ClassVar[list[str]] = []  # those of pamqp's

    def unmarshal(self, data: bytes) -> None:
        used, self.consumer_tag = _text(data)
        self.delivery_tag, flags = _tag_and_flags(data, used)
        self.redelivered = bool(flags & 1)
        data = data[used + TAG_AND_FLAGS_BYTES :]
        used, self.exchange = _text(data)
        self.routing_key = _text(data[used:])[1]


_tag_and_flags = struct.Struct(">QB").unpack_from
TAG_AND_FLAGS_BYTES = 9


def read_any_properties() -> None:
    """Replace the decoders in the three tables where pamqp finds them, for the whole process.
    Calling it twice does no harm."""
    commands.INDEX_MAPPING[Deliver.index] = Deliver
    decode.METHODS |= {"shortstr": _text, "table": _table, "timestamp": _time}
    decode.TABLE_MAPPING[b"T"] = _time


def _text(value: bytes) -> tuple[int, str]:
    length = value[0]
    return length + 1, value[1 : length + 1].decode("utf-8", "replace")


def _time(value: bytes) -> tuple[int, datetime | None]:
    try:
        return decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, None


def _table(value: bytes) -> tuple[int, dict[str, Any]]:
    try:
        return decode.field_table(value)
    except (ValueError, OverflowError, RecursionError):
        return LENGTH_BYTES + int.from_bytes(value[:LENGTH_BYTES]), {}
