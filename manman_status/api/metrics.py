"""Metrics for Prometheus: Litestar's own of requests, those of the fleet, and those of the
processors, which have no port.

Every label is of a closed set: names of this program, queues, channels, the largest groups, and the
hosts of processors. Series of each worker are there only where settings want them.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product
from typing import TYPE_CHECKING, TypeVar

import msgspec
from litestar.plugins.prometheus import PrometheusConfig
from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    REGISTRY,
    CollectorRegistry,
    Metric,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from manman_status.alerts.rules import RULE_NAMES
from manman_status.api.processor_metrics import processor_families
from manman_status.api.readings import Reading
from manman_status.api.responses import Processor
from manman_status.domain.alert import AlertState, Severity
from manman_status.domain.fleet import ObservationState
from manman_status.domain.status import Health
from manman_status.errors import DatabaseUnavailable
from manman_status.store.measured import read_measured, read_worker_signs
from manman_status.store.system_reads import GROUPS_SHOWN

if TYPE_CHECKING:
    from manman_status.api.database import Database, Query
    from manman_status.store.measured import Measured, WorkerSigns
    from manman_status.store.pool import Connection

T = TypeVar("T")

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"

OTHER_GROUPS = "…other"

http_metrics = PrometheusConfig(
    app_name="manman-status", prefix="manman_status_http", group_path=True
)


class Metrics:
    """The metrics of an application. `keep_seconds` as for answers: 0 reads the database each
    time."""

    def __init__(self, database: Database, *, worker_series: bool, keep_seconds: float) -> None:

        def reading(query: Query[T], key: str, *, times: int) -> Reading[T]:
            return Reading(database, query, key=key, times=times, at_least_seconds=keep_seconds)

        self._measured = reading(read_measured, "measured", times=20)
        self._worker_series = worker_series
        self._workers = reading(worker_series_text, "worker_series", times=20)

    async def text(self) -> bytes:
        """Return all metrics; without a database, `database_up 0` and those that need none."""
        families: list[Metric] = []
        workers = b""
        try:
            families += fleet_families(await self._measured.get())
            if self._worker_series:
                workers = await self._workers.get()
        except DatabaseUnavailable:
            pass
        up = GaugeMetricFamily(
            "manman_status_database_up",
            "1 when the database answered this reading.",
            value=bool(families),
        )
        return requests_text() + families_text([up, *families]) + workers


class _Families(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def families_text(families: Iterable[Metric]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return generate_latest(registry)


def requests_text() -> bytes:
    """Return the numbers of requests: of all processes where several share a folder, else of this
    one."""
    requests = REGISTRY
    if os.environ.get(MULTIPROCESS_FOLDER):
        requests = CollectorRegistry()
        MultiProcessCollector(requests)  # type: ignore[no-untyped-call]
    return generate_latest(requests)


def fleet_families(measured: Measured) -> Iterator[Metric]:
    yield from _worker_families(measured)
    by_status = GaugeMetricFamily(
        "manman_status_server_instances", "Server instances by status.", labels=["status"]
    )
    for status, number in measured.servers_by_status.items():
        by_status.add_metric([status], number)
    yield by_status
    yield from _observation_families(measured)
    yield GaugeMetricFamily(
        "manman_status_guard_groups", "Groups that the guard holds.", value=measured.guards_total
    )
    yield GaugeMetricFamily(
        "manman_status_guard_held_workers",
        "Overdue workers that the guard holds, and that so are not given up.",
        value=measured.guards_held,
    )
    yield _alert_family(measured)
    if measured.alerts_judged_age_seconds is not None:
        yield GaugeMetricFamily(
            "manman_status_alerts_judged_age_seconds",
            "Time since the leading processor last looked for alerts.",
            value=measured.alerts_judged_age_seconds,
        )
    yield CounterMetricFamily(
        "manman_status_transitions",
        "Changes of a status, ever. By kind: manman_status_processor_transitions_total.",
        value=measured.observation.revision,
    )
    yield from processor_families(msgspec.convert(measured.processors, list[Processor]))


def _alert_family(measured: Measured) -> Metric:
    alerts = GaugeMetricFamily(
        "manman_status_alerts",
        "Alerts that are not resolved, nor part of another.",
        labels=["rule", "severity", "state"],
    )
    there_are = {
        (rule, severity, state): number for rule, severity, state, number in measured.alerts
    }
    for labels in product(RULE_NAMES, Severity, (AlertState.OPEN, AlertState.ACKNOWLEDGED)):
        alerts.add_metric(labels, there_are.get(labels, 0))
    return alerts


def _worker_families(measured: Measured) -> Iterator[Metric]:
    by_health: Counter[str] = Counter(measured.active_by_health)
    by_group: Counter[str] = Counter()
    for group, _, number in measured.workers:
        by_group[group] += number
    by_health[Health.TERMINATED] = measured.terminated_workers
    workers = GaugeMetricFamily("manman_status_workers", "Workers by health.", labels=["health"])
    for each in Health:
        workers.add_metric([each], by_health[each])
    yield workers
    shown = sorted(by_group, key=lambda group: (-by_group[group], group))[:GROUPS_SHOWN]
    of_group: Counter[tuple[str, str]] = Counter()
    others: Counter[str] = Counter(measured.active_by_health)
    for group, health, number in measured.workers:
        if group in shown:
            of_group[group, health] += number
            others[health] -= number
    if measured.groups_total > len(shown):
        of_group |= Counter({(OTHER_GROUPS, health): number for health, number in others.items()})
    groups = GaugeMetricFamily(
        "manman_status_group_workers",
        f"Workers that have not ended, by label group and health. The {GROUPS_SHOWN} largest"
        f" groups, and the others as one that is named {OTHER_GROUPS}; without a label the name is"
        " empty.",
        labels=["group", "health"],
    )
    for group in dict.fromkeys([*shown, *(name for name, _ in of_group)]):
        for each in Health:
            if each is not Health.TERMINATED:
                groups.add_metric([group, each], of_group[group, each])
    yield groups
    if measured.oldest_heartbeat_age_seconds is not None:
        yield GaugeMetricFamily(
            "manman_status_oldest_heartbeat_age_seconds",
            "Age of the oldest last heartbeat among the active workers.",
            value=measured.oldest_heartbeat_age_seconds,
        )


def _observation_families(measured: Measured) -> Iterator[Metric]:
    lag_seconds = measured.observation.lag_seconds
    if lag_seconds is not None:
        yield GaugeMetricFamily(
            "manman_status_observation_lag_seconds",
            "Age of the watermark: what was sent before is known here.",
            value=lag_seconds,
        )
    found = measured.observation.state
    states = GaugeMetricFamily(
        "manman_status_observation_state",
        "1 for the state that the observation is in.",
        labels=["state"],
    )
    for state in ObservationState:
        states.add_metric([state], state is found)
    yield states


WORKER_HEARTBEAT_AGE = "manman_status_worker_heartbeat_age_seconds"
WORKER_HEALTH = "manman_status_worker_health"


async def worker_series_text(connection: Connection) -> bytes:
    """Write the series in a thread: for 100,000 workers it takes a while, and others are served
    meanwhile."""
    return await asyncio.to_thread(_worker_text, await read_worker_signs(connection))


def _worker_text(signs: WorkerSigns) -> bytes:
    """Write the series by hand, in a tenth of the time that prometheus_client takes. Ids and
    healths need no escaping."""
    lines = [
        (
            f"# HELP {WORKER_HEARTBEAT_AGE} Time since the last heartbeat of a worker that has not"
            " ended."
        ),
        f"# TYPE {WORKER_HEARTBEAT_AGE} gauge",
        *(
            f'{WORKER_HEARTBEAT_AGE}{{worker_id="{worker_id}"}} {age}'
            for worker_id, age in zip(signs.ids, signs.ages_seconds, strict=True)
            if age is not None
        ),
        f"# HELP {WORKER_HEALTH} 1 for the health of a worker that has not ended.",
        f"# TYPE {WORKER_HEALTH} gauge",
        *(
            f'{WORKER_HEALTH}{{worker_id="{worker_id}",health="{health}"}} 1'
            for worker_id, health in zip(signs.ids, signs.healths, strict=True)
        ),
        "",
    ]
    return "\n".join(lines).encode()
