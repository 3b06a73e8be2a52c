"""What the processor sends: dead letters, with what was wrong in their headers."""

from __future__ import annotations

import uuid

from faststream.rabbit import RabbitBroker

from manman_status.processor.declare import topic
from manman_status.wire.topology import Topology


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
            content_type="application/json",
            timeout=10,
            headers={
                "x-manman-error": error[:1000],
                "x-manman-queue": queue,
                "x-manman-exchange": exchange or self._origin,
                "x-manman-routing-key": routing_key,
            },
        )
