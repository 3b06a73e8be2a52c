"""SQL of the sweep: who is overdue, and the guards. Seconds unless a name says otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import msgspec

from manman_status.domain.guard import Group, GuardState
from manman_status.domain.labels import NOT_DRAINING
from manman_status.domain.sweep import Horizon
from manman_status.store.pool import Connection

HORIZON = """
SELECT observed_through, resumed_at FROM observation
 WHERE id = 1 AND observed_through IS NOT NULL AND resumed_at IS NOT NULL
"""


async def read_horizon(connection: Connection) -> Horizon | None:
    row = await connection.fetchrow(HORIZON)
    return None if row is None else Horizon(*row)


EARLIEST = """
SELECT min(last_heartbeat + greatest(3 * coalesce(interval_seconds, $1::float8), $2::float8) * interval '1 second')
  FROM workers
 WHERE status IN ('CREATED', 'INITIALIZING', 'RUNNING') AND last_heartbeat IS NOT NULL
"""


async def earliest_deadline(
    connection: Connection, *, default_interval: float, minimum_timeout: float
) -> datetime | None:
    """The one scan of all active workers."""
    earliest: datetime | None = await connection.fetchval(EARLIEST, default_interval, minimum_timeout)
    return earliest


class Overdue(msgspec.Struct, frozen=True):
    worker_id: int
    group: str
    last_heartbeat: datetime
    deadline: datetime
    timeout: float
    is_draining: bool


OVERDUE = """
SELECT worker_id, group_name, last_heartbeat, deadline, timeout, is_draining
  FROM (
        SELECT worker_id, coalesce(labels ->> 'group', '') AS group_name, last_heartbeat, timeout,
               lower(coalesce(labels ->> 'drain', '')) <> ALL($6::text[]) AS is_draining,
               last_heartbeat + timeout * interval '1 second' AS deadline
          FROM (
                SELECT worker_id, labels, last_heartbeat,
                       greatest(3 * coalesce(interval_seconds, $3::float8), $4::float8) AS timeout
                  FROM workers
                 WHERE status IN ('CREATED', 'INITIALIZING', 'RUNNING') AND last_heartbeat IS NOT NULL
               ) AS watched
       ) AS watched
 WHERE deadline < $1
   AND $2::timestamptz + greatest(timeout, $5::float8) * interval '1 second' < $1
 ORDER BY deadline, worker_id
"""


async def overdue_workers(
    connection: Connection, horizon: Horizon, *, default_interval: float, minimum_timeout: float, grace: float
) -> list[Overdue]:
    """Longest silence first. Nobody until one timeout, at least `grace`, was observed since the observation resumed."""
    found = await connection.fetch(
        OVERDUE,
        horizon.observed_through,
        horizon.resumed_at,
        default_interval,
        minimum_timeout,
        grace,
        sorted(NOT_DRAINING),
    )
    return [Overdue(*row) for row in found]


GROUPS = """
SELECT coalesce(labels ->> 'group', '') AS group_name,
       count(*) FILTER (WHERE status <> 'LOST' AND last_heartbeat IS NOT NULL) AS alive,
       count(*) FILTER (WHERE status <> 'LOST'
                          AND last_heartbeat + 1.5 * coalesce(interval_seconds, $2::float8) * interval '1 second' < $3
                       ) AS silent,
       count(*) FILTER (WHERE status = 'LOST' AND reason = 'heartbeat_expired' AND NOT evidence ? 'held_since'
                          AND status_since > now() - make_interval(secs => $1)) AS lost_recently
  FROM workers
 WHERE status IN ('CREATED', 'INITIALIZING', 'RUNNING', 'LOST')
   AND lower(coalesce(labels ->> 'drain', '')) = ANY($4::text[])
 GROUP BY group_name
