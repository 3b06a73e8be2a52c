"""The fleet in numbers."""

# ruff: noqa: S608 - the SQL is put together from constants; what a request says is a parameter, always

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from manman_status.domain.status import Health, StatusType
from manman_status.store.health import HEALTH, IS_ACTIVE, OBSERVATION, OBSERVED_THROUGH, Observation
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
    observation: Observation


FLEET = f"""WITH {OBSERVATION},
workers_counted AS (
    SELECT health, count(*) AS number, count(*) FILTER (WHERE active) AS active,
        min(last_heartbeat) FILTER (WHERE active) AS oldest
    FROM (SELECT last_heartbeat, {IS_ACTIVE} AS active, {HEALTH} AS health FROM workers) w GROUP BY health
),
servers_counted AS (SELECT status, count(*) AS number FROM server_instances GROUP BY status)
SELECT observed_through, lag_seconds, revision,
    (SELECT coalesce(sum(active), 0)::bigint FROM workers_counted) AS active_workers,
    (SELECT extract(epoch FROM {OBSERVED_THROUGH} - min(oldest))::float8 FROM workers_counted) AS oldest_age,
    (SELECT json_object_agg(health, number) FROM workers_counted) AS workers,
    (SELECT json_object_agg(status, number) FROM servers_counted) AS servers
FROM observation"""


async def read_fleet(connection: Connection, *, timeouts: Timeouts) -> Fleet:
    """Counts every row: the work grows with all that was ever seen, unlike any other read's."""
    (row,) = await connection.fetch(FLEET, timeouts.default_interval_seconds, timeouts.minimum_timeout_seconds)
    return Fleet(
        active_workers=row["active_workers"],
        workers_by_health=dict.fromkeys(Health, 0) | (row["workers"] or {}),
        servers_by_status=dict.fromkeys(StatusType, 0) | (row["servers"] or {}),
        oldest_heartbeat_age_seconds=row["oldest_age"],
        observation=observation_of(row),
    )
