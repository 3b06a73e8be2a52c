"""The fleet in numbers: for people all of it at one moment, for Prometheus what it can have every few seconds."""

# ruff: noqa: S608 - the SQL is put together from constants; what a request says is a parameter, always

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from manman_status.domain.alerts.alert import AlertState, Severity
from manman_status.domain.liveness import MISSED_BEATS_TO_BE_LATE
from manman_status.domain.status import TERMINAL, Health, StatusType
from manman_status.store.health import (
    HEALTH,
    INTERVAL,
    IS_ACTIVE,
    IS_NOT_TERMINAL,
    IS_TERMINAL,
    OBSERVATION,
    Observation,
)
from manman_status.store.reads import observation_of

if TYPE_CHECKING:
    from manman_status.store.health import Timeouts
    from manman_status.store.pool import Connection

NOT_TERMINAL = tuple(status for status in StatusType if status not in TERMINAL)

AlertNumber: TypeAlias = tuple[str, Severity, AlertState, int]
"""Rule, severity, state, and how many that are not resolved nor part of another; only what there is."""


class Fleet(msgspec.Struct, frozen=True):
    active_workers: int
    workers: list[tuple[str, Health, int]]
    """Group, health, and how many that have not ended; only what there is."""
    terminated_workers: int
    servers_by_status: dict[StatusType, int]
    oldest_heartbeat_age_seconds: float | None
    """Of the active workers; None when none of them has ever beaten."""
    processors: list[dict[str, Any]]
    """Those that reported lately: columns of `processors`, and beside them what is in `statistics`."""
    guards: list[dict[str, Any]]
    """Columns of `guards`, `group_name` as `group`."""
    alerts: list[AlertNumber]
    observation: Observation

    @property
    def workers_by_health(self) -> dict[Health, int]:
        numbers = dict.fromkeys(Health, 0) | {Health.TERMINATED: self.terminated_workers}
        for _, health, number in self.workers:
            numbers[Health(health)] += number
        return numbers


PROCESSORS_SHOWN = "5 minutes"

PROCESSORS = """SELECT json_agg(p.statistics || (to_jsonb(p) - 'statistics') ORDER BY started_at, processor_id)
        FROM processors p WHERE last_seen > now() - {shown}"""
GUARDS = """SELECT json_agg(g) FROM (
        SELECT group_name AS "group", opened_at, held, group_size, releasing_since FROM guards ORDER BY group_name
    ) g"""
ALERTS = """SELECT json_agg(json_build_array(rule, severity, state, number)) FROM (
        SELECT rule, severity, state, count(*) AS number FROM alerts
        WHERE resolved_at IS NULL AND part_of IS NULL GROUP BY rule, severity, state
    ) a"""

# OFFSET 0, here and below: else PostgreSQL expects a group of each worker, and sorts them all.
FLEET = f"""WITH {OBSERVATION},
workers_counted AS (
    SELECT "group", health, count(*) AS number, count(*) FILTER (WHERE active) AS active,
        min(last_heartbeat) FILTER (WHERE active) AS oldest
    FROM (
        SELECT coalesce(labels ->> 'group', '') AS "group", last_heartbeat, {IS_ACTIVE} AS active, {HEALTH} AS health
        FROM workers WHERE {IS_NOT_TERMINAL} OFFSET 0
    ) w
    GROUP BY "group", health
),
servers_counted AS (SELECT status, count(*) AS number FROM server_instances GROUP BY status)
SELECT as_of, lag_seconds, revision,
    (SELECT coalesce(sum(active), 0)::bigint FROM workers_counted) AS active_workers,
    (SELECT extract(epoch FROM as_of - min(oldest))::float8 FROM workers_counted) AS oldest_age,
    (SELECT json_agg(json_build_array("group", health, number)) FROM workers_counted) AS workers,
    (SELECT count(*) FROM workers WHERE {IS_TERMINAL}) AS terminated_workers,
    (SELECT json_object_agg(status, number) FROM servers_counted) AS servers,
    ({PROCESSORS.format(shown=f"interval '{PROCESSORS_SHOWN}'")}) AS processors,
    ({GUARDS}) AS guards,
    ({ALERTS}) AS alerts
FROM observed"""


async def read_fleet(connection: Connection, *, timeouts: Timeouts) -> Fleet:
    """Counts every row, of what has ended in the index alone: the work grows with all that was ever seen, unlike any
    other read's."""
    (row,) = await connection.fetch(FLEET, *timeouts.values)
    return Fleet(
        active_workers=row["active_workers"],
        workers=row["workers"] or [],
        terminated_workers=row["terminated_workers"],
        servers_by_status=dict.fromkeys(StatusType, 0) | (row["servers"] or {}),
        oldest_heartbeat_age_seconds=row["oldest_age"],
        processors=row["processors"] or [],
        guards=row["guards"] or [],
        alerts=row["alerts"] or [],
        observation=observation_of(row),
    )


