"""The fleet in numbers, all of them of one moment."""

# ruff: noqa: S608 - the SQL is put together from constants; what a request says is a parameter, always

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from manman_status.domain.alerts.alert import AlertState, Severity
from manman_status.domain.status import Health, StatusType
from manman_status.store.health import (
    HEALTH,
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

# OFFSET 0: else PostgreSQL expects a group of each worker, and sorts them all.
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
SELECT as_of, lag_seconds, revision, clock_step,
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
