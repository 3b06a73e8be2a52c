"""An OpenTelemetry collector for tests: OTLP over HTTP, kept in memory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from manman_status.dev.ports import free_port

OFTEN = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_METRIC_EXPORT_INTERVAL": "200"}
"""Settings with which a process exports soon, in ms."""


class Span:
    def __init__(self, service: Any, span: Any) -> None:
        self.service = service
        self.name = span.name
        self.trace_id, self.span_id, self.parent_id = (
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
        )
        self.attributes = attributes_of(span)
        self.links = {link.trace_id.hex() for link in span.links}

    def __repr__(self) -> str:
        return f"<{self.service}: {self.name}>"


class Collector:
    """`spans` in the order in which they came; `metrics` are the newest points, `(service, name,
    attributes)` to value (of a histogram its count). `refused` are the paths that it does not take;
    of these only `requests` counts."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Any] = []
        self.metrics: dict[Any, Any] = {}
        self.resources: dict[Any, Any] = {}
        self.requests: Counter[Any] = Counter()
        self.refused: set[Any] = set()

    def take(self, path: str, body: Any) -> None:
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                service = self._service(resource)
                self.spans += [
                    Span(service, span) for scope in resource.scope_spans for span in scope.spans
                ]
        else:
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                service = self._service(resource)
                for metric in (
                    metric for scope in resource.scope_metrics for metric in scope.metrics
                ):
                    kind = metric.WhichOneof("data")
                    for point in getattr(metric, kind).data_points:
                        key = service, metric.name, frozenset(attributes_of(point).items())
                        self.metrics[key] = (
                            point.count
                            if kind == "histogram"
                            else getattr(point, point.WhichOneof("value"))
                        )

    def trace(self, trace_id: Any) -> list[Any]:
        return [span for span in list(self.spans) if span.trace_id == trace_id]

    def sum(self, service: Any, name: str, **attributes: Any) -> Any:
        """Add up all points that have these attributes; None when there is none."""
        found = [
            value
            for (of, metric, given), value in list(self.metrics.items())
            if (of, metric) == (service, name) and attributes.items() <= dict(given).items()
        ]
        return sum(found) if found else None

    def _service(self, resource: Any) -> Any:
        attributes = attributes_of(resource.resource)
        self.resources[attributes["service.name"]] = attributes
        return attributes["service.name"]


def attributes_of(thing: Any) -> dict[str, Any]:
    return {
        each.key: getattr(each.value, each.value.WhichOneof("value")) for each in thing.attributes
    }


@contextmanager
def collecting(port: int | None = None) -> Iterator[Any]:
    port = port or free_port()
    collector = Collector(f"http://127.0.0.1:{port}")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.requests[self.path] += 1
            if self.path in collector.refused:
                self.send_error(400)
                return
            collector.take(self.path, body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield collector
        server.shutdown()
        thread.join()
