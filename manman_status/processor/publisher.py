"""What the processor sends: status changes to all who listen, and dead letters with what was wrong in their headers."""

from __future__ import annotations

import uuid
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitRouter
from faststream.rabbit.publisher import RabbitPublisher

from manman_status.processor.declare import topic
from manman_status.processor.publishing import Publishing
from manman_status.wire.outbound import StatusMessage
from manman_status.wire.topology import Topology

if TYPE_CHECKING:
    from manman_status.processor.telemetry import Tracing


def _publisher(broker: RabbitBroker, exchange: RabbitExchange, tracing: Tracing | None) -> RabbitPublisher:
    """With a router of its own: so FastStream's telemetry sees what is sent here, but no canary and nothing read."""
    router = RabbitRouter(middlewares=[tracing.publishing] if tracing else ())
    publisher = router.publisher(exchange=exchange, persist=True, content_type="application/json")
    broker.include_router(router)
    return publisher


class StatusPublisher:
    """Publishes status changes, each confirmed by the broker before the call returns. Nobody has to listen."""

    def __init__(self, publishing: Publishing, topology: Topology, tracing: Tracing | None = None) -> None:
        self._publishing = publishing
        self._publisher = _publisher(publishing.broker, topic(topology.outbound_exchange), tracing)
        self._tracing = tracing

    async def __call__(self, message: StatusMessage) -> None:
        """Raises BrokerUnavailable: then it may have arrived all the same."""
        tracing, traceparent = self._tracing, message.traceparent
        with tracing.going_on(traceparent) if tracing and traceparent else nullcontext():
            await self._publishing.confirmed(
                self._publisher.publish(
                    message.body,
                    routing_key=message.routing_key,
                    mandatory=False,
                    message_id=message.message_id,
                    timestamp=message.timestamp,
                )
            )


class DeadLetters:
    """Publishes dead letters, each confirmed by the broker before `send` returns. Raises BrokerUnavailable."""

    def __init__(self, publishing: Publishing, topology: Topology, tracing: Tracing | None = None) -> None:
        self._publishing = publishing
        self._publisher = _publisher(publishing.broker, topic(topology.dead_letter_exchange), tracing)
        self._origin = topology.inbound_exchange

    async def send(self, body: bytes, *, error: str, queue: str, exchange: str | None, routing_key: str) -> None:
        await self._publishing.confirmed(
            self._publisher.publish(
                body,
                routing_key=routing_key or "unrouted",
                message_id=str(uuid.uuid4()),
                timestamp=datetime.now(UTC),
                headers={
                    "x-manman-error": error[:1000],
                    "x-manman-queue": queue,
                    "x-manman-exchange": exchange or self._origin,
                    "x-manman-routing-key": routing_key,
                },
            )
        )
