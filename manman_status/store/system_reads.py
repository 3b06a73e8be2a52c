"""The fleet in numbers, all of them of one moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from manman_status.domain.alert import AlertState, Severity
from manman_status.domain.liveness import Thresholds
from manman_status.domain.status import Entity, Health, StatusType
from manman_status.store.counting import KEPT
from manman_status.store.health import (
    IS_BLIND,
    IS_SWEPT,
    OBSERVATION,
    OBSERVATION_ITSELF,
    OBSERVED_THROUGH,
    Observation,
)
from manman_status.store.reads import observation_of
from manman_status.store.thresholds import AS_JSON
from manman_status.store.unwatched import UNWATCHED

if TYPE_CHECKING:
    import asyncpg

    from manman_status.store.pool import Connection

AlertNumber: TypeAlias = tuple[str, Severity, AlertState, int]
"""Rule, severity, state, and the number of alerts that are neither resolved nor part of another;
only those above 0."""


class Fleet(msgspec.Struct, frozen=True):
    active_workers: int
    active_by_health: dict[Health, int]
    """Numbers of the workers that have not ended, by health; only those above 0."""
    workers: list[tuple[str, Health, int]]
    """Group, health, and the number of workers that have not ended; only those above 0, and of the
    groups that are shown."""
    groups_total: int
    terminated_workers: int
    unwatched_workers: int
    """Workers that had time to send a heartbeat and never did, at most `UNWATCHED_AT_MOST`."""
    servers_by_status: dict[StatusType, int]
    queues: list[dict[str, Any]]
    """Columns of `watermarks`, and the lag of each in seconds; the one that is furthest behind
    first."""
    bridges: list[dict[str, Any]]
    """Columns of `bridges`, likewise."""
    processors: list[dict[str, Any]]
    """Processors that reported lately: columns of `processors`, and the contents of
    `statistics`."""
    guards: list[dict[str, Any]]
    """Columns of `guards`: the groups on hold with the most workers, at most `GUARDS_SHOWN`."""
    guards_total: int
    alerts: list[AlertNumber]
    observation: Observation
    thresholds: Thresholds

    @property
    def workers_by_health(self) -> dict[Health, int]:
        return (
            dict.fromkeys(Health, 0)
            | self.active_by_health
            | {Health.TERMINATED: self.terminated_workers}
        )


PROCESSORS_SHOWN = "interval '5 minutes'"
GROUPS_SHOWN = 100
GUARDS_SHOWN = 100

# Workers choose their groups, and there may be as many as workers: what is read of them is bounded.
# `shown` are the largest groups, and beside them those with the most workers that are not healthy.
GROUP_SIZES = f"""sizes AS (
    SELECT "group", sum(number) AS size,
        coalesce(sum(number) FILTER (WHERE health <> '{Health.HEALTHY}'), 0) AS ill
    FROM workers_counted GROUP BY "group"
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
BRIDGES = """SELECT json_agg(b) FROM (
        SELECT name, observed_through,
            extract(epoch FROM now() - observed_through)::float8 AS lag_seconds
        FROM bridges ORDER BY observed_through NULLS FIRST, name
    ) b"""
GUARDS = f"""SELECT json_agg(g) FROM (
        SELECT group_name AS "group", opened_at AS holding_since, held, group_size, releasing_since
        FROM (
            SELECT * FROM guards ORDER BY held DESC, group_name LIMIT {GUARDS_SHOWN}
        ) most ORDER BY group_name
    ) g"""
ALERTS = """SELECT json_agg(json_build_array(rule, severity, state, number)) FROM (
        SELECT rule, severity, state, count(*) AS number FROM alerts
        WHERE resolved_at IS NULL AND part_of IS NULL GROUP BY rule, severity, state
    ) a"""

# As of the leader's last sweep. An overdue worker within the grace is late only.
LATE = f"""late AS (
    SELECT group_name, count(*) FILTER (WHERE NOT is_overdue) AS late, count(*) FILTER (WHERE
        is_overdue) AS overdue,
        min(last_heartbeat) AS oldest
    FROM (
        SELECT group_name, last_heartbeat,
            silent_after(greatest(last_heartbeat, silence_from), timeout_seconds)
                < {OBSERVED_THROUGH} AS is_overdue
        FROM late_workers, observation_now
    ) l GROUP BY group_name
)"""
BY_COUNTS = f"""{LATE},
of_group AS (
    SELECT group_name, coalesce(sum(number) FILTER (WHERE is_active(status) AND has_beat), 0) AS
        watched,
        coalesce(sum(number) FILTER (WHERE is_active(status) AND NOT has_beat), 0) AS unwatched,
        coalesce(sum(number) FILTER (WHERE status = '{StatusType.LOST}'), 0) AS lost
    FROM kept WHERE entity = '{Entity.WORKER}' GROUP BY group_name
),
judged AS (
    SELECT group_name, unwatched, lost, watched, CASE WHEN {IS_BLIND} THEN watched ELSE 0 END AS
        unseen,
        CASE WHEN {IS_BLIND} THEN 0 ELSE least(coalesce(late, 0), watched) END AS late,
        CASE WHEN {IS_BLIND} THEN 0 ELSE least(coalesce(overdue, 0), watched - least(coalesce(late,
            0), watched)) END
            AS overdue
    FROM of_group LEFT JOIN late USING (group_name)
),
workers_counted AS (
    SELECT group_name AS "group", health, number::bigint AS number
    FROM judged CROSS JOIN LATERAL (VALUES
        ('{Health.HEALTHY}', watched - unseen - late - overdue), ('{Health.LATE}', late),
        ('{Health.UNHEALTHY}', lost + overdue), ('{Health.UNKNOWN}', unwatched + unseen)
    ) of_health (health, number)
    WHERE number > 0
),
oldest AS (SELECT least((SELECT min(oldest) FROM late), oldest_heartbeat) AS at FROM sweeps WHERE id
    = 1)"""
# While nobody sweeps. OFFSET 0: else PostgreSQL expects a group of each worker, and sorts them all.
BY_ROWS = """workers_read AS (
    SELECT "group", health, count(*) AS number, min(last_heartbeat) FILTER (WHERE active) AS oldest
    FROM (
        SELECT coalesce(labels ->> 'group', '') AS "group", last_heartbeat,
            is_active(status) AS active, health
        FROM worker_health WHERE has_not_ended(status) OFFSET 0
    ) w
    GROUP BY "group", health
),
workers_counted AS (SELECT "group", health, number FROM workers_read),
oldest AS (SELECT min(oldest) AS at FROM workers_read)"""


def processors_of_the_last(interval: str) -> str:
    """`interval`: an expression of SQL."""
    return f"""(SELECT json_agg(p.statistics || (to_jsonb(p) - 'statistics') ORDER BY started_at,
        processor_id)
        FROM processors p WHERE last_seen > now() - {interval}) AS processors"""


def fleet_query(columns: str, *, largest: int, worst: int, by_rows: bool = False) -> str:
    """Build the query for the numbers of the fleet and of its largest and worst groups, with
    further columns; all of one moment."""
    return f"""WITH {OBSERVATION},
{KEPT},
{BY_ROWS if by_rows else BY_COUNTS},
{GROUP_SIZES},
shown AS (
    (SELECT "group" FROM sizes ORDER BY size DESC, "group" LIMIT {largest})
    UNION (SELECT "group" FROM sizes WHERE ill > 0 ORDER BY ill DESC, "group" LIMIT {worst})
)
SELECT {OBSERVATION_ITSELF}, {IS_SWEPT} AS is_swept,
    {GROUP_NUMBERS},
    (SELECT extract(epoch FROM as_of - at)::float8 FROM oldest) AS oldest_age,
    (SELECT coalesce(sum(number), 0)::bigint FROM kept WHERE entity = '{Entity.WORKER}' AND
        is_active(status))
        AS active_workers,
    (SELECT coalesce(sum(number), 0)::bigint FROM kept WHERE entity = '{Entity.WORKER}' AND
        is_terminal(status))
        AS terminated_workers,
    (SELECT json_object_agg(status, number) FROM kept WHERE entity = '{Entity.SERVER_INSTANCE}' AND
        number > 0)
        AS servers,
    {UNWATCHED} AS unwatched_workers,
    ({GUARDS}) AS guards, (SELECT count(*) FROM guards) AS guards_total,
    ({ALERTS}) AS alerts,
    {columns}
FROM observed"""


async def read_numbers(connection: Connection, queries: tuple[str, str]) -> asyncpg.Record:
    """Run the first query, which reads the counts, while a leader sweeps; else the second, which
    reads the rows."""
    (row,) = await connection.fetch(queries[0])
    if not row["is_swept"]:
        (row,) = await connection.fetch(queries[1])
    return row


COLUMNS = f"""({QUEUES}) AS queues, ({BRIDGES}) AS bridges,
    {processors_of_the_last(PROCESSORS_SHOWN)},
    (SELECT {AS_JSON} FROM observation) AS thresholds"""
FLEET = (
    fleet_query(COLUMNS, largest=GROUPS_SHOWN, worst=0),
    fleet_query(COLUMNS, largest=GROUPS_SHOWN, worst=0, by_rows=True),
)


async def read_fleet(connection: Connection) -> Fleet:
    row = await read_numbers(connection, FLEET)
    return Fleet(
        active_workers=row["active_workers"],
        active_by_health=row["active_by_health"] or {},
        workers=row["workers"] or [],
        groups_total=row["groups_total"],
        terminated_workers=row["terminated_workers"],
        unwatched_workers=row["unwatched_workers"],
        servers_by_status=dict.fromkeys(StatusType, 0) | (row["servers"] or {}),
        queues=row["queues"] or [],
        bridges=row["bridges"] or [],
        processors=row["processors"] or [],
        guards=row["guards"] or [],
        guards_total=row["guards_total"],
        alerts=row["alerts"] or [],
        observation=observation_of(row),
        thresholds=Thresholds(**row["thresholds"]),
    )
