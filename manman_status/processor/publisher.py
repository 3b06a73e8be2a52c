"""What the processor sends: status changes to all who listen, and dead letters with what was wrong in their headers."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from faststream.rabbit import RabbitBroker

from manman_status.errors import BrokerUnavailable
from manman_status.processor.declare import topic
from manman_status.wire.outbound import StatusMessage
from manman_status.wire.topology import Topology

CONFIRM_SECONDS = 10


class StatusPublisher:
    """Publishes status changes, each confirmed by the broker before the call returns. Nobody has to listen."""

    def __init__(self, broker: RabbitBroker, topology: Topology) -> None:
        self._broker = broker
        self._exchange = topic(topology.outbound_exchange)

    async def __call__(self, message: StatusMessage) -> None:
        """Raises BrokerUnavailable: then it may have arrived all the same."""
        try:
            # FastStream's own `timeout` does not count the time in which it waits to be connected again.
            async with asyncio.timeout(CONFIRM_SECONDS):
                await self._broker.publish(
                    message.body,
                    exchange=self._exchange,
                    routing_key=message.routing_key,
                    mandatory=False,
                    persist=True,
                    message_id=message.message_id,
                    timestamp=message.timestamp,
                    content_type="application/json",
                )
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            raise BrokerUnavailable(cause=str(error) or type(error).__name__) from error


class DeadLetters:
    """Publishes dead letters, each confirmed by the broker before `send` returns."""

    def __init__(self, broker: RabbitBroker, topology: Topology) -> None:
        self._broker = broker
        self._exchange = topic(topology.dead_letter_exchange)
        self._origin = topology.inbound_exchange

    async def send(self, body: bytes, *, error: str, queue: str, exchange: str | None, routing_key: str) -> None:
        await self._broker.publish(
            body,
            exchange=self._exchange,
            routing_key=routing_key or "unrouted",
            persist=True,
            message_id=str(uuid.uuid4()),
            timestamp=datetime.now(UTC),
            content_type="application/json",
            timeout=CONFIRM_SECONDS,
            headers={
                "x-manman-error": error[:1000],
                "x-manman-queue": queue,
                "x-manman-exchange": exchange or self._origin,
                "x-manman-routing-key": routing_key,
            },
        )
