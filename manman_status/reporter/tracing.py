"""Trace context: a worker that uses OpenTelemetry sees in its own traces what became of a reported
event."""

from __future__ import annotations

import sys


def trace_headers() -> dict[str, str]:
    """The W3C trace context of the current span, as headers of a message; {} without a span. This
    never loads OpenTelemetry: a process that has not loaded it has no span."""
    headers: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        TraceContextTextMapPropagator().inject(headers)
    return headers
