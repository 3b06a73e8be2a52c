"""Rights of the broker's user, tried in ways that change nothing.

RabbitMQ checks a right before anything else: for a message within a transaction that is rolled
back, for a declaration of what is there already, for the removal of a binding that was never there.
Reading is the exception: only a consumer sees whether it may read.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import aio_pika
from aio_pika.exceptions import ChannelClosed, ChannelNotFoundEntity, ChannelPreconditionFailed
from aiormq.exceptions import ChannelAccessRefused

from manman_status.wire.control import CONTROL_KEYS
from manman_status.wire.dialects import entrance_of, inbound_exchanges
from manman_status.wire.topology import Topology, worker_heartbeat_key

if TYPE_CHECKING:
    from aio_pika.abc import AbstractChannel, AbstractConnection

Attempt: TypeAlias = Callable[["AbstractChannel"], Awaitable[None]]

ANY_WORKER = 2**63 - 1
"""An id for workers that were not granted by name."""


async def may(connection: AbstractConnection, attempt: Attempt) -> bool | None:
    """Return whether the attempt is allowed; None if it cannot be tried, since what it needs does
    not exist."""
    channel = await connection.channel(publisher_confirms=False)  # each error closes one
    try:
        await attempt(channel)
    except ChannelAccessRefused:
        return False
    except (
        ChannelPreconditionFailed
    ):  # it is there with other arguments: the right was looked at before
        return True
    except (ChannelNotFoundEntity, ChannelClosed):
        return None
    finally:
        await channel.close()
    return True


def publish(exchange: str, routing_key: str) -> Attempt:
    async def attempt(channel: AbstractChannel) -> None:
        transaction = channel.transaction()
        await transaction.select()
        to = (
            await channel.get_exchange(exchange, ensure=False)
            if exchange
            else channel.default_exchange
        )
        await to.publish(aio_pika.Message(b""), routing_key, mandatory=False)
        await transaction.rollback()

    return attempt


def declare_exchange(name: str) -> Attempt:
    async def attempt(channel: AbstractChannel) -> None:
        await channel.declare_exchange(name, passive=True)
        await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)

    return attempt


def declare_queue(name: str) -> Attempt:
    async def attempt(channel: AbstractChannel) -> None:
        await channel.declare_queue(name, passive=True)
        await channel.declare_queue(name, durable=True)

    return attempt


def bind(queue: str, exchange: str) -> Attempt:
    async def attempt(channel: AbstractChannel) -> None:
        await channel.declare_queue(queue, passive=True)
        await channel.declare_exchange(exchange, passive=True)
        found = await channel.get_queue(queue, ensure=False)
        await found.unbind(exchange, routing_key=f"doctor-{uuid.uuid4().hex}")

    return attempt


async def allowed_control_keys(connection: AbstractConnection, topology: Topology) -> list[str]:
    return [
        key
        for key in CONTROL_KEYS.values()
        if await may(connection, publish(topology.control_exchange, key)) is not False
    ]


async def missing_for_processor(connection: AbstractConnection, topology: Topology) -> list[str]:
    """List what a processor must do and this user may not, as "declare the queue X", as far as it
    can be seen."""
    entrances = {queue: entrance_of(topology, queue) for queue in topology.queues(1)}
    queues = (*entrances, topology.dropped_queue, topology.dead_letter_queue)
    exchanges = (
        *inbound_exchanges(topology),
        topology.outbound_exchange,
        topology.control_exchange,
        topology.dead_letter_exchange,
    )
    bindings = (
        *((queue, entrance.exchange) for queue, entrance in entrances.items()),
        (topology.control_queue, topology.control_exchange),
        (topology.dropped_queue, topology.control_exchange),
        (topology.dead_letter_queue, topology.dead_letter_exchange),
    )
    published = (
        *{entrance.exchange: entrance.canary_key for entrance in entrances.values()}.items(),
        (topology.outbound_exchange, "worker.1.status"),
        (topology.dead_letter_exchange, "worker.1.lifecycle"),
    )
    attempts = {
        **{f"declare the exchange {name}": declare_exchange(name) for name in exchanges},
        **{f"declare the queue {name}": declare_queue(name) for name in queues},
        **{f"bind {queue} to {exchange}": bind(queue, exchange) for queue, exchange in bindings},
        **{f"publish to {name}": publish(name, key) for name, key in published},
    }
    return [what for what, attempt in attempts.items() if await may(connection, attempt) is False]


async def may_report_any_worker(connection: AbstractConnection, topology: Topology) -> bool:
    return (
        await may(connection, publish(topology.inbound_exchange, worker_heartbeat_key(ANY_WORKER)))
        is not False
    )
