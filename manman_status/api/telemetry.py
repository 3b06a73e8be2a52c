"""A span and a measurement of each request, for an OpenTelemetry collector."""

from __future__ import annotations

import os
import socket
import uuid
from typing import TYPE_CHECKING, Any

from litestar.exceptions import HTTPException
from litestar.plugins.opentelemetry import OpenTelemetryConfig

from manman_status.api.gate import QUIET_PATHS
from manman_status.telemetry import Telemetry

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.types import Scope
    from opentelemetry.trace import Span


def trace_requests(app: Litestar, endpoint: str) -> None:
    """Trace all that the application does: refusals are seen too, and log lines know their
    trace."""
    # The stable names; those that are used without it are of 2022, and the measurement has no
    # route.
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")
    instance_id = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    telemetry = Telemetry(endpoint, service="manman-status-api", instance_id=instance_id)
    config = OpenTelemetryConfig(
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
        scope_span_details_extractor=_span_details,
        server_request_hook_handler=_hide_query,
        exclude=[f"^{path}$" for path in sorted(QUIET_PATHS)],
        exclude_spans=["receive", "send"],
    )
    app.asgi_handler = config.middleware(app=app.asgi_handler)
    app.on_shutdown.append(telemetry.shutdown)


def _span_details(scope: Scope) -> tuple[str, dict[str, Any]]:
    """Name spans by the route: there are as many paths as ids."""
    method = str(scope.get("method"))
    try:
        *_, route = scope["litestar_app"].asgi_router.handle_routing(
            path=scope["path"], method="GET"
        )
    except HTTPException:
        return method, {}
    return f"{method} {route}", {"http.route": route}


def _hide_query(span: Span, _: dict[str, Any]) -> None:
    """Leave out the query: a client that puts its token there has shown it to us alone."""
    span.set_attribute("url.query", "")
