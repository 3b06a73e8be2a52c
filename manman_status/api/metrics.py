"""What Prometheus reads: Litestar's own numbers about requests, and the fleet as it is at this moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from litestar.plugins.prometheus import PrometheusConfig
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from manman_status.store.system_reads import Fleet

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

http_metrics = PrometheusConfig(app_name="manman-status", prefix="manman_status_http", group_path=True)


class FleetCollector(Collector):
    """One reading. None is a database that did not answer: what is not known is not there."""

    def __init__(self, fleet: Fleet | None) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        fleet = self._fleet
        yield GaugeMetricFamily(
            "manman_status_database_up", "1 when the database answered this reading.", value=fleet is not None
        )
        if fleet is None:
            return
        if fleet.observation.lag_seconds is not None:
            yield GaugeMetricFamily(
                "manman_status_observation_lag_seconds",
                "Age of the watermark: what was sent before is known here.",
                value=fleet.observation.lag_seconds,
            )
        workers = GaugeMetricFamily("manman_status_workers", "Workers by health.", labels=["health"])
        for health, number in fleet.workers_by_health.items():
            workers.add_metric([health], number)
        yield workers
        servers = GaugeMetricFamily("manman_status_server_instances", "Server instances by status.", labels=["status"])
        for status, number in fleet.servers_by_status.items():
            servers.add_metric([status], number)
        yield servers
        if fleet.oldest_heartbeat_age_seconds is not None:
            yield GaugeMetricFamily(
                "manman_status_oldest_heartbeat_age_seconds",
                "Age of the oldest last heartbeat among the active workers.",
                value=fleet.oldest_heartbeat_age_seconds,
            )


def exposition(fleet: Fleet | None) -> bytes:
    """Requests of all processes when there are several, which then share a folder, else of this one."""
    requests = REGISTRY
    if os.environ.get(MULTIPROCESS_FOLDER):
        requests = CollectorRegistry()
        MultiProcessCollector(requests)  # type: ignore[no-untyped-call]
    reading = CollectorRegistry()
    reading.register(FleetCollector(fleet))
    return generate_latest(requests) + generate_latest(reading)
