"""Publishing status changes, alerts and dead letters, each confirmed by the broker."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from faststream.rabbit import RabbitBroker, RabbitExchange, RabbitRouter
from faststream.rabbit.publisher import RabbitPublisher
from pamqp.commands import Basic

from manman_status.errors import BrokerUnavailable
from manman_status.processor.broker.declare import topic
from manman_status.processor.broker.publishing import Publishing
from manman_status.processor.leader.dead_letters import Letter
from manman_status.wire.outbound import StatusMessage
from manman_status.wire.topology import Topology

if TYPE_CHECKING:
    from manman_status.processor.telemetry import Tracing


def _publisher(
    broker: RabbitBroker, exchange: RabbitExchange, tracing: Tracing | None
) -> RabbitPublisher:
    """Make a publisher with a router of its own. So FastStream's telemetry sees what is sent here,
    but no canary and no message that is read."""
    router = RabbitRouter(middlewares=[tracing.publishing] if tracing else ())
    publisher = router.publisher(exchange=exchange, persist=True, content_type="application/json")
    broker.include_router(router)
    return publisher


class StatusPublisher:
    """A publisher of status changes. Each is confirmed by the broker before the call returns; it
    need not reach any queue."""

    def __init__(
        self, publishing: Publishing, topology: Topology, tracing: Tracing | None = None
    ) -> None:
        self._publishing = publishing
        self._publisher = _publisher(publishing.broker, topic(topology.outbound_exchange), tracing)
        self._tracing = tracing

    async def __call__(self, message: StatusMessage) -> None:
        """Publish a message. Raises BrokerUnavailable: then it may have arrived all the same."""
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


NOT_OURS_TO_REPEAT = ("x-death", "x-first-death", "x-last-death", "x-delivery-count", "x-manman-")
ROUTES_BY_ITSELF = frozenset({"CC", "BCC"})


def kept_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message's own headers, without those that the broker or a processor sets or acts
    upon."""
    return {
        name: value
        for name, value in headers.items()
        if name not in ROUTES_BY_ITSELF and not name.startswith(NOT_OURS_TO_REPEAT)
    }


class DeadLetters:
    """A publisher of dead letters. It declares their exchange and queue again when they are
    gone."""

    def __init__(
        self, publishing: Publishing, topology: Topology, tracing: Tracing | None = None
    ) -> None:
        self._publishing = publishing
        self._publisher = _publisher(
            publishing.broker, topic(topology.dead_letter_exchange), tracing
        )
        self._queue = topology.dead_letter_queue
        self._origin = topology.inbound_exchange
        self._tracing = tracing

    async def __call__(self, letter_id: uuid.UUID, letter: Letter) -> None:
        """Return once the broker has put it into a queue. Raises BrokerUnavailable: then it may be
        there all the same, under the same `letter_id`."""
        if await self._publish(letter_id, letter):
            return
        await self._publishing.declare_dead_letters()
        if not await self._publish(letter_id, letter):
            raise BrokerUnavailable(
                cause=f"no queue takes dead letters: {self._queue} is gone or not bound"
            )

    async def _publish(self, letter_id: uuid.UUID, letter: Letter) -> bool:
        """Publish a letter. False when no queue took it."""
        tracing, traceparent = self._tracing, letter.traceparent
        ours = {
            "x-manman-error": letter.error[:1000],
            "x-manman-queue": letter.queue,
            "x-manman-exchange": self._origin if letter.exchange is None else letter.exchange,
            "x-manman-routing-key": letter.routing_key,
        }
        if letter.repeats:
            ours["x-manman-repeats"] = str(letter.repeats)
        with tracing.going_on(traceparent) if tracing and traceparent else nullcontext():
            publish = self._publisher.publish(
                letter.body,
                routing_key=letter.routing_key or "unrouted",
                message_id=str(letter_id),
                timestamp=datetime.now(UTC),
                content_type=letter.content_type,
                content_encoding=letter.content_encoding,
                correlation_id=letter.correlation_id,
                message_type=letter.type,
                headers=letter.headers | ours,
            )
            confirmed = await self._publishing.confirmed(publish)
        return isinstance(confirmed, Basic.Ack)
