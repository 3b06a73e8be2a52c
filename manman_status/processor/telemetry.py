"""Spans of the way of a traced message through the processor.

A message is traced when it came with the context of a sampled trace; reporters give that to events,
not to heartbeats. Its trace: what reported it → `process`, from its receipt until it is settled →
`store`, its batch's transaction → `create` and `publish`, one each for a change that came of it,
which may be later and by another processor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from faststream.opentelemetry import TelemetryMiddleware
from faststream.rabbit.opentelemetry.provider import RabbitTelemetrySettingsProvider
from faststream.rabbit.response import RabbitPublishCommand
from opentelemetry import context
from opentelemetry.trace import (
    Link,
    Span,
    SpanKind,
    get_current_span,
    set_span_in_context,
    use_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.util.types import AnyValue

    from manman_status.processor.broker.received import Received
    from manman_status.telemetry import Telemetry

W3C = TraceContextTextMapPropagator()


class Destinations(RabbitTelemetrySettingsProvider):
    """FastStream names spans and metrics by the routing key too, of which there is one for each
    worker and server."""

    def get_publish_destination_name(self, cmd: RabbitPublishCommand) -> str:
        return cmd.exchange.name


class Tracing:
    """Spans of the processor. FastStream's own see what is published; of what is read in batches
    they see no end."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._tracer = telemetry.tracer_provider.get_tracer("manman_status")
        self.publishing = TelemetryMiddleware(
            settings_provider_factory=lambda _: Destinations(),
            tracer_provider=telemetry.tracer_provider,
            meter_provider=telemetry.meter_provider,
        )

    def receive(self, message: Received, queue: str) -> Span | None:
        """Begin the span of a message; it ends when the message is settled. None when the message
        is not traced."""
        headers = message.headers
        if not isinstance(headers.get("traceparent"), str):
            return None
        given = {name: headers[name] for name in W3C.fields if isinstance(headers.get(name), str)}
        parent = W3C.extract(given)
        if not get_current_span(parent).get_span_context().trace_flags.sampled:
            return None
        attributes: dict[str, AnyValue] = {
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.rabbitmq.destination.routing_key": message.routing_key,
            "messaging.message.body.size": len(message.body),
        }
        return self._tracer.start_span(
            f"{queue} process", parent, kind=SpanKind.CONSUMER, attributes=attributes
        )

    @contextmanager
    def storing(self, queue: str, spans: Sequence[Span], *, events: int) -> Iterator[None]:
        """The current span is that of a batch: in the trace of the first of its traced messages,
        whose spans these are, and linked with the others'."""
        first, *others = spans
        links = [Link(span.get_span_context()) for span in others]
        parent = set_span_in_context(first)
        attributes = {"manman_status.batch.events": events}
        name = f"{queue} store"
        with self._tracer.start_as_current_span(
            name, parent, links=links, attributes=attributes
        ) as batch:
            for span in others:
                span.add_link(batch.get_span_context())
            yield

    @staticmethod
    def by_event(of_each: Iterable[tuple[Span | None, int]]) -> dict[int, str]:
        """Map the place of an event in the whole batch to the `traceparent` that its changes are
        stored with. `of_each`: the span of each message and the number of its events."""
        found: dict[int, str] = {}
        place = 0
        for span, events in of_each:
            if span:
                carrier: dict[str, str] = {}
                W3C.inject(carrier, set_span_in_context(span))
                found |= dict.fromkeys(range(place, place + events), carrier["traceparent"])
            place += events
        return found

    @staticmethod
    def within(span: Span) -> AbstractContextManager[Span]:
        """Make this span the parent of the spans begun within."""
        return use_span(span)

    @staticmethod
    @contextmanager
    def going_on(traceparent: str) -> Iterator[None]:
        """Put the spans begun within into that trace."""
        token = context.attach(W3C.extract({"traceparent": traceparent}))
        try:
            yield
        finally:
            context.detach(token)
