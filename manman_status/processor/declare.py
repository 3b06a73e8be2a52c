"""The topology of `wire/topology.py`, declared on the broker through FastStream."""

from __future__ import annotations

from typing import cast

from aio_pika.abc import AbstractConnection
from faststream.rabbit import ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.schemas.queue import ClassicQueueArgs, QuorumQueueArgs

from manman_status.wire.notices import CONTROL_KEYS
from manman_status.wire.topology import HEARTBEAT_KEYS, LIFECYCLE_KEYS, Topology


def topic(name: str) -> RabbitExchange:
    return RabbitExchange(name, type=ExchangeType.TOPIC, durable=True)


def heartbeat_queue(topology: Topology) -> RabbitQueue:
    return RabbitQueue(
        topology.heartbeat_queue,
        queue_type=QueueType.CLASSIC,
        durable=True,
        arguments=cast("ClassicQueueArgs", topology.heartbeat_arguments),
        routing_key=HEARTBEAT_KEYS[0],
    )


def lifecycle_queue(topology: Topology) -> RabbitQueue:
    return RabbitQueue(
        topology.lifecycle_queue,
        queue_type=QueueType.QUORUM,
        durable=True,
        arguments=cast("QuorumQueueArgs", topology.lifecycle_arguments),
        routing_key=LIFECYCLE_KEYS[0],
    )


async def declare_exchanges(broker: RabbitBroker, topology: Topology) -> None:
    """The exchanges, and where dead letters are kept: before anything is consumed that might become one."""
    await broker.declare_exchange(topic(topology.inbound_exchange))
    await broker.declare_exchange(topic(topology.outbound_exchange))
    await broker.declare_exchange(topic(topology.control_exchange))
    dead = await broker.declare_exchange(topic(topology.dead_letter_exchange))
    queue = RabbitQueue(
        topology.dead_letter_queue,
        queue_type=QueueType.QUORUM,
        durable=True,
        arguments=cast("QuorumQueueArgs", topology.dead_letter_arguments),
    )
    await (await broker.declare_queue(queue)).bind(dead, routing_key="#")


async def bind_queues(broker: RabbitBroker, topology: Topology) -> None:
    """All routing keys. After the subscribers have started: FastStream keeps one object a queue, on the channel of
    whoever declares it first, and each subscriber must have its own channel for itself."""
    inbound = await broker.declare_exchange(topic(topology.inbound_exchange))
    control = await broker.declare_exchange(topic(topology.control_exchange))
    for queue, bindings in (
        (heartbeat_queue(topology), ((inbound, HEARTBEAT_KEYS),)),
        (lifecycle_queue(topology), ((inbound, LIFECYCLE_KEYS), (control, CONTROL_KEYS.values()))),
    ):
        declared = await broker.declare_queue(queue)
        for exchange, keys in bindings:
            for key in keys:
                await declared.bind(exchange, routing_key=key)


async def declare_dead_letters(connection: AbstractConnection, topology: Topology) -> None:
    """The dead-letter exchange and queue, though FastStream believes that they are there."""
    async with connection.channel() as channel:
        exchange = await channel.declare_exchange(topology.dead_letter_exchange, "topic", durable=True)
        arguments = {"x-queue-type": "quorum", **topology.dead_letter_arguments}
        queue = await channel.declare_queue(topology.dead_letter_queue, durable=True, arguments=arguments)
        await queue.bind(exchange, routing_key="#")
