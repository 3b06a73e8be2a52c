"""SQL of the sweep: who is overdue, and the guards. Seconds unless a name says otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from manman_status.domain.guard import Group, GuardState
from manman_status.domain.sweep import Horizon
from manman_status.store.counting import DRAINS, GROUP, KEPT
from manman_status.store.pool import Connection

HORIZON = """
SELECT observed_through, resumed_at FROM observation
 WHERE id = 1 AND observed_through IS NOT NULL AND resumed_at IS NOT NULL
"""


async def read_horizon(connection: Connection) -> Horizon | None:
    row = await connection.fetchrow(HORIZON)
    return None if row is None else Horizon(*row)


class Overdue(msgspec.Struct, frozen=True):
    worker_id: int
    group: str
    last_heartbeat: datetime
    deadline: datetime


# $1 observed_through, $2 resumed_at.
GRACE = "(SELECT recovery_grace_seconds FROM observation)"
OVERDUE = f"""overdue AS (
    SELECT worker_id, group_name, last_heartbeat, deadline, timeout_seconds, is_draining
      FROM late_workers
     WHERE deadline < $1
       AND silent_after($2::timestamptz, greatest(timeout_seconds, {GRACE})) < $1
)"""


OVERDUE_GROUPS = f"""
WITH {OVERDUE}
SELECT group_name, count(*) AS overdue, count(*) FILTER (WHERE is_draining) AS draining,
       max(timeout_seconds) AS longest_timeout
  FROM overdue
 GROUP BY group_name
"""
# Without those that drain.
SILENT = "SELECT group_name, count(*) FROM late_workers WHERE NOT is_draining GROUP BY group_name"
ALIVE = f"""
WITH {KEPT}
SELECT group_name, sum(number)::bigint FROM kept
 WHERE entity = 'worker' AND is_active(status) AND has_beat AND NOT
     is_draining
   AND group_name = ANY($1::text[])
 GROUP BY group_name
"""
LOST_RECENTLY = f"""
SELECT {GROUP} AS group_name, count(*) FROM workers
 WHERE status = 'LOST' AND reason = 'heartbeat_expired' AND NOT evidence ? 'held_since'
   AND status_since > now() - make_interval(secs => $1) AND NOT {DRAINS}
 GROUP BY group_name
"""


async def count_groups(
    connection: Connection, horizon: Horizon, *, guarded: Iterable[str]
) -> dict[str, Group]:
    """Count the groups with overdue workers, and those `guarded`. No worker is overdue until one
    timeout, at least the grace, was observed since the observation resumed."""
    found = await connection.fetch(OVERDUE_GROUPS, *msgspec.structs.astuple(horizon))
    groups = {
        row["group_name"]: Group(overdue=row["overdue"], draining=row["draining"]) for row in found
    }
    window = max((row["longest_timeout"] for row in found), default=0.0)
    groups |= {name: Group() for name in guarded if name not in groups}
    if not groups:
        return groups
    for name, number in await connection.fetch(ALIVE, list(groups)):
        groups[name].alive = number
    for name, number in await connection.fetch(SILENT):
        if name in groups:
            groups[name].silent = number
    for name, number in await connection.fetch(LOST_RECENTLY, window):
        if name in groups:
            groups[name].lost_recently = number
    return groups


OVERDUE_WORKERS = f"""
WITH {OVERDUE}
SELECT worker_id, group_name, last_heartbeat, deadline
  FROM overdue
 WHERE worker_id > $3 AND group_name <> ALL($4::text[])
 ORDER BY worker_id
 LIMIT $5
"""


async def overdue_workers(
    connection: Connection,
    horizon: Horizon,
    *,
    after: int = 0,
    but_of: Iterable[str] = (),
    limit: int,
) -> list[Overdue]:
    """The overdue workers with ids greater than `after`, by id, except those of the groups
    `but_of`."""
    given = (*msgspec.structs.astuple(horizon), after, list(but_of), limit)
    return [Overdue(*row) for row in await connection.fetch(OVERDUE_WORKERS, *given)]


LONGEST_SILENT = f"""
WITH {OVERDUE}
SELECT worker_id, group_name, last_heartbeat, deadline
  FROM (
        SELECT *, row_number() OVER (PARTITION BY group_name ORDER BY deadline, worker_id) AS place
          FROM overdue
       ) AS placed
  JOIN unnest($3::text[], $4::bigint[]) AS given (group_name, number) USING (group_name)
 WHERE place <= number
 ORDER BY worker_id
"""


async def longest_silent(
    connection: Connection, horizon: Horizon, numbers: Mapping[str, int]
) -> list[Overdue]:
    """The longest silent of the overdue workers, so many of each group, by id."""
    given = (*msgspec.structs.astuple(horizon), list(numbers), list(numbers.values()))
    return [Overdue(*row) for row in await connection.fetch(LONGEST_SILENT, *given)]


ACTIVE_INSTANCES = """
SELECT instance_id FROM server_instances
 WHERE worker_id = ANY($1::bigint[]) AND is_active(status)
 ORDER BY instance_id
 LIMIT $2