class Measured(msgspec.Struct, frozen=True):
    """All but what has ended, whose number only grows."""

    workers: list[tuple[str, Health, int]]
    """Group, health, and how many; only what there is."""
    servers_by_status: dict[StatusType, int]
    oldest_heartbeat_age_seconds: float | None
    processors: list[dict[str, Any]]
    """As in `Fleet`, but only those that reported within the time after which nobody counts as observed."""
    guards: list[dict[str, Any]]
    alerts: list[AlertNumber]
    observation: Observation


# Nearly every worker, and no arithmetic for it: the watermark is not yet past the default interval's lateness.
SURELY_HEALTHY = f"""status = '{StatusType.RUNNING}' AND {INTERVAL} >= $1::float8 AND last_heartbeat >= (
    SELECT observed_through - {MISSED_BEATS_TO_BE_LATE} * $1::float8 * interval '1 second'
    FROM observed WHERE lag_seconds <= $4::float8
)"""
MEASURED = f"""WITH {OBSERVATION},
workers_counted AS (
    SELECT "group", health, count(*) AS number, min(last_heartbeat) FILTER (WHERE {IS_ACTIVE}) AS oldest
    FROM (
        SELECT coalesce(labels ->> 'group', '') AS "group", last_heartbeat, status,
            CASE WHEN {SURELY_HEALTHY} THEN '{Health.HEALTHY}' ELSE {HEALTH} END AS health
        FROM workers WHERE {IS_NOT_TERMINAL} OFFSET 0
    ) w
    GROUP BY "group", health
),
servers_counted AS (SELECT status, count(*) AS number FROM server_instances WHERE {IS_NOT_TERMINAL} GROUP BY status)
SELECT as_of, lag_seconds, revision,
    (SELECT extract(epoch FROM as_of - min(oldest))::float8 FROM workers_counted) AS oldest_age,
    (SELECT json_agg(json_build_array("group", health, number)) FROM workers_counted) AS workers,
    (SELECT json_object_agg(status, number) FROM servers_counted) AS servers,
    ({PROCESSORS.format(shown="make_interval(secs => $4::float8)")}) AS processors,
    ({GUARDS}) AS guards,
    ({ALERTS}) AS alerts
FROM observed"""


async def read_measured(connection: Connection, *, timeouts: Timeouts) -> Measured:
    (row,) = await connection.fetch(MEASURED, *timeouts.values)
    return Measured(
        workers=row["workers"] or [],
        servers_by_status=dict.fromkeys(NOT_TERMINAL, 0) | (row["servers"] or {}),
        oldest_heartbeat_age_seconds=row["oldest_age"],
        processors=row["processors"] or [],
        guards=row["guards"] or [],
        alerts=row["alerts"] or [],
        observation=observation_of(row),
    )


class Ended(msgspec.Struct, frozen=True):
    workers: int
    servers_by_status: dict[StatusType, int]


ENDED = f"""SELECT (SELECT count(*) FROM workers WHERE {IS_TERMINAL}) AS workers,
    (SELECT json_object_agg(status, number) FROM (
        SELECT status, count(*) AS number FROM server_instances WHERE {IS_TERMINAL} GROUP BY status
    ) s) AS servers"""


async def read_ended(connection: Connection) -> Ended:
    """Reads an index through all that ever ended and is still kept."""
    (row,) = await connection.fetch(ENDED)
    return Ended(row["workers"], dict.fromkeys(sorted(TERMINAL), 0) | (row["servers"] or {}))


class WorkerSigns(msgspec.Struct, frozen=True):
    """Of each worker that has not ended, by id: its health, and how long before now its last beat was, None without."""

    ids: list[int]
    healths: list[Health]
    ages_seconds: list[float | None]


WORKER_SIGNS = f"""WITH {OBSERVATION}
SELECT coalesce(array_agg(worker_id), '{{}}') AS ids, coalesce(array_agg({HEALTH}), '{{}}') AS healths,
    coalesce(array_agg(extract(epoch FROM now() - last_heartbeat)::float8), '{{}}') AS ages
FROM (SELECT * FROM workers WHERE {IS_NOT_TERMINAL} ORDER BY worker_id) w"""


async def read_worker_signs(connection: Connection, *, timeouts: Timeouts) -> WorkerSigns:
    (row,) = await connection.fetch(WORKER_SIGNS, *timeouts.values)
    return WorkerSigns(row["ids"], row["healths"], row["ages"])
