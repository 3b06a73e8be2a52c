"""Canaries on the broker: sent to the shared queues, and to a queue of this processor's own beside each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import structlog
from aiormq.exceptions import ChannelLockedResource, ChannelNotFoundEntity

from manman_status.cancellation import within
from manman_status.errors import BrokerUnavailable
from manman_status.pipeline.seal import Seal
from manman_status.processor.connection import QueueReader, own_queue
from manman_status.processor.declare import BROKER_FAULTS, bare_channel, topic
from manman_status.processor.publishing import Publishing
from manman_status.wire.notices import CANARY_KEYS, canary
from manman_status.wire.topology import Topology

if TYPE_CHECKING:
    from aio_pika import Connection

log = structlog.get_logger()

ASK_WITHIN_SECONDS = 1.0


class BrokerCanaries:
    """Failing to send one is no error: its absence is what tells. `readers` are by the name of their queue."""

    def __init__(
        self,
        publishing: Publishing,
        readers: Mapping[str, QueueReader],
        topology: Topology,
        processor_id: str,
        seal: Seal,
    ) -> None:
        self._seal = seal
        self._publishing = publishing
        self._readers = readers
        self._topology = topology
        self._processor_id = processor_id
        self._exchange = topic(topology.inbound_exchange)
        self._keys = {
            topology.heartbeat_queue: CANARY_KEYS["heartbeats"],
            topology.lifecycle_queue: CANARY_KEYS["lifecycle"],
        }

    @property
    def is_connected(self) -> bool:
        """Of reading alone: a processor that cannot publish proves nothing, but has missed nothing either."""
        return not any(reader.is_lost for reader in self._readers.values())

    @property
    def losses(self) -> int:
        return sum(reader.losses for reader in self._readers.values())

    @property
    def alarm(self) -> str | None:
        return self._publishing.alarm

    @property
    def problems(self) -> dict[str, str]:
        problems = {queue: reader.problem for queue, reader in self._readers.items() if reader.problem}
        return problems | ({"publishing": self._publishing.problem} if self._publishing.problem else {})

    async def send(self, queue: str, sent_at: datetime) -> None:
        body = canary(self._processor_id, sent_at, self._seal.sign(queue, self._processor_id, sent_at))
        try:
            await self._publishing.publish_canary(body, exchange=self._exchange, routing_key=self._keys[queue])
        except BrokerUnavailable as error:
            log.debug("canary_not_sent", queue=queue, error=str(error))

    async def send_to_self(self, queue: str, sent_at: datetime) -> None:
        name = own_queue(queue, self._processor_id)
        try:
            body = self._seal.own_canary(name, self._processor_id, sent_at)
            await self._publishing.publish_canary(body, queue=name)
        except BrokerUnavailable as error:
            log.debug("canary_not_sent", queue=name, error=str(error))
        else:
            self._readers[queue].expect(sent_at)

    async def depths(self) -> tuple[dict[str, int], int | None]:
        names = (*self._keys, self._topology.dead_letter_queue)
        try:
            *depths, dead_letters = await within(ASK_WITHIN_SECONDS, asyncio.gather(*map(self._depth, names)))
        except TimeoutError:
            return {}, None
        return {
            queue: depth for queue, depth in zip(self._keys, depths, strict=True) if depth is not None
        }, dead_letters

    async def is_there(self, processor_id: str) -> bool | None:
        """Whether the broker still has a connection of this processor, and with it perhaps messages that only it
        holds; None when the broker cannot be asked."""
        answers = [await self._exists(own_queue(queue, processor_id)) for queue in self._keys]
        return True if True in answers else None if None in answers else False

    async def _exists(self, queue: str) -> bool | None:
        try:
            await self._passively(queue)
        except ChannelLockedResource:
            return True
        except ChannelNotFoundEntity:
            return False
        except BROKER_FAULTS:
            return None
        return True

    async def _depth(self, queue: str) -> int | None:
        try:
            return await self._passively(queue)
        except ChannelNotFoundEntity:
            if queue == self._topology.dead_letter_queue:
                self._publishing.miss_dead_letters()
        except BROKER_FAULTS as error:
            log.debug("queue_depth_unknown", queue=queue, error=repr(error))
        return None

    async def _passively(self, queue: str) -> int:
        """How many messages wait in it. By a connection that reads: of one that publishes RabbitMQ reads nothing
        during an alarm."""
        connection = next((reader.connection for reader in self._readers.values() if reader.connection), None)
        if connection is None:
            raise ConnectionError("not connected")
        return await within(ASK_WITHIN_SECONDS, _message_count(connection, queue))


async def _message_count(connection: Connection, queue: str) -> int:
    async with bare_channel(connection) as channel:
        return (await channel.queue_declare(queue, passive=True)).message_count or 0
