"""The topology of `wire/topology.py`, declared on the broker.

Each thing is declared by itself, on a channel of its own: one that RabbitMQ refuses closes only
that. A user who may not configure it can go on when it is there already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import aiormq
import structlog
from aiormq.exceptions import (
    AMQPError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
)
from faststream.rabbit import ExchangeType, RabbitExchange

from manman_status.cancellation import within
from manman_status.errors import BrokerRefuses, BrokerUnavailable, ManManStatusError, PluginMissing
from manman_status.reporter.causes import fault_of
from manman_status.reporter.connection import ANSWER_WITHIN_SECONDS
from manman_status.wire.control import CONTROL_KEYS
from manman_status.wire.dialects import entrance_of, inbound_exchanges
from manman_status.wire.topology import DROPPED_KEY, V2_KEYS, Topology

if TYPE_CHECKING:
    from aio_pika import Connection
    from aiormq.abc import AbstractChannel

log = structlog.get_logger()

Kind: TypeAlias = Literal["queue", "exchange"]
Declare = Callable[["AbstractChannel", bool], Awaitable[Any]]
"""A declaration on this channel. It only checks that the thing exists when the second argument is
true."""

BROKER_FAULTS = (AMQPError, OSError, RuntimeError, TimeoutError)
"""aiormq raises RuntimeError where a channel or connection is closed already."""


OPERATOR_KEYS = tuple(CONTROL_KEYS.values())
ONE_SHARE = "1"
"""The key with which a queue is bound to a consistent-hash exchange is its weight."""


class OtherArguments(ManManStatusError):  # noqa: N818
    """{subject} exists with other arguments: {cause}. Delete it when it is empty, or name another
    in the settings"""


def topic(name: str) -> RabbitExchange:
    return RabbitExchange(name, type=ExchangeType.TOPIC, durable=True)


def arguments_of(topology: Topology, queue: str) -> dict[str, Any]:
    """The arguments of a queue that is declared here."""
    if topology.partition_of(queue) is not None:
        return {"x-queue-type": "classic", **topology.heartbeat_arguments}
    of_each = {
        topology.lifecycle: {"x-queue-type": "quorum", **topology.lifecycle_arguments},
        topology.v2: {"x-queue-type": "quorum", **topology.lifecycle_arguments},
        topology.dropped_queue: {"x-queue-type": "classic", **topology.dropped_arguments},
        topology.dead_letter_queue: {"x-queue-type": "quorum", **topology.dead_letter_arguments},
    }
    return of_each[queue]


async def declare_inbound(
    connection: Connection, topology: Topology, queue: str, *, partitions: int
) -> None:
    """Declare one queue that workers' messages are put into, with the bindings for heartbeats
    spread over so many queues. Raises OtherArguments, PluginMissing or BrokerUnavailable.

    Whatever it was bound to before, each message finds a queue at every step: the new way is there
    before the old one goes. In between a heartbeat may come twice.
    """
    entrance = entrance_of(topology, queue)
    await _exchange(connection, entrance.exchange)
    await _exchange(connection, topology.control_exchange)
    if not entrance.is_transient:
        await _queue(connection, topology, queue, entrance.exchange, entrance.keys)
        is_control = queue == topology.control_queue
        await _set_bindings(
            connection, "queue", queue, topology.control_exchange, OPERATOR_KEYS, bound=is_control
        )
        return
    await declare_dropped(connection, topology)
    if partitions == 1:
        await _queue(
            connection, topology, queue, topology.inbound_exchange, topology.heartbeat_keys
        )
        await _set_bindings(
            connection,
            "exchange",
            topology.hash_exchange,
            topology.inbound_exchange,
            topology.heartbeat_keys,
            bound=False,
        )
        return
    await _hash_exchange(connection, topology)
    await _queue(connection, topology, queue, topology.hash_exchange, [ONE_SHARE])
    await _set_bindings(
        connection,
        "exchange",
        topology.hash_exchange,
        topology.inbound_exchange,
        topology.heartbeat_keys,
        bound=True,
    )
    await _set_bindings(
        connection, "queue", queue, topology.inbound_exchange, topology.heartbeat_keys, bound=False
    )


async def declare_dropped(connection: Connection, topology: Topology) -> None:
    """Declare the queue that shows that the broker dropped heartbeats. Raises OtherArguments or
    BrokerUnavailable."""
    await _queue(
        connection, topology, topology.dropped_queue, topology.control_exchange, [DROPPED_KEY]
    )


async def release(connection: Connection, topology: Topology, queue: str) -> bool:
    """Unbind a queue from everything that puts messages into it. False when the queue does not
    exist. Raises BrokerUnavailable."""
    if await look_at(connection, queue) is None:
        return False
    inbound = (topology.inbound_exchange, (*topology.heartbeat_keys, *topology.lifecycle_keys))
    for exchange, some in (
        (topology.v2_exchange, V2_KEYS) if queue == topology.v2 else inbound,
        (topology.control_exchange, OPERATOR_KEYS),
        (topology.hash_exchange, (ONE_SHARE,)),
    ):
        await _set_bindings(connection, "queue", queue, exchange, some, bound=False)
    return True


async def look_at(connection: Connection, queue: str) -> tuple[int, int] | None:
    """Count the messages that wait in a queue, and its consumers; None when it does not exist.
    Raises BrokerUnavailable."""

    async def query() -> tuple[int, int]:
        async with bare_channel(connection) as channel:
            found = await channel.queue_declare(queue, passive=True)
            return found.message_count or 0, found.consumer_count or 0

    try:
        return await within(ANSWER_WITHIN_SECONDS, query())
    except ChannelNotFoundEntity:
        return None
    except BROKER_FAULTS as error:
        raise fault_of(error, str(connection.url), right="read from") from error


async def delete_left(connection: Connection, queue: str) -> bool:
    """Delete a queue that is bound to nothing, if it has no consumer and is empty: after that no
    message can come back to it. False when it has either. Raises BrokerUnavailable."""
    found = await look_at(connection, queue)
    if found is None:
        return True
    if any(found):
        return False

    async def delete() -> None:
        async with bare_channel(connection) as channel:
            # RabbitMQ has no if-empty and if-unused for quorum queues.
            await channel.queue_delete(queue)

    try:
        await within(ANSWER_WITHIN_SECONDS, delete())
    except BROKER_FAULTS as error:
        raise fault_of(error, str(connection.url), right="configure") from error
    return True


async def declare_outbound(connection: Connection, topology: Topology) -> None:
    """Declare the exchanges that the processor publishes to. Raises OtherArguments or
    BrokerUnavailable."""
    for exchange in (
        *inbound_exchanges(topology),
        topology.outbound_exchange,
        topology.dead_letter_exchange,
    ):
        await _exchange(connection, exchange)


async def declare_dead_letters(connection: Connection, topology: Topology) -> None:
    """Declare the dead-letter exchange and its queue, and bind it. Raises OtherArguments or
    BrokerUnavailable."""
    await _exchange(connection, topology.dead_letter_exchange)
    await _queue(
        connection, topology, topology.dead_letter_queue, topology.dead_letter_exchange, ["#"]
    )


async def _exchange(connection: Connection, name: str, kind: str = "topic") -> None:
    async def declare(channel: AbstractChannel, passive: bool) -> None:
        await channel.exchange_declare(name, exchange_type=kind, durable=True, passive=passive)

    await _declare(connection, f"exchange {name!r}", declare)


async def _hash_exchange(connection: Connection, topology: Topology) -> None:
    try:
        await _exchange(connection, topology.hash_exchange, "x-consistent-hash")
    except (BrokerUnavailable, OtherArguments) as error:
        # Before version 4 it ends the connection, then only the channel.
        if "exchange type" in str(error.__cause__):
            raise PluginMissing from error
        raise


async def _queue(
    connection: Connection, topology: Topology, name: str, exchange: str, keys: Sequence[str]
) -> None:
    async def declare(channel: AbstractChannel, passive: bool) -> None:
        arguments = arguments_of(topology, name)
        await channel.queue_declare(name, durable=True, arguments=arguments, passive=passive)

    await _declare(connection, f"queue {name!r}", declare)
    await _set_bindings(connection, "queue", name, exchange, keys, bound=True)


async def _set_bindings(
    connection: Connection,
    kind: Kind,
    name: str,
    source: str,
    keys: Sequence[str],
    *,
    bound: bool,
) -> None:
    """Bind a queue or an exchange to the exchange `source` with each of these keys, or unbind it.

    Unbinding changes nothing where it is not bound, nor where the exchange does not exist. Whether
    it is bound cannot be queried, so a user who may not configure it has to rely on others:
    canaries show it.
    """

    async def change(channel: AbstractChannel, passive: bool) -> None:
        changes: dict[tuple[Kind, bool], Callable[..., Awaitable[Any]]] = {
            ("queue", True): channel.queue_bind,
            ("queue", False): channel.queue_unbind,
            ("exchange", True): channel.exchange_bind,
            ("exchange", False): channel.exchange_unbind,
        }
        with nullcontext() if bound else suppress(ChannelNotFoundEntity):
            for key in () if passive else keys:
                await changes[kind, bound](name, source, routing_key=key)

    await _declare(connection, f"{kind} {name!r}", change)


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
    """A channel for one request: a refusal closes it, and nothing must open it again."""
    if connection.transport is None:
        raise aiormq.exceptions.ChannelInvalidStateError("not connected")
    channel = await connection.transport.connection.channel(publisher_confirms=False)
    try:
        yield channel
    finally:
        if not channel.is_closed:
            await channel.close()