"""


async def active_instances(
    connection: Connection, worker_ids: Iterable[int], *, limit: int
) -> list[int]:
    """Ids, ascending. No more can appear while their workers are locked."""
    return [
        row["instance_id"]
        for row in await connection.fetch(ACTIVE_INSTANCES, list(worker_ids), limit)
    ]


GUARDS = """
SELECT group_name, opened_at, held, group_size, releasing_since, released_by_hand_at FROM guards
    ORDER BY group_name
"""


async def read_guards(connection: Connection) -> dict[str, GuardState]:
    return {group: GuardState(*state) for group, *state in await connection.fetch(GUARDS)}


WRITE_GUARDS = """
INSERT INTO guards AS kept (group_name, opened_at, held, group_size, releasing_since)
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::bigint[], $4::bigint[], $5::timestamptz[])
ON CONFLICT (group_name) DO UPDATE
   SET held = excluded.held, group_size = excluded.group_size, releasing_since =
       excluded.releasing_since
"""


async def write_guards(connection: Connection, guards: Mapping[str, GuardState]) -> None:
    """Store these guards, in the order of their names. A release by hand is kept."""
    states = list(guards.values())
    fields = ("holding_since", "held", "group_size", "releasing_since")
    await connection.execute(
        WRITE_GUARDS, list(guards), *([getattr(state, name) for state in states] for name in fields)
    )


DELETE_GUARDS = """
DELETE FROM guards
 WHERE group_name IN (SELECT group_name FROM guards WHERE group_name = ANY($1::text[]) ORDER BY
     group_name FOR UPDATE)
"""


async def delete_guards(connection: Connection, groups: Iterable[str]) -> None:
    await connection.execute(DELETE_GUARDS, list(groups))


RELEASE_GUARD = (
    "UPDATE guards SET released_by_hand_at = now() WHERE group_name = $1 AND released_by_hand_at IS"
    " NULL"
)


async def release_guard(connection: Connection, group: str) -> bool:
    """False when the group is not held."""
    done = await connection.execute(RELEASE_GUARD, group)
    return done.endswith(" 1")


# $1 observed_through, $2 resumed_at.
UNLISTED = f"""
SELECT instance_id, worker_id, silent_after(missing_since, timeout) AS deadline
  FROM (
        SELECT instance_id, worker_id, missing_since,
               timeout_seconds AS timeout,
               CASE WHEN rival_beat_at > rival_since THEN rival_beat_at END AS rival_beat_at
          FROM server_instances JOIN worker_health USING (worker_id)
         WHERE missing_since IS NOT NULL
       ) AS missing
 WHERE silent_after(missing_since, timeout) < $1
   AND coalesce(silent_after(rival_beat_at, timeout) < $1, true)
   AND silent_after($2::timestamptz, greatest(timeout, {GRACE})) < $1
   AND instance_id > $3
 ORDER BY instance_id
 LIMIT $4
"""

# Materialized: else the limit makes the planner look through all active instances in their order.
# What went with a worker that was silent has waited already.
ABANDONED = f"""
WITH abandoned AS MATERIALIZED (
    SELECT instance_id, worker_id
      FROM (
            SELECT instance_id, worker_id, greatest(workers.status_since,
                server_instances.status_since) AS since,
                   timeout_seconds AS timeout
              FROM worker_health workers JOIN server_instances USING (worker_id)
             WHERE is_inactive(workers.status)
               AND is_active(server_instances.status)
           ) AS left_behind
     WHERE silent_after(since, timeout) < $1
       AND silent_after($2::timestamptz, greatest(timeout, {GRACE})) < $1
     UNION ALL
    SELECT instance_id, worker_id
      FROM server_instances JOIN workers USING (worker_id)
     WHERE server_instances.status = 'LOST' AND is_terminal(workers.status)
)
SELECT instance_id, worker_id FROM abandoned WHERE instance_id > $3 ORDER BY instance_id LIMIT $4
"""


async def unlisted_instances(
    connection: Connection, horizon: Horizon, *, after: int, limit: int
) -> list[tuple[int, int, datetime]]:
    """Instance, worker and deadline of those that have been missing from the inventories for one
    timeout, by id and greater than `after`. While two lives of a worker beat, what one does not
    list may run on the other."""
    found = await connection.fetch(UNLISTED, *msgspec.structs.astuple(horizon), after, limit)
    return [(row["instance_id"], row["worker_id"], row["deadline"]) for row in found]


async def abandoned_instances(
    connection: Connection, horizon: Horizon, *, after: int, limit: int
) -> list[tuple[int, int]]:
    """Instance and worker of those still active one timeout after their worker ended or was lost,
    and of those that were lost with a worker that has ended since; likewise."""
    found = await connection.fetch(ABANDONED, *msgspec.structs.astuple(horizon), after, limit)
    return [(row["instance_id"], row["worker_id"]) for row in found]