"""


async def group_counts(
    connection: Connection, horizon: Horizon, *, window: float, default_interval: float
) -> dict[str, Group]:
    """`window` is the timeout within which those that were lost count, but for those that were held before. Without
    those that drain."""
    found = await connection.fetch(GROUPS, window, default_interval, horizon.observed_through, sorted(NOT_DRAINING))
    return {name: Group(*counts) for name, *counts in found}


GUARDS = """
SELECT group_name, opened_at, held, group_size, releasing_since, released_by_hand_at FROM guards ORDER BY group_name
"""


async def read_guards(connection: Connection) -> dict[str, GuardState]:
    return {group: GuardState(*state) for group, *state in await connection.fetch(GUARDS)}


WRITE_GUARD = """
INSERT INTO guards AS kept (group_name, opened_at, held, group_size, releasing_since)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (group_name) DO UPDATE
   SET held = excluded.held, group_size = excluded.group_size, releasing_since = excluded.releasing_since
"""
CLOSE_GUARD = "DELETE FROM guards WHERE group_name = $1"


async def write_guards(connection: Connection, guards: Mapping[str, GuardState | None]) -> None:
    """None closes a group's guard. What a person has asked for is never overwritten."""
    for group, guard in sorted(guards.items()):
        if guard is None:
            await connection.execute(CLOSE_GUARD, group)
        else:
            await connection.execute(
                WRITE_GUARD, group, guard.opened_at, guard.held, guard.group_size, guard.releasing_since
            )


RELEASE_GUARD = "UPDATE guards SET released_by_hand_at = now() WHERE group_name = $1 AND released_by_hand_at IS NULL"


async def release_guard(connection: Connection, group: str) -> bool:
    """False when the group is not held."""
    done = await connection.execute(RELEASE_GUARD, group)
    return done.endswith(" 1")


UNLISTED = """
SELECT instance_id, worker_id, missing_since + timeout * interval '1 second' AS deadline
  FROM (
        SELECT instance_id, worker_id, missing_since,
               greatest(3 * coalesce(interval_seconds, $3::float8), $4::float8) AS timeout,
               CASE WHEN rival_beat_at > rival_since THEN rival_beat_at END AS rival_beat_at
          FROM server_instances JOIN workers USING (worker_id)
         WHERE missing_since IS NOT NULL
       ) AS missing
 WHERE missing_since + timeout * interval '1 second' < $1
   AND coalesce(rival_beat_at + timeout * interval '1 second' < $1, true)
   AND $2::timestamptz + greatest(timeout, $5::float8) * interval '1 second' < $1
"""

ABANDONED = """
SELECT instance_id, worker_id
  FROM (
        SELECT instance_id, worker_id, greatest(workers.status_since, server_instances.status_since) AS since,
               greatest(3 * coalesce(interval_seconds, $3::float8), $4::float8) AS timeout
          FROM workers JOIN server_instances USING (worker_id)
         WHERE workers.status IN ('LOST', 'COMPLETE', 'CRASHED')
           AND server_instances.status IN ('CREATED', 'INITIALIZING', 'RUNNING')
       ) AS abandoned
 WHERE since + timeout * interval '1 second' < $1
   AND $2::timestamptz + greatest(timeout, $5::float8) * interval '1 second' < $1
"""


async def unlisted_instances(
    connection: Connection, horizon: Horizon, *, default_interval: float, minimum_timeout: float, grace: float
) -> list[tuple[int, int, datetime]]:
    """Instance, worker and deadline of those that have been missing from the inventories for one timeout. While two
    lives of a worker beat, what one does not list may run on the other."""
    found = await connection.fetch(
        UNLISTED, horizon.observed_through, horizon.resumed_at, default_interval, minimum_timeout, grace
    )
    return [(row["instance_id"], row["worker_id"], row["deadline"]) for row in found]


async def abandoned_instances(
    connection: Connection, horizon: Horizon, *, default_interval: float, minimum_timeout: float, grace: float
) -> list[tuple[int, int]]:
    """Instance and worker of those still active one timeout after their worker ended or was lost."""
    found = await connection.fetch(
        ABANDONED, horizon.observed_through, horizon.resumed_at, default_interval, minimum_timeout, grace
    )
    return [(row["instance_id"], row["worker_id"]) for row in found]
