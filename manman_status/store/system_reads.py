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
    active_by_health: dict[Health, int]
    """Of the workers that have not ended; only what there is."""
    workers: list[tuple[str, Health, int]]
    """Group, health, and how many that have not ended; only what there is, and of the groups that are shown."""
    groups_total: int
    terminated_workers: int
    servers_by_status: dict[StatusType, int]
    oldest_heartbeat_age_seconds: float | None
    """Of the active workers; None when none of them has ever beaten."""
    queues: list[dict[str, Any]]
    """Columns of `watermarks`, and how far each is behind in seconds: the one that is furthest behind first."""
    processors: list[dict[str, Any]]
    """Those that reported lately: columns of `processors`, and beside them what is in `statistics`."""
    guards: list[dict[str, Any]]
    """Columns of `guards`, `group_name` as `group`: those that hold the most workers, at most `GUARDS_SHOWN`."""
    guards_total: int
    alerts: list[AlertNumber]
    observation: Observation

    @property
    def workers_by_health(self) -> dict[Health, int]:
        return dict.fromkeys(Health, 0) | self.active_by_health | {Health.TERMINATED: self.terminated_workers}


PROCESSORS_SHOWN = "5 minutes"
GROUPS_SHOWN = 100
GUARDS_SHOWN = 100

# Workers choose their groups, and there may be as many as workers: what is read of them is bounded. Needs
# `workers_counted`; the largest groups are `shown`, and beside them those with the most workers that are not healthy.
GROUPS = """sizes AS (
    SELECT "group", sum(number) AS size, coalesce(sum(number) FILTER (WHERE health <> '{healthy}'), 0) AS ill
    FROM workers_counted GROUP BY "group"
),
shown AS (
    (SELECT "group" FROM sizes ORDER BY size DESC, "group" LIMIT {largest})
    UNION (SELECT "group" FROM sizes WHERE ill > 0 ORDER BY ill DESC, "group" LIMIT {worst})
)"""
GROUP_NUMBERS = """(SELECT json_object_agg(health, number) FROM (
        SELECT health, sum(number)::bigint AS number FROM workers_counted GROUP BY health
    ) h) AS active_by_health,
    (SELECT json_agg(json_build_array("group", health, number))
        FROM workers_counted JOIN shown USING ("group")) AS workers,
    (SELECT count(*) FROM sizes) AS groups_total"""

QUEUES = """SELECT json_agg(w) FROM (
        SELECT queue, state, observed_through,
            extract(epoch FROM now() - observed_through)::float8 AS lag_seconds
        FROM watermarks ORDER BY observed_through NULLS FIRST, queue
    ) w"""
PROCESSORS = """SELECT json_agg(p.statistics || (to_jsonb(p) - 'statistics') ORDER BY started_at, processor_id)
        FROM processors p WHERE last_seen > now() - {shown}"""
GUARDS = f"""SELECT json_agg(g) FROM (
        SELECT group_name AS "group", opened_at, held, group_size, releasing_since FROM (
            SELECT * FROM guards ORDER BY held DESC, group_name LIMIT {GUARDS_SHOWN}
        ) most ORDER BY group_name
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
{GROUPS.format(healthy=Health.HEALTHY, largest=GROUPS_SHOWN, worst=0)},
servers_counted AS (SELECT status, count(*) AS number FROM server_instances GROUP BY status)
SELECT as_of, lag_seconds, revision, epoch, clock_step, dropped_at, slowest_queue,
    (SELECT coalesce(sum(active), 0)::bigint FROM workers_counted) AS active_workers,
    (SELECT extract(epoch FROM as_of - min(oldest))::float8 FROM workers_counted) AS oldest_age,
    {GROUP_NUMBERS},
    (SELECT count(*) FROM workers WHERE {IS_TERMINAL}) AS terminated_workers,
    (SELECT json_object_agg(status, number) FROM servers_counted) AS servers,
    ({QUEUES}) AS queues,
    ({PROCESSORS.format(shown=f"interval '{PROCESSORS_SHOWN}'")}) AS processors,
    ({GUARDS}) AS guards, (SELECT count(*) FROM guards) AS guards_total,
    ({ALERTS}) AS alerts
FROM observed"""


async def read_fleet(connection: Connection, *, timeouts: Timeouts) -> Fleet:
    """Counts every row, of what has ended in the index alone: the work grows with all that was ever seen, unlike any
    other read's."""
    (row,) = await connection.fetch(FLEET, *timeouts.values)
    return Fleet(
        active_workers=row["active_workers"],
        active_by_health=row["active_by_health"] or {},
        workers=row["workers"] or [],
        groups_total=row["groups_total"],
        terminated_workers=row["terminated_workers"],
        servers_by_status=dict.fromkeys(StatusType, 0) | (row["servers"] or {}),
        oldest_heartbeat_age_seconds=row["oldest_age"],
        queues=row["queues"] or [],
        processors=row["processors"] or [],
        guards=row["guards"] or [],
        guards_total=row["guards_total"],
        alerts=row["alerts"] or [],
        observation=observation_of(row),
    )
