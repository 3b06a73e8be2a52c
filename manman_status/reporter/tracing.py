"""A worker that uses OpenTelemetry sees in its own traces what became of an event that it
reported."""

from __future__ import annotations

import sys


def trace_headers() -> dict[str, str]:
    """The W3C trace context of the current span, as headers of a message. {} without a span;
    OpenTelemetry is never loaded for this: who has not loaded it has no span."""
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return headers
