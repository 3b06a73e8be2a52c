"""Canaries on the broker: sent to the shared queues, and to a queue of this processor's own on each channel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import structlog
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustConnection
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity
from aiormq.exceptions import ChannelLockedResource
from faststream import AckPolicy
from faststream.rabbit import Channel, RabbitBroker, RabbitMessage, RabbitQueue

from manman_status.backoff import OnceAMinute
from manman_status.pipeline.custody import Custody
from manman_status.pipeline.seal import Seal
from manman_status.processor.declare import topic
from manman_status.wire.notices import CANARY_KEYS, canary
from manman_status.wire.topology import Topology

log = structlog.get_logger()

BROKER_ERRORS = (AMQPError, ConnectionError, RuntimeError, TimeoutError)
"""aio-pika raises RuntimeError where a channel is closed, or asked for while the connection is made again."""
PUBLISH_WITHIN_SECONDS = 1


def own_queue(queue: str, processor_id: str) -> RabbitQueue:
    """Exclusive: it is there exactly as long as the processor's connection is."""
    return RabbitQueue(f"{queue}.{processor_id}", durable=False, exclusive=True, auto_delete=True)


def watch_own_queue(
    broker: RabbitBroker,
    queue: str,
    processor_id: str,
    channel: Channel,
    custody: Custody,
    seal: Seal,
    channel_of: Callable[[RabbitMessage], object],
    parse: Callable[[AbstractIncomingMessage], Awaitable[RabbitMessage]],
) -> None:
    """Read our own canaries on the channel of the shared queue: the broker numbers the deliveries of
    both as one.

    Whoever may publish to the default exchange can put anything into this queue. It counts as a
    delivery, and is otherwise ignored.
    """
    own = own_queue(queue, processor_id)
    warning = OnceAMinute()

    async def whole(message: RabbitMessage) -> RabbitMessage:
        return message

    @broker.subscriber(own, channel=channel, ack_policy=AckPolicy.ACK_FIRST, parser=parse, decoder=whole, no_reply=True)
    async def see(message: Any) -> None:
        sent_at = seal.open_own_canary(own.name, processor_id, message.body)
        custody.see_canary(channel_of(message), message.raw_message.delivery_tag, sent_at)
        if sent_at is None and warning.is_due():
            log.warning("false_canary_ignored", queue=own.name, meaning="somebody writes into a processor's own queue")


class BrokerCanaries:
    """Failing to send one is no error: its absence is what tells."""

    def __init__(
        self,
        broker: RabbitBroker,
        connection: AbstractRobustConnection,
        topology: Topology,
        processor_id: str,
        seal: Seal,
    ) -> None:
        self._broker = broker
        self._seal = seal
        self._connection = connection
        self.losses = 0
        connection.close_callbacks.add(self._note_loss)
        self._processor_id = processor_id
        self._exchange = topic(topology.inbound_exchange)
        self._dead_letter_queue = topology.dead_letter_queue
        self._keys = {
            topology.heartbeat_queue: CANARY_KEYS["heartbeats"],
            topology.lifecycle_queue: CANARY_KEYS["lifecycle"],
        }

    @property
    def is_connected(self) -> bool:
        return self._connection.connected.is_set()

    def _note_loss(self, *_: object) -> None:
        self.losses += 1

    async def send(self, queue: str, sent_at: datetime) -> None:
        body = canary(self._processor_id, sent_at, self._seal.sign(queue, self._processor_id, sent_at))
        await self._publish(body, exchange=self._exchange, routing_key=self._keys[queue])

    async def send_to_self(self, queue: str, sent_at: datetime) -> None:
        own = own_queue(queue, self._processor_id)
        await self._publish(self._seal.own_canary(own.name, self._processor_id, sent_at), queue=own)

    async def depths(self) -> tuple[dict[str, int], int | None]:
        names = (*self._keys, self._dead_letter_queue)
        try:
            async with asyncio.timeout(PUBLISH_WITHIN_SECONDS):
                async with self._connection.channel() as channel:
                    queues = [await channel.declare_queue(name, passive=True) for name in names]
        except BROKER_ERRORS:
            return {}, None
        *depths, dead_letters = [queue.declaration_result.message_count or 0 for queue in queues]
        return dict(zip(self._keys, depths, strict=True)), dead_letters

    async def _publish(self, body: bytes, **where: Any) -> None:
        try:
            # FastStream's own `timeout` does not count the time in which it waits to be connected again.
            async with asyncio.timeout(PUBLISH_WITHIN_SECONDS):
                await self._broker.publish(body, content_type="application/json", **where)
        except BROKER_ERRORS as error:
            log.debug("canary_not_sent", error=str(error))


async def is_connected(broker: RabbitBroker, topology: Topology, processor_id: str) -> bool | None:
    """Whether the broker still has a connection of this processor, and with it perhaps messages that only it holds;
    None when the broker cannot be asked."""
    try:
        async with asyncio.timeout(PUBLISH_WITHIN_SECONDS):
            connection = await broker.connect()
            async with connection.channel() as channel:
                await channel.declare_queue(f"{topology.heartbeat_queue}.{processor_id}", passive=True)
    except ChannelLockedResource:
        return True
    except ChannelNotFoundEntity:
        return False
    except BROKER_ERRORS:
        return None
    return True
