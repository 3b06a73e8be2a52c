"""Resource alarms: while it is low on memory or disk, RabbitMQ holds back all publishers
(`connection.blocked`)."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from manman_status.errors import BrokerRefuses

if TYPE_CHECKING:
    from aio_pika import Connection

_reasons: WeakKeyDictionary[object, str] = WeakKeyDictionary()
"""The broker's reasons, by aiormq's connection."""


class _Listening(logging.Filter):
    """A filter that reads the broker's reason from aiormq's log, the only place where it stands."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == "Connection %r was blocked by: %r" and isinstance(record.args, tuple):
            connection, reason = record.args
            if reason:
                _reasons[connection] = str(reason)
        return record.levelno >= logging.CRITICAL


def learn_reasons() -> None:
    """Learn the reasons of all connections of this process. For programs whose only AMQP
    connections are our own."""
    library = logging.getLogger("aiormq.connection")
    library.setLevel(logging.WARNING)
    if not any(isinstance(each, _Listening) for each in library.filters):
        library.addFilter(_Listening())


async def alarm_of(connection: Connection) -> str | None:
    """The reason why RabbitMQ holds back what this connection publishes; None while it does not.
    RabbitMQ sends it at the first message that comes during an alarm, not before."""
    if connection.transport is None:
        return None
    underlay = connection.transport.connection
    try:
        async with asyncio.timeout(0):
            await underlay.ready()  # returns at once, unless it is blocked
    except TimeoutError:
        return _reasons.get(underlay, "a resource alarm") if not underlay.is_closed else None
    return None


def held_back(alarm: str) -> BrokerRefuses:
    return BrokerRefuses(cause=f"RabbitMQ holds back publishers because of an alarm: {alarm}")
