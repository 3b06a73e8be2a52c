"""The topology of `wire/topology.py`, declared on the broker.

Each thing is declared by itself, on a channel of its own: one that RabbitMQ refuses closes only that. A user who may
not configure it can go on when it is there already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiormq
import structlog
from aiormq.exceptions import AMQPError, ChannelAccessRefused, ChannelPreconditionFailed
from faststream.rabbit import ExchangeType, RabbitExchange

from manman_status.cancellation import within
from manman_status.errors import BrokerRefuses, BrokerUnavailable, ManManStatusError
from manman_status.reporter.causes import fault_of
from manman_status.reporter.connection import ANSWER_WITHIN_SECONDS
from manman_status.wire.notices import CONTROL_KEYS
from manman_status.wire.topology import HEARTBEAT_KEYS, LIFECYCLE_KEYS, Topology

if TYPE_CHECKING:
    from aio_pika import Connection
    from aiormq.abc import AbstractChannel

log = structlog.get_logger()

Declare = Callable[["AbstractChannel", bool], Awaitable[Any]]
"""Declares on this channel; only looks whether it is there when the second argument is true."""

BROKER_FAULTS = (AMQPError, OSError, RuntimeError, TimeoutError)
"""aiormq raises RuntimeError where a channel or connection is closed already."""


class OtherArguments(ManManStatusError):  # noqa: N818
    """{subject} exists with other arguments: {cause}. Delete it when it is empty, or name another in the settings"""


def topic(name: str) -> RabbitExchange:
    return RabbitExchange(name, type=ExchangeType.TOPIC, durable=True)


def arguments_of(topology: Topology, queue: str) -> dict[str, Any]:
    """Of one of the two shared queues, or the dead-letter queue."""
    of_each = {
        topology.heartbeat_queue: {"x-queue-type": "classic", **topology.heartbeat_arguments},
        topology.lifecycle_queue: {"x-queue-type": "quorum", **topology.lifecycle_arguments},
        topology.dead_letter_queue: {"x-queue-type": "quorum", **topology.dead_letter_arguments},
    }
    return of_each[queue]


async def declare_inbound(connection: Connection, topology: Topology, queue: str) -> None:
    """One of the shared queues, bound to its exchanges. Raises OtherArguments or BrokerUnavailable."""
    bindings: dict[str, Sequence[str]] = {topology.inbound_exchange: HEARTBEAT_KEYS}
    if queue == topology.lifecycle_queue:
        bindings = {
            topology.inbound_exchange: LIFECYCLE_KEYS,
            topology.control_exchange: tuple(CONTROL_KEYS.values()),
        }
    for exchange, keys in bindings.items():
        await _exchange(connection, exchange)
        await _queue(connection, topology, queue, exchange, keys)


async def declare_outbound(connection: Connection, topology: Topology) -> None:
    """What the processor publishes to. Raises OtherArguments or BrokerUnavailable."""
    for exchange in (topology.inbound_exchange, topology.outbound_exchange, topology.dead_letter_exchange):
        await _exchange(connection, exchange)


async def declare_dead_letters(connection: Connection, topology: Topology) -> None:
    """The dead-letter exchange and its queue, bound. Raises OtherArguments or BrokerUnavailable."""
    await _exchange(connection, topology.dead_letter_exchange)
    await _queue(connection, topology, topology.dead_letter_queue, topology.dead_letter_exchange, ["#"])


async def _exchange(connection: Connection, name: str) -> None:
    async def declare(channel: AbstractChannel, passive: bool) -> None:
        await channel.exchange_declare(name, exchange_type="topic", durable=True, passive=passive)

    await _declare(connection, f"exchange {name!r}", declare)


async def _queue(connection: Connection, topology: Topology, name: str, exchange: str, keys: Sequence[str]) -> None:
    async def declare(channel: AbstractChannel, passive: bool) -> None:
        arguments = arguments_of(topology, name)
        await channel.queue_declare(name, durable=True, arguments=arguments, passive=passive)

    async def bind(channel: AbstractChannel, passive: bool) -> None:
        for key in keys if not passive else ():  # whether it is bound cannot be asked: canaries show it
            await channel.queue_bind(name, exchange, key)

    await _declare(connection, f"queue {name!r}", declare)
    await _declare(connection, f"queue {name!r}", bind)


async def _declare(connection: Connection, subject: str, declare: Declare) -> None:
    async def once(*, passive: bool) -> None:
        async with bare_channel(connection) as channel:
            await declare(channel, passive)

    url = str(connection.url)
    try:
        await within(ANSWER_WITHIN_SECONDS, once(passive=False))
    except ChannelAccessRefused as refused:
        try:
            await within(ANSWER_WITHIN_SECONDS, once(passive=True))
        except BROKER_FAULTS:
            raise fault_of(refused, url, right="configure") from refused
        log.debug("declared_by_others", subject=subject, error=str(refused))
    except ChannelPreconditionFailed as error:
        raise OtherArguments(subject=subject, cause=str(error)) from error
    except BROKER_FAULTS as error:
        fault = fault_of(error, url)
        named = fault if subject.split("'")[1] in str(fault) else _named(fault, subject)
        raise named from error


def _named(fault: BrokerUnavailable, subject: str) -> BrokerUnavailable:
    return BrokerRefuses(cause=f"{subject}: {fault}")


@asynccontextmanager
async def bare_channel(connection: Connection) -> AsyncIterator[AbstractChannel]:
    """A channel for one question: an answer of "not there" closes it, and nothing must open it again."""
    if connection.transport is None:
        raise aiormq.exceptions.ChannelInvalidStateError("not connected")
    channel = await connection.transport.connection.channel(publisher_confirms=False)
    try:
        yield channel
    finally:
        if not channel.is_closed:
            await channel.close()
