"""Traces and metrics to an OpenTelemetry collector, over OTLP/HTTP. Importing this loads
OpenTelemetry: only where an endpoint is set.

The standard variables hold: `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`,
`OTEL_METRIC_EXPORT_INTERVAL`, …
"""

from __future__ import annotations

import logging
import threading
import time
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

log = logging.getLogger(__name__)

SHUTDOWN_SECONDS = 2.0
EXPORTERS = {OTLPSpanExporter.__module__, OTLPMetricExporter.__module__}
"""Names of the loggers that report failed exports."""


class Telemetry:
    """Traces and metrics of one process, sent by threads of its own until `shutdown`. Data is
    dropped while the collector is unreachable."""

    def __init__(self, endpoint: str, *, service: str, instance_id: str) -> None:
        resource = Resource.create(
            {
                "service.name": service,
                "service.version": version("manman-status"),
                "service.instance.id": instance_id,
            }
        )
        self._collector = Collector(endpoint)
        self.tracer_provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(BatchSpanProcessor(_SpanExporter(self._collector)))
        reader = PeriodicExportingMetricReader(_MetricExporter(self._collector))
        self.meter_provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)

    def shutdown(self) -> None:
        """Send the remaining data within `SHUTDOWN_SECONDS`, unless the collector is failing."""
        if self._collector.is_failing:
            return
        deadline = time.monotonic() + SHUTDOWN_SECONDS
        providers = (self.tracer_provider, self.meter_provider)
        # Their own timeouts come one after another, and are not the exporters'.
        threads = [
            threading.Thread(target=provider.shutdown, daemon=True) for provider in providers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


class Collector(logging.Handler):
    """The collector's state. Logs once that it fails for traces, metrics or both, and once that it
    works again. OpenTelemetry's own loggers would log every attempt."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(logging.WARNING)
        self.endpoint = endpoint.rstrip("/")
        self._address = urlsplit(endpoint).netloc.rpartition("@")[2]
        self._failing: set[str] = set()
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(self)
        logger.propagate = False

    @property
    def is_failing(self) -> bool:
        return bool(self._failing)

    def emit(self, record: logging.LogRecord) -> None:
        was_failing = self.is_failing
        self._failing.add(record.name)
        if not was_failing:
            reason = record.getMessage().replace(self.endpoint, self._address)
            log.warning(
                "traces and metrics do not reach the collector at %s: %s", self._address, reason
            )

    def took(self, exporter: str) -> None:
        """Record a success. Complaints of other loggers, such as of a full queue, end with it."""
        was_failing = self.is_failing
        self._failing &= EXPORTERS - {exporter}
        if was_failing and not self.is_failing:
            log.info("traces and metrics reach the collector at %s again", self._address)


class _SpanExporter(OTLPSpanExporter):
    def __init__(self, collector: Collector) -> None:
        super().__init__(f"{collector.endpoint}/v1/traces")
        self._collector = collector

    def export(self, *arguments: Any, **options: Any) -> SpanExportResult:
        result = super().export(*arguments, **options)
        if result is SpanExportResult.SUCCESS:
            self._collector.took(OTLPSpanExporter.__module__)
        return result


class _MetricExporter(OTLPMetricExporter):
    def __init__(self, collector: Collector) -> None:
        super().__init__(f"{collector.endpoint}/v1/metrics")
        self._collector = collector

    def export(self, *arguments: Any, **options: Any) -> MetricExportResult:
        result = super().export(*arguments, **options)
        if result is MetricExportResult.SUCCESS:
            self._collector.took(OTLPMetricExporter.__module__)
        return result
