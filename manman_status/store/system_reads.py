"""The fleet in numbers."""

# ruff: noqa: S608 - the SQL is put together from constants; what a request says is a parameter, always

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from manman_status.domain.status import Health, StatusType
from manman_status.store.health import HEALTH, IS_ACTIVE, IS_NOT_TERMINAL, IS_TERMINAL, OBSERVATION, Observation
from manman_status.store.reads import observation_of

if TYPE_CHECKING:
    from manman_status.store.health import Timeouts
    from manman_status.store.pool import Connection


class Fleet(msgspec.Struct, frozen=True):
    active_workers: int
    workers_by_health: dict[Health, int]
    servers_by_status: dict[StatusType, int]
    oldest_heartbeat_age_seconds: float | None
    """Of the active workers; None when none of them has ever beaten."""
    processors: list[dict[str, Any]]
    """Those that reported lately: columns of `processors`, and beside them what is in `statistics`."""
    guards: list[dict[str, Any]]
    """Columns of `guards`, `group_name` as `group`."""
    observation: Observation


PROCESSORS_SHOWN = "5 minutes"


FLEET = f"""WITH {OBSERVATION},
workers_counted AS (
    SELECT health, count(*) AS number, count(*) FILTER (WHERE active) AS active,
        min(last_heartbeat) FILTER (WHERE active) AS oldest
    FROM (SELECT last_heartbeat, {IS_ACTIVE} AS active, {HEALTH} AS health FROM workers WHERE {IS_NOT_TERMINAL}) w
    GROUP BY health
    UNION ALL
    SELECT '{Health.TERMINATED}', count(*), 0, NULL FROM workers WHERE {IS_TERMINAL}
),
servers_counted AS (SELECT status, count(*) AS number FROM server_instances GROUP BY status)
SELECT as_of, lag_seconds, revision,
    (SELECT coalesce(sum(active), 0)::bigint FROM workers_counted) AS active_workers,
    (SELECT extract(epoch FROM as_of - min(oldest))::float8 FROM workers_counted) AS oldest_age,
    (SELECT json_object_agg(health, number) FROM workers_counted) AS workers,
    (SELECT json_object_agg(status, number) FROM servers_counted) AS servers,
    (SELECT json_agg(p.statistics || (to_jsonb(p) - 'statistics') ORDER BY started_at, processor_id)
        FROM processors p WHERE last_seen > now() - interval '{PROCESSORS_SHOWN}') AS processors,
    (SELECT json_agg(g) FROM (
        SELECT group_name AS "group", opened_at, held, group_size, releasing_since FROM guards ORDER BY group_name
    ) g) AS guards
FROM observed"""


async def read_fleet(connection: Connection, *, timeouts: Timeouts) -> Fleet:
    """Counts every row, of what has ended in the index alone: the work grows with all that was ever seen, unlike any
    other read's."""
    (row,) = await connection.fetch(FLEET, *timeouts.values)
    return Fleet(
        active_workers=row["active_workers"],
        workers_by_health=dict.fromkeys(Health, 0) | (row["workers"] or {}),
        servers_by_status=dict.fromkeys(StatusType, 0) | (row["servers"] or {}),
        oldest_heartbeat_age_seconds=row["oldest_age"],
        processors=row["processors"] or [],
        guards=row["guards"] or [],
        observation=observation_of(row),
    )
