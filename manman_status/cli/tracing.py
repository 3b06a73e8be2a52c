"""Tracing of commands that report, where there is a collector."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

from manman_status.settings import Settings

BeginSpan: TypeAlias = Callable[[str], AbstractContextManager[object]]


@contextmanager
def tracing(settings: Settings, command: str) -> Iterator[BeginSpan]:
    """Return a function that begins a span of a name, the current one within its block. All are
    sent at the end."""
    if not settings.otlp_endpoint:
        yield nullcontext
        return
    from opentelemetry.trace import SpanKind

    from manman_status.telemetry import Telemetry

    telemetry = Telemetry(
        settings.otlp_endpoint, service=f"manman-status-{command}", instance_id=str(uuid.uuid4())
    )
    tracer = telemetry.tracer_provider.get_tracer("manman_status")
    try:
        yield lambda name: tracer.start_as_current_span(name, kind=SpanKind.PRODUCER)
    finally:
        telemetry.shutdown()
